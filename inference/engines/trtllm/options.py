"""What a settings file of the engine, in TOML, may say; unknown names are refused.

Names are those of TensorRT-LLM where it has one; what is left out is TensorRT-LLM's to decide.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

_Positive = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0)]
_Share = Annotated[float, Meta(gt=0, lt=1)]


class KvCache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``KvCacheConfig``. Sizes are in bytes where the name says so, else in tokens."""

    enable_block_reuse: bool = True
    """False for hybrid models with Mamba layers; then no prompt token ever comes from the cache."""
    enable_partial_reuse: bool | UnsetType = UNSET
    copy_on_partial_reuse: bool | UnsetType = UNSET
    free_gpu_memory_fraction: _Share = 0.9
    """Of what the weights leave of the GPU's memory."""
    max_gpu_total_bytes: _Positive | UnsetType = UNSET
    max_tokens: _Positive | UnsetType = UNSET
    host_cache_size: _Positive | UnsetType = UNSET
    """Bytes of the host's memory to move blocks to before they are dropped."""
    onboard_blocks: bool | UnsetType = UNSET
    secondary_offload_min_priority: int | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    """``auto`` or ``fp8``."""
    mamba_ssm_cache_dtype: str | UnsetType = UNSET
    tokens_per_block: _Positive | UnsetType = UNSET
    max_attention_window: list[int] | UnsetType = UNSET
    sink_token_length: int | UnsetType = UNSET
    use_uvm: bool | UnsetType = UNSET


class Scheduler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``SchedulerConfig``."""

    capacity_scheduler_policy: Literal["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"] = "GUARANTEED_NO_EVICT"
    """The first reserves KV cache for all of ``max_output_tokens`` before a generation begins; the second may pause
    generations and compute them again."""
    context_chunking_policy: Literal["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"] | UnsetType = UNSET


class CudaGraph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``CudaGraphConfig``; without ``batch_sizes``, its ``max_batch_size`` is the number of generations at once."""

    enabled: bool = True
    enable_padding: bool = True
    batch_sizes: Annotated[list[_Positive], Meta(min_length=1)] | UnsetType = UNSET


class NGram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="ngram"):
    """Drafts what followed the same tokens before."""

    max_draft_len: _Positive
    max_matching_ngram_size: _Positive
    is_keep_all: bool | UnsetType = UNSET
    is_use_oldest: bool | UnsetType = UNSET
    is_public_pool: bool = False
    """One pool for all generations would let one tenant's text speed up, and so show, in another's."""


class DraftTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="draft_target"):
    """Drafts with a smaller model."""

    max_draft_len: _Positive
    speculative_model_dir: str


class Eagle3(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="eagle3"):
    """Drafts with an EAGLE-3 head."""

    max_draft_len: _Positive
    speculative_model_dir: str
    eagle3_one_model: bool | UnsetType = UNSET


class Mtp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="mtp"):
    """Drafts with the model's own layers for several tokens at once."""

    num_nextn_predict_layers: _Positive | UnsetType = UNSET
    use_relaxed_acceptance_for_thinking: bool | UnsetType = UNSET
    relaxed_topk: _Positive | UnsetType = UNSET
    relaxed_delta: float | UnsetType = UNSET


Speculation: TypeAlias = NGram | DraftTarget | Eagle3 | Mtp


class Images(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model sees."""

    tokens_per_image: _Positive
    """The most tokens that an image of up to 2048 pixels a side takes, with those around it. The library tells how many
    they are only when a generation has begun: until then so many are counted, and a prompt that has more fails."""
    placeholder: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    """What stands for an image in a prompt: control tokens. Left out: what the model's chat template writes for one."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    tensor_parallel_size: _Positive = 1
    pipeline_parallel_size: _Positive = 1
    moe_expert_parallel_size: _Positive | UnsetType = UNSET
    enable_attention_dp: bool | UnsetType = UNSET
    gpus_per_node: _Positive | UnsetType = UNSET
    dtype: str = "auto"
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    max_num_tokens: _Positive = 8192
    """Tokens of all generations together in one step: longer prompts are prefilled in chunks."""
    enable_chunked_prefill: bool = True
    """False: prompts longer than ``max_num_tokens`` fail."""
    stream_interval: _Positive = 1
    """Tokens between two steps of a generation."""
    sampler_type: Literal["auto", "TorchSampler"] = "auto"
    attn_backend: str | UnsetType = UNSET
    moe_backend: str | UnsetType = UNSET
    """``MoeConfig.backend``."""
    disable_overlap_scheduler: bool | UnsetType = UNSET
    guided_decoding_backend: Literal["xgrammar", "none"] = "xgrammar"
    """What holds output to grammars. ``none``: requests that need it are refused. TensorRT-LLM's other backend,
    llguidance, reads grammars of another language than ours."""
    max_grammar_chars: _Positive = 100_000
    """Larger grammars are refused: compiling one holds up every generation."""
    kv_cache: KvCache = KvCache()
    scheduler: Scheduler = Scheduler()
    cuda_graph: CudaGraph = CudaGraph()
    speculation: Speculation | None = None
    images: Images | None = None
    """None: the model sees none, or is not to."""

    abort_mode: Literal["engine", "after_first_token", "off"] = "after_first_token"
    """When a generation that nobody waits for is aborted: at once; once its prefill is over, since aborts in the middle
    of one have crashed the engine; or never, so that it runs to its ``max_output_tokens``."""
    abort_timeout_s: _Seconds = 60
    """An aborted generation that has not ended by then: the engine is given up."""
    progress_timeout_s: _Seconds = 120
    """No token of any generation for so long while there are some: the engine is given up."""
    idle_check_interval_s: _Seconds = 30
    """An idle engine generates one token this often."""
    shutdown_timeout_s: Annotated[float, Meta(gt=0, le=25)] = 20
    """How long the engine may take to stop; it can wait for ever for processes that are gone."""

    def __post_init__(self) -> None:
        if isinstance(self.speculation, Eagle3) and self.guided_decoding_backend != "none":
            raise ValueError(
                "speculation of type eagle3 with guided decoding crashes some versions and is not proven on this one:"
                ' set guided_decoding_backend = "none"'
            )


def read_options(path: Path | None) -> Options:
    """What the file says; the defaults without one.

    Raises:
        ValueError: the file cannot be read, or says something that it may not; names the file and the place.
    """
    if path is None:
        return Options()
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Options)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ValueError(f"{path}: {error}") from error
