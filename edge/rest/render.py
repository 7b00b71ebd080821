"""Events to JSON text, once for every transport; the hot path of the edge.

A transport gives what goes around the JSON of each event, so that SSE's lines cost no second pass over the text.
"""

import secrets
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Final

import msgspec

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2
from edge import codec
from edge.codec.content import encode_logprobs
from edge.events import Delta, Event, Part, Snapshot

_PADDING_STEP: Final = 16
"""A delta's text and its obfuscation have a multiple of this many characters together."""
_PADDING: Final = secrets.token_urlsafe(4096)
_PADDING_STARTS: Final = len(_PADDING) - _PADDING_STEP

_DELTA_TYPES: Final = {
    pb.PART_KIND_TEXT: "response.output_text.delta",
    pb.PART_KIND_REFUSAL: "response.refusal.delta",
    pb.PART_KIND_REASONING: "response.reasoning.delta",
    pb.PART_KIND_REASONING_SUMMARY: "response.reasoning_summary_text.delta",
    pb.PART_KIND_FUNCTION_CALL: "response.function_call_arguments.delta",
}


def _nothing(event_type: str) -> str:
    return ""


class EventRenderer:
    """Renders the events of one stream; remembers what follows an event like the last one.

    Args:
        is_obfuscated: Pad deltas, so that the sizes on the wire do not tell the lengths of tokens.
        head: What comes before the JSON of an event of a type.
        tail: What comes after it.
        created_extra: Members that the `created` event has besides the API's: for transports without headers.
    """

    def __init__(
        self,
        *,
        is_obfuscated: bool,
        head: Callable[[str], str] = _nothing,
        tail: str = "",
        created_extra: dict[str, str] | None = None,
    ) -> None:
        self._is_obfuscated = is_obfuscated
        self._head = head
        self._tail = tail
        self._end = f"}}{tail}"
        self._created_end = self._end
        if created_extra:
            self._created_end = f",{msgspec.json.encode(created_extra).decode()[1:]}{tail}"
        self._part: Part | None = None
        self._part_head = self._part_middle = self._part_end = ""
        self._is_padded = False
        self._response: response_pb2.Response | None = None
        self._response_json = b""
        self._params_json: bytes | None = None

    def render(self, event: Event) -> bytes:
        """``event`` as JSON on one line, within the transport's head and tail."""
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, Snapshot):
            return self._snapshot(event)
        return b"%b%b%b" % (self._head(codec.event_type(event)).encode(), codec.event_json(event), self._tail.encode())

    def _delta(self, event: Delta) -> bytes:
        part = event.part
        if part is not self._part and part != self._part:
            self._open(part)
        text, end = event.text, self._part_end
        if event.logprobs and part.kind == pb.PART_KIND_TEXT:
            logprobs = msgspec.json.encode(encode_logprobs(event.logprobs)).decode()
            end = f',"logprobs":{logprobs}{self._end}'
        if self._is_padded:
            start = event.sequence_number * 37 % _PADDING_STARTS
            padding = _PADDING[start : start + _PADDING_STEP - len(text) % _PADDING_STEP]
            end = f',"obfuscation":"{padding}"{end}'
        return f"{self._part_head}{event.sequence_number}{self._part_middle}{encode_basestring(text)}{end}".encode()

    def _open(self, part: Part) -> None:
        event_type = _DELTA_TYPES[part.kind]
        self._part = part
        self._part_head = f'{self._head(event_type)}{{"type":"{event_type}","sequence_number":'
        middle = f',"item_id":"{part.item_id}","output_index":{part.output_index}'
        if part.kind == pb.PART_KIND_REASONING_SUMMARY:
            middle += f',"summary_index":{part.part_index}'
        elif part.kind != pb.PART_KIND_FUNCTION_CALL:
            middle += f',"content_index":{part.part_index}'
        self._part_middle = middle + ',"delta":'
        self._part_end = f',"logprobs":[]{self._end}' if part.kind == pb.PART_KIND_TEXT else self._end
        self._is_padded = self._is_obfuscated and part.kind != pb.PART_KIND_REFUSAL

    def _snapshot(self, event: Snapshot) -> bytes:
        if event.response is not self._response:
            self._response = event.response
            if self._params_json is None:
                self._params_json = codec.params_json(event.response.params)
            self._response_json = codec.response_json(event.response, self._params_json)
        event_type = f"response.{event.name}"
        start = f'{self._head(event_type)}{{"type":"{event_type}","sequence_number":{event.sequence_number}'
        end = self._created_end if event.name == "created" else self._end
        return b'%b,"response":%b%b' % (start.encode(), self._response_json, end.encode())
