"""What a worker is asked for: params and context -> `GenerateRequest`, and the key that picks the worker. Pure."""

import hashlib
from collections.abc import Sequence
from typing import Final

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import item_pb2, response_pb2

_ROUTING_HEAD_BYTES: Final = 4096
"""So much of a prompt decides which worker gets it, when nothing else does."""

_VERBOSITY_HINTS: Final = {
    response_pb2.VERBOSITY_LOW: "Answer as briefly as you can.",
    response_pb2.VERBOSITY_HIGH: "Answer thoroughly and in detail.",
}
"""Models have no such setting: they are told. Medium is how a model answers by itself."""


def generate_request(
    params: response_pb2.ResponseParams, items: Sequence[item_pb2.Item], *, request_id: str, cache_salt: str
) -> pb.GenerateRequest:
    """The generation that ``params``, with their defaults, ask for.

    Args:
        items: The whole conversation, without references and compactions.
        request_id: For logs.
        cache_salt: Requests with different salts share no KV cache.
    """
    request = pb.GenerateRequest(
        request_id=request_id,
        model=params.model,
        items=items,
        tools=params.tools,
        tool_choice=params.tool_choice,
        parallel_tool_calls=params.parallel_tool_calls,
        text=response_pb2.TextConfig(format=params.text.format),
        sampling=pb.SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
        ),
        truncation=params.truncation,
        service_tier=params.service_tier,
        cache_salt=cache_salt,
    )
    hint = _VERBOSITY_HINTS.get(params.text.verbosity)
    if params.HasField("instructions") or hint:
        request.instructions = "\n\n".join(filter(None, (params.instructions, hint)))
    if params.HasField("max_output_tokens"):
        request.max_output_tokens = params.max_output_tokens
    if params.HasField("max_tool_calls"):
        request.max_tool_calls = params.max_tool_calls
    if params.HasField("reasoning"):
        request.reasoning.CopyFrom(params.reasoning)
    if response_pb2.INCLUDE_MESSAGE_OUTPUT_TEXT_LOGPROBS in params.include or params.top_logprobs:
        request.top_logprobs = params.top_logprobs
    return request


def routing_key(params: response_pb2.ResponseParams, chain: str | None) -> str:
    """Requests with equal keys should meet on one worker, as their prompts begin alike.

    Args:
        chain: What all responses of the chain that is continued share; None for a first response.
    """
    return params.prompt_cache_key or chain or _head(params)


def _head(params: response_pb2.ResponseParams) -> str:
    """Equal for requests whose prompts begin alike: their instructions, tools and first item."""
    head = response_pb2.ResponseParams(tools=params.tools, input=params.input[:1])
    if params.HasField("instructions"):
        head.instructions = params.instructions
    return hashlib.blake2b(head.SerializeToString(deterministic=True)[:_ROUTING_HEAD_BYTES]).hexdigest()
