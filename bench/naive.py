"""``python -m bench.naive PORT WORKER``: the obvious edge, to compare with.

One gRPC call for each request, one message for each token, one dict, one ``json.dumps`` and one awaited write for each
event; no store, no checks, no retries. It sends the same events as the real edge.
"""

import asyncio
import itertools
import json
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
from aiohttp import web

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from antiphon.responses.v1 import content_pb2, item_pb2

if TYPE_CHECKING:
    from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

_Json = dict[str, Any]


class NaiveEdge:
    """POST /v1/responses with ``input`` a string and ``stream`` true."""

    def __init__(self, stub: "InferenceServiceAsyncStub") -> None:
        self._stub = stub

    async def create_response(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        response = _response(body)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        numbers = itertools.count()

        async def send(event_type: str, **fields: Any) -> None:
            event = {"type": event_type, "sequence_number": next(numbers), **fields}
            await answer.write(f"event: {event_type}\ndata: {json.dumps(event)}\n\n".encode())

        await send("response.created", response=response)
        await send("response.in_progress", response=response)
        item_id = f"msg_{secrets.token_hex(16)}"
        place = {"item_id": item_id, "output_index": 0, "content_index": 0}
        texts: list[str] = []
        async for message in self._stub.Generate(_generate_request(response["id"], body)):
            match message.WhichOneof("event"):
                case "part_started":
                    item = {"type": "message", "id": item_id, "status": "in_progress", "role": "assistant"}
                    await send("response.output_item.added", output_index=0, item={**item, "content": []})
                    await send("response.content_part.added", **place, part=_part(""))
                case "delta":
                    text = message.delta.text
                    texts.append(text)
                    padding = secrets.token_urlsafe(12)[: 16 - len(text) % 16]
                    await send("response.output_text.delta", **place, delta=text, logprobs=[], obfuscation=padding)
                case "part_ended":
                    part = _part("".join(texts))
                    await send("response.output_text.done", **place, text=part["text"], logprobs=[])
                    await send("response.content_part.done", **place, part=part)
                case "finished":
                    item = {"type": "message", "id": item_id, "status": "completed", "role": "assistant"}
                    response["output"] = [{**item, "content": [_part("".join(texts))]}]
                    await send("response.output_item.done", output_index=0, item=response["output"][0])
                    response["status"] = "completed"
                    response["completed_at"] = int(time.time())
                    response["usage"] = _usage(message.finished)
                case _:  # accepted, started
                    pass
        await send("response.completed", response=response)
        await answer.write(b"data: [DONE]\n\n")
        await answer.write_eof()
        return answer


def _generate_request(request_id: str, body: _Json) -> pb.GenerateRequest:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text=body["input"]))
    message = item_pb2.Message(role=item_pb2.ROLE_USER, content=[part])
    return pb.GenerateRequest(request_id=request_id, model=body["model"], items=[item_pb2.Item(message=message)])


def _response(body: _Json) -> _Json:
    return {
        "id": f"resp_{secrets.token_hex(16)}", "object": "response", "created_at": int(time.time()),
        "completed_at": None, "status": "in_progress", "incomplete_details": None, "error": None, "output": [],
        "usage": None, "model": body["model"], "previous_response_id": None, "instructions": None, "tools": [],
        "tool_choice": "auto", "parallel_tool_calls": True, "text": {"format": {"type": "text"}}, "reasoning": None,
        "temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "top_logprobs": 0,
        "max_output_tokens": None, "max_tool_calls": None, "truncation": "disabled", "service_tier": "default",
        "store": False, "background": False, "metadata": {}, "safety_identifier": None, "prompt_cache_key": None,
    }  # fmt: skip


def _part(text: str) -> _Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(finished: pb.Finished) -> _Json:
    usage = finished.usage
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


async def serve(port: int, worker: str) -> None:
    """Serve until the process is ended."""
    async with grpc.aio.insecure_channel(worker) as channel:
        app = web.Application()
        app.router.add_post("/v1/responses", NaiveEdge(InferenceServiceStub(channel)).create_response)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
