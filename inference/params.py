"""What a request asks of model and engine: checked against what they can do, and turned into sampling params."""

from collections.abc import Callable
from dataclasses import dataclass

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2, tool_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference.engines.base import EngineInfo, SamplingParams

MAX_STOP_SEQUENCES = 16
MAX_STOP_CHARACTERS = 256
MAX_TOP_LOGPROBS = 20
MAX_REQUEST_ID_CHARACTERS = 128
MAX_OWNER_CHARACTERS = 2048
"""As long as a SPIFFE ID, which a certificate may name as the owner."""

_VERBOSITIES = (response_pb2.Verbosity.VERBOSITY_UNSPECIFIED, response_pb2.Verbosity.VERBOSITY_MEDIUM)

_UNSUPPORTED: dict[str, Callable[[pb.GenerateRequest], bool]] = {
    "text.verbosity": lambda request: request.text.verbosity not in _VERBOSITIES,
}
"""Parameters, and whether a request uses more of them than this worker can do."""

_NEED_GRAMMAR: dict[str, Callable[[pb.GenerateRequest], bool]] = {
    "text.format": lambda request: request.text.format.WhichOneof("format") not in (None, "text"),
    "tool_choice": lambda request: (
        request.tool_choice.WhichOneof("choice") not in (None, "mode")
        or request.tool_choice.mode == tool_pb2.TOOL_CHOICE_MODE_REQUIRED
    ),
    "parallel_tool_calls": lambda request: (
        bool(request.tools) and request.HasField("parallel_tool_calls") and not request.parallel_tool_calls
    ),
    "max_tool_calls": lambda request: bool(request.tools) and request.HasField("max_tool_calls"),
}
"""Parameters that only a grammar can hold the model to, and whether a request uses them so."""

_DECIMAL_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """How many tokens a generation may have in all, and what it is to meet that limit."""

    max_tokens: int
    stop_reason: pb.StopReason.ValueType


def check_request(request: pb.GenerateRequest, info: EngineInfo, model: str) -> None:
    """Check all of ``request`` but its items, before anything is spent on it.

    Raises:
        ApiError: with the field's name in the API as ``param``.
    """
    if len(request.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise _too_long("request_id", MAX_REQUEST_ID_CHARACTERS)
    if len(request.owner) > MAX_OWNER_CHARACTERS:
        raise _too_long("owner", MAX_OWNER_CHARACTERS)
    if request.model and request.model != model:
        raise ApiError(
            ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
            f"The requested model '{request.model[:128]}' does not exist.",
            "model",
        )
    for param, is_used in _UNSUPPORTED.items():
        if is_used(request):
            raise _unsupported(param)
    for param, is_used in _NEED_GRAMMAR.items():
        if not info.capabilities.grammar and is_used(request):
            raise _unsupported(param)
    _check_sampling(request, info)
    if request.HasField("max_output_tokens") and request.max_output_tokens < 1:
        raise _below("max_output_tokens", 1)
    if request.HasField("max_tool_calls") and request.max_tool_calls < 1:
        raise _below("max_tool_calls", 1)
    if len(request.stop) > MAX_STOP_SEQUENCES:
        raise ApiError(
            ErrorReason.ERROR_REASON_ARRAY_ABOVE_MAX_LENGTH,
            f"Expected at most {MAX_STOP_SEQUENCES} stop sequences, but got {len(request.stop)}.",
            "stop",
        )
    for index, sequence in enumerate(request.stop):
        if not sequence:
            raise ApiError(
                ErrorReason.ERROR_REASON_STRING_BELOW_MIN_LENGTH, "Expected a non-empty string.", f"stop[{index}]"
            )
        if len(sequence) > MAX_STOP_CHARACTERS:
            raise _too_long(f"stop[{index}]", MAX_STOP_CHARACTERS)


def token_limit(request: pb.GenerateRequest, *, input_tokens: int, context_window: int, default: int = 0) -> TokenLimit:
    """The smaller of what the request allows and what the context window leaves, which is at least one token.

    Args:
        default: What a request allows that does not say; 0: whatever the context window leaves.
    """
    room = context_window - input_tokens
    assert room >= 1
    allowed = request.max_output_tokens if request.HasField("max_output_tokens") else default
    if 0 < allowed <= room:
        return TokenLimit(allowed, pb.StopReason.STOP_REASON_MAX_OUTPUT_TOKENS)
    return TokenLimit(room, pb.StopReason.STOP_REASON_CONTEXT_WINDOW)


def sampling_params(
    request: pb.GenerateRequest, *, max_tokens: int, min_p: float, end_bias: float, grammar: str | None = None
) -> SamplingParams:
    """The params of a checked request, with the contract's defaults filled in. A grammar says itself where to end."""
    given = request.sampling
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=given.temperature if given.HasField("temperature") else 1.0,
        top_p=given.top_p if given.HasField("top_p") else 1.0,
        min_p=min_p,
        end_bias=end_bias if grammar is None else 0.0,
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        seed=given.seed if given.HasField("seed") else None,
        top_logprobs=request.top_logprobs if request.HasField("top_logprobs") else None,
        grammar=grammar,
        cache_salt=request.cache_salt,
    )


def _check_sampling(request: pb.GenerateRequest, info: EngineInfo) -> None:
    given, capabilities = request.sampling, info.capabilities
    for param, (lowest, highest) in _DECIMAL_RANGES.items():
        if not given.HasField(param):  # type: ignore[arg-type]  # the stub wants literals
            continue
        value = getattr(given, param)
        if not value >= lowest:  # not a number fails here
            raise ApiError(
                ErrorReason.ERROR_REASON_DECIMAL_BELOW_MIN_VALUE,
                f"Expected a value of at least {lowest}, but got {value} instead.",
                param,
            )
        if value > highest:
            raise ApiError(
                ErrorReason.ERROR_REASON_DECIMAL_ABOVE_MAX_VALUE,
                f"Expected a value of at most {highest}, but got {value} instead.",
                param,
            )
    if not capabilities.penalties:
        for param in ("presence_penalty", "frequency_penalty"):
            if getattr(given, param) != 0:
                raise _unsupported(param)
    if given.HasField("seed") and not capabilities.seed:
        raise _unsupported("seed")
    if request.HasField("top_logprobs"):
        if request.top_logprobs > MAX_TOP_LOGPROBS:
            raise ApiError(
                ErrorReason.ERROR_REASON_INTEGER_ABOVE_MAX_VALUE,
                f"Expected a value of at most {MAX_TOP_LOGPROBS}, but got {request.top_logprobs} instead.",
                "top_logprobs",
            )
        if capabilities.max_top_logprobs == 0:
            raise _unsupported("top_logprobs")
        if request.top_logprobs > capabilities.max_top_logprobs:
            raise ApiError(
                ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE,
                f"This model gives at most {capabilities.max_top_logprobs} log probabilities per token.",
                "top_logprobs",
            )


def _unsupported(param: str) -> ApiError:
    return ApiError(
        ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER,
        f"Unsupported parameter: '{param}' is not supported with this model.",
        param,
    )


def _below(param: str, lowest: int) -> ApiError:
    return ApiError(
        ErrorReason.ERROR_REASON_INTEGER_BELOW_MIN_VALUE, f"Expected a value of at least {lowest}, but got 0.", param
    )


def _too_long(param: str, longest: int) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_STRING_ABOVE_MAX_LENGTH, f"Expected at most {longest} characters.", param)
