"""Summaries of thoughts: written by the model itself, in a short generation of its own."""

from typing import Final, NamedTuple

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import content_pb2, item_pb2
from antiphon.responses.v1.response_pb2 import ReasoningSummary


class _Length(NamedTuple):
    words: str
    max_tokens: int


_LENGTHS: Final = {
    ReasoningSummary.REASONING_SUMMARY_CONCISE: _Length("one sentence", 96),
    ReasoningSummary.REASONING_SUMMARY_AUTO: _Length("two or three sentences", 192),
    ReasoningSummary.REASONING_SUMMARY_DETAILED: _Length("one paragraph", 512),
}


def summary_request(request: pb.GenerateRequest, reasoning: str) -> pb.GenerateRequest:
    """The generation of a summary of ``reasoning``, which came of ``request``.

    The thoughts are all that it sees: a summary must not tell what is not in them.
    """
    length = _LENGTHS[request.reasoning.summary]
    text = content_pb2.ContentPart(input_text=content_pb2.InputText(text=reasoning))
    return pb.GenerateRequest(
        request_id=f"{request.request_id}-summary",
        instructions=(
            f"The user sends you what an assistant thought before it answered. Sum it up in {length.words}, in the"
            " first person and in its own language. Add nothing, and answer no question in it."
        ),
        items=[item_pb2.Item(message=item_pb2.Message(role=item_pb2.ROLE_USER, content=[text]))],
        sampling=pb.SamplingParams(temperature=0.0),
        max_output_tokens=length.max_tokens,
        without_reasoning=True,
        cache_salt=request.cache_salt,
    )
