"""Settings of the worker, read once from the environment."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from antiphon.tls import TlsFiles, is_local
from inference.tools import native

PREFIX = "INFERENCE_"

_Seconds = Annotated[float, Meta(gt=0)]
_Positive = Annotated[int, Meta(ge=1)]


class InferenceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Every field is read from ``INFERENCE_<NAME>``.

    ========================= ================== =================================================================
    variable                  default            meaning
    ========================= ================== =================================================================
    LISTEN                    127.0.0.1:50061    host:port (0: any free port) or unix:PATH
    ENGINE                    llamacpp           llamacpp, trtllm or scripted
    ENGINE_SETTINGS           (none)             path of a TOML file with more settings; only for trtllm
    MODEL_PATH                (empty)            the model's file for llamacpp, its folder for trtllm
    PROJECTOR_PATH            (none)             the file with a vision model's eyes (mmproj); only for llamacpp
    MODEL_NAME                default            the name that requests use
    CHAT_TEMPLATE             (the model's own)  path of a Jinja chat template
    THINKING_MARKS            auto               auto, none, or what is around the model's thoughts: "<think> </think>"
    TOOL_FORMAT               auto               auto, or how the model writes calls, such as hermes (docs/models.md)
    CONTEXT_WINDOW            8192               tokens of prompt and output together, per generation
    DEFAULT_MAX_OUTPUT_TOKENS 0                  for requests that set none; 0: what the context window leaves
    PARALLEL                  4                  generations at once
    THREADS                   half the cores     threads of the engine
    GPUS                      0                  GPUs for this worker alone; 0: all that CUDA shows, shared
    GPU_LOCKS                 (empty)            folder that settles which are whose, shared by the machine's workers
    GPU_WAIT_S                120                how long to wait for GPUs that are taken
    MIN_P                     0.05 (trtllm: 0)   leave out tokens less likely than this share of the likeliest; 0: none
    END_BIAS                  0                  added to the logits of the tokens that end the turn; 0: none
    MAX_WAITING               256                generations that wait for their turn, or are being prepared
    MAX_REQUEST_BYTES         67108864           largest request, put together from its chunks
    HEARTBEAT_MS              1000               longest silence on an Attach stream
    STALL_TIMEOUT_S           30                 an Attach peer that takes nothing for this long is cut off
    DRAIN_TIMEOUT_S           30                 how long running generations may go on after SIGTERM
    TLS_CERT, TLS_KEY         (none)             PEM files: certificate with its chain, and key; then it serves by TLS
    TLS_CA                    (none)             PEM file of authorities that must have signed callers' certificates
    ALLOW_PLAINTEXT           false              serve other machines without TLS
    LOG_LEVEL                 info               debug, info, warning or error
    ========================= ================== =================================================================
    """

    listen: Annotated[str, Meta(pattern=r"^(unix:.+|[^/]+:[0-9]{1,5})$")] = "127.0.0.1:50061"
    """``host:port`` (port 0: any free one, named in the log) or ``unix:PATH``."""
    engine: Literal["llamacpp", "trtllm", "scripted"] = "llamacpp"
    """Which engine runs the model."""
    engine_settings: str = ""
    """Path of a TOML file with more settings, as ``inference.engines.trtllm.options`` has them."""
    model_path: str = ""
    """The model's GGUF file, or its Hugging Face folder for trtllm."""
    projector_path: str = ""
    """The file with a vision model's eyes, llama.cpp's ``mmproj``; empty: the model sees no images."""
    model_name: Annotated[str, Meta(min_length=1)] = "default"
    """The name that requests use."""
    chat_template: str = ""
    """Path of a Jinja chat template to use in place of the model's own."""
    thinking_marks: Annotated[str, Meta(pattern=r"^(auto|none|\S+ \S+)$")] = "auto"
    """What is around the model's thoughts in its output, with a space between: ``<think> </think>``. auto: as its chat
    template and vocabulary say; none: nothing."""
    tool_format: Annotated[str, Meta(pattern=r"^[a-z0-9_]+$")] = "auto"
    """How the model writes calls: the name of one of ``inference.tools.native.FORMATS``. auto: as its chat template
    renders them."""
    context_window: Annotated[int, Meta(ge=16)] = 8192
    """Tokens of prompt and output together, per generation."""
    default_max_output_tokens: Annotated[int, Meta(ge=0)] = 0
    """What requests without ``max_output_tokens`` are limited to; 0: whatever the context window leaves. An engine that
    reserves KV cache for a whole generation before it begins, as TensorRT-LLM does by default, runs few at once
    without it."""
    parallel: _Positive = 4
    """Generations at once."""
    threads: Annotated[int, Meta(ge=0)] = 0
    """Threads of the engine; 0: half the cores, at least one."""
    gpus: Annotated[int, Meta(ge=0)] = 0
    """GPUs to take for this worker alone, as many as its model is spread over; 0: all that CUDA shows, shared."""
    gpu_locks: str = ""
    """Folder with the locks that settle which GPUs are whose, shared by all workers of the machine."""
    gpu_wait_s: _Seconds = 120
    """How long to wait at the start for GPUs that are taken."""
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """Tokens with less than this share of the likeliest one's probability are never sampled. The API has no such
    parameter and its default temperature is 1, at which small models talk nonsense, or without end, for want of it.
    0 for trtllm, which has no such thing."""
    end_bias: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Makes free text end sooner: the odds of a token that ends the turn are multiplied by e to this power at every
    place, and at temperature 0 it wins where it is behind by less. For models so small that they sometimes miss their
    end and ramble on to the end of the context window. Of 48 answers of SmolLM2-135M 3 were longer than 350 tokens
    without it, and none with 2. It leaves alone what a grammar rules (JSON, calls), and log probabilities are those
    without it, like those without temperature. An engine that has no logit bias refuses to start with it."""
    max_waiting: Annotated[int, Meta(ge=0)] = 256
    """Generations that wait for their turn, or are being prepared; beyond, OVERLOADED. The last eighth is for
    other owners than the one who has the rest."""
    max_request_bytes: _Positive = 64 * 1024 * 1024
    """Largest serialized request, put together from its chunks."""
    heartbeat_ms: Annotated[int, Meta(ge=10)] = 1000
    """Longest silence of this worker on an Attach stream, in milliseconds."""
    stall_timeout_s: _Seconds = 30
    """An Attach peer that takes nothing for this long loses its stream and the generations on it."""
    drain_timeout_s: _Seconds = 30
    """How long running generations may go on after SIGTERM."""
    tls_cert: str = ""
    """PEM file of this worker's certificate, with its chain. A renewed file takes effect at the next connection."""
    tls_key: str = ""
    """PEM file of its private key."""
    tls_ca: str = ""
    """PEM file of authorities: callers must show a certificate of one of them (mTLS)."""
    allow_plaintext: bool = False
    """Serve other machines without TLS, on a network that nobody else is on."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""

    @property
    def tls(self) -> TlsFiles:
        """What it serves by TLS with."""
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)


def read_settings(environ: Mapping[str, str]) -> InferenceSettings:
    """The settings in ``environ``.

    Raises:
        ValueError: a variable is wrong or unknown; the message names it.
    """
    names = {PREFIX + field.upper(): field for field in InferenceSettings.__struct_fields__}
    values: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in names:
            raise ValueError(f"{variable}: no such setting; known are {', '.join(sorted(names))}")
        values[names[variable]] = value
    for field, value in values.items():  # one by one, so that the message can name the variable
        try:
            msgspec.convert({field: value}, InferenceSettings, strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).rsplit(" - at ", 1)[0]
            raise ValueError(f"{PREFIX}{field.upper()}: {reason} (it is {value!r})") from None
    settings = msgspec.convert(values, InferenceSettings, strict=False)
    settings.tls.check(f"{PREFIX}TLS")
    if settings.tls_ca and not settings.tls_cert:
        raise ValueError(f"{PREFIX}TLS_CA: client certificates need {PREFIX}TLS_CERT")
    if not (settings.tls_cert or settings.allow_plaintext or is_local(settings.listen)):
        raise ValueError(
            f"{PREFIX}LISTEN: {settings.listen} can be reached from other machines, and prompts would go there"
            f" unencrypted. Give a certificate (docs/tls.md), or allow it with {PREFIX}ALLOW_PLAINTEXT=true."
        )
    if settings.tool_format != native.AUTO:
        try:
            native.find_format(settings.tool_format)
        except ValueError as error:
            raise ValueError(f"{PREFIX}TOOL_FORMAT: {error}") from None
    if settings.engine == "llamacpp" and not settings.model_path:
        raise ValueError(f"{PREFIX}MODEL_PATH: the llamacpp engine needs the path of a GGUF file")
    if settings.engine != "llamacpp" and settings.projector_path:
        raise ValueError(f"{PREFIX}PROJECTOR_PATH: the {settings.engine} engine has no use for a projector")
    if settings.engine != "trtllm" and settings.engine_settings:
        raise ValueError(f"{PREFIX}ENGINE_SETTINGS: the {settings.engine} engine has no settings file")
    if settings.gpus and not settings.gpu_locks:
        raise ValueError(f"{PREFIX}GPU_LOCKS: to take GPUs needs a folder that all workers of the machine share")
    if settings.gpus and "CUDA_VISIBLE_DEVICES" in environ:
        raise ValueError(f"{PREFIX}GPUS: CUDA_VISIBLE_DEVICES has chosen the GPUs already")
    return _for_trtllm(settings, values) if settings.engine == "trtllm" else settings


def _for_trtllm(settings: InferenceSettings, given: Mapping[str, str]) -> InferenceSettings:
    if not settings.model_path:
        raise ValueError(f"{PREFIX}MODEL_PATH: the trtllm engine needs the path of a Hugging Face model folder")
    if "threads" in given:
        raise ValueError(f"{PREFIX}THREADS: the trtllm engine has no threads of its own to set")
    if "min_p" in given and settings.min_p != 0:
        raise ValueError(f"{PREFIX}MIN_P: the trtllm engine has no min_p, only 0 is possible")
    return msgspec.structs.replace(settings, min_p=0.0)
