"""What a worker is asked for: params and context -> `GenerateRequest`, and the key that picks the worker."""

import hashlib
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import item_pb2, response_pb2, tool_pb2

current_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""Of the call that is being served, as it came; the doors set it."""

_ROUTING_HEAD_BYTES: Final = 4096
_ROUTING_HEAD_ITEMS: Final = 8
"""So many items, and of each so many bytes, decide at most which worker gets a request."""

_VERBOSITY_HINTS: Final = {
    response_pb2.VERBOSITY_LOW: "Answer as briefly as you can.",
    response_pb2.VERBOSITY_HIGH: "Answer thoroughly and in detail.",
}
"""Models have no such setting: they are told. Medium is how a model answers by itself."""


def generate_request(
    params: response_pb2.ResponseParams,
    items: Sequence[item_pb2.Item],
    *,
    request_id: str,
    owner: str,
    tools: Sequence[tool_pb2.Tool] | None = None,
) -> pb.GenerateRequest:
    """The generation that ``params``, with their defaults, ask for.

    Args:
        items: The whole conversation, without references and compactions.
        request_id: For logs.
        owner: Whom it is for; requests of different owners share no KV cache.
        tools: As the client gave them: only of those that it calls strict must a schema be one that can be enforced.
    """
    request = pb.GenerateRequest(
        request_id=request_id,
        model=params.model,
        items=items,
        tools=params.tools if tools is None else tools,
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
        cache_salt=owner,
        owner=owner,
        traceparent=current_traceparent.get() or "",
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


def routing_key(params: response_pb2.ResponseParams, items: Sequence[item_pb2.Item]) -> str:
    """Requests with equal keys should meet on one worker, as their prompts begin alike.

    All turns of a conversation have one key, whether it is continued by id or sent anew each time: that of its
    instructions, its tools and its items up to the first of a user.

    Args:
        items: The whole conversation.
    """
    if params.prompt_cache_key:
        return params.prompt_cache_key
    head = response_pb2.ResponseParams(tools=params.tools)
    if params.HasField("instructions"):
        head.instructions = params.instructions
    digest = hashlib.blake2b(head.SerializeToString(deterministic=True)[:_ROUTING_HEAD_BYTES], digest_size=16)
    for item in items[:_ROUTING_HEAD_ITEMS]:
        kind = item.WhichOneof("kind")
        assert kind is not None, "validate refuses an item that is of no kind"
        digest.update(getattr(item, kind).SerializeToString(deterministic=True)[:_ROUTING_HEAD_BYTES])
        if item.message.role == item_pb2.ROLE_USER:
            break
    return digest.hexdigest()
