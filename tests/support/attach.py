"""The edge's side of an Attach stream, spelled out for tests."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import grpc

from antiphon.inference.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub


@dataclass
class SlotRecord:
    """What was heard of one slot."""

    events: list[pb.SlotEvent] = field(default_factory=list)
    text: str = ""
    token_ids: list[int] = field(default_factory=list)

    @property
    def kinds(self) -> list[str | None]:
        """Names of the events, in order."""
        return [event.WhichOneof("event") for event in self.events]

    @property
    def has_ended(self) -> bool:
        """``finished`` or ``failed`` came."""
        return bool(self.events) and self.kinds[-1] in ("finished", "failed")


class AttachClient:
    """One open stream. Frames are read only inside ``read`` and ``read_until``, by the caller."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[pb.AttachRequest, pb.AttachResponse]") -> None:
        self.call = call
        self.frames: list[pb.AttachResponse] = []
        self.slots: defaultdict[int, SlotRecord] = defaultdict(SlotRecord)

    async def send(self, **frame: object) -> None:
        """Write one AttachRequest with this one field."""
        await self.call.write(pb.AttachRequest(**frame))  # type: ignore[arg-type]  # whichever field it is

    async def start(self, slot: int, request: pb.GenerateRequest) -> None:
        await self.send(start=pb.Start(slot=slot, request=request))

    async def start_in_chunks(self, slot: int, request: pb.GenerateRequest, *, size: int) -> None:
        data = request.SerializeToString()
        for position in range(0, len(data), size):
            is_last = position + size >= len(data)
            await self.send(
                start_chunk=pb.StartChunk(slot=slot, data=data[position : position + size], is_last=is_last)
            )

    async def cancel(self, slot: int) -> None:
        await self.send(cancel=pb.Cancel(slot=slot))

    async def read(self) -> bool:
        """Take in one frame; False at the end of the stream.

        Raises:
            grpc.aio.AioRpcError: the stream ended with an error.
        """
        frame = await self.call.read()
        if not isinstance(frame, pb.AttachResponse):
            return False
        self.frames.append(frame)
        ends = list(accumulate(frame.token_counts))
        for slot, text, count, end in zip(frame.slots, frame.texts, frame.token_counts, ends, strict=True):
            self.slots[slot].text += text
            self.slots[slot].token_ids += frame.token_ids[end - count : end]
        for event in frame.events:
            self.slots[event.slot].events.append(event)
        return True

    async def read_until(self, condition: Callable[[], object], *, timeout_s: float = 10) -> None:
        """Take in frames until ``condition()`` is true."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                assert await self.read(), "the worker ended the stream"

    async def read_to_end(self, *, timeout_s: float = 10) -> None:
        """Take in frames until the stream ends."""
        async with asyncio.timeout(timeout_s):
            while await self.read():
                pass

    async def read_ended(self, *slots: int) -> None:
        """Take in frames until all of ``slots`` have ended."""
        await self.read_until(lambda: all(self.slots[slot].has_ended for slot in slots))


@asynccontextmanager
async def attach(stub: "InferenceServiceAsyncStub", *, hello: bool = True) -> AsyncGenerator[AttachClient, None]:
    """A stream to a worker, greeted on both sides; cancelled at the end of the context."""
    client = AttachClient(stub.Attach())
    try:
        if hello:
            await client.send(hello=pb.Hello(name="test"))
            await client.read()
        yield client
    finally:
        client.call.cancel()
