"""InferenceService: one method per RPC. Errors leave through ``answer_errors``, and nowhere else."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import assert_never

from grpc.aio import ServicerContext

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from antiphon.serving import answer_errors
from inference.attach import AttachLimits, AttachStream, write
from inference.generation import GenerationEvent, Generations
from inference.output import Delta


class InferenceServicer(InferenceServiceServicer):
    """The service on one engine.

    Args:
        name: This worker, for the logs of its peers.
    """

    def __init__(self, generations: Generations, *, name: str, limits: AttachLimits) -> None:
        self._generations = generations
        self._name = name
        self._limits = limits
        self._streams: set[AttachStream] = set()

    async def Generate(  # type: ignore[override]  # the stub knows no coroutines that write
        self, request: pb.GenerateRequest, context: ServicerContext[pb.GenerateRequest, pb.GenerateResponse]
    ) -> None:
        async with answer_errors(context), aclosing(self._generations.run(request)) as events:
            async for event in events:
                await write(context, _to_response(event), stall_timeout_s=self._limits.stall_timeout_s)

    async def Attach(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[pb.AttachRequest],
        context: ServicerContext[pb.AttachRequest, pb.AttachResponse],
    ) -> None:
        stream = AttachStream(self._generations, name=self._name, limits=self._limits, context=context)
        self._streams.add(stream)
        try:
            async with answer_errors(context):
                await stream.serve(request_iterator)
        finally:
            self._streams.remove(stream)

    async def CountTokens(
        self,
        request: pb.CountTokensRequest,
        context: ServicerContext[pb.CountTokensRequest, pb.CountTokensResponse],
    ) -> pb.CountTokensResponse:
        async with answer_errors(context):
            return pb.CountTokensResponse(input_tokens=await self._generations.count_tokens(request.request))

    async def GetModel(
        self, request: pb.GetModelRequest, context: ServicerContext[pb.GetModelRequest, pb.GetModelResponse]
    ) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=self._generations.model, load=self._generations.admission.load)

    def close_streams(self) -> None:
        """End every Attach stream as soon as what waits on it has been written."""
        for stream in self._streams:
            stream.close()


def _to_response(event: GenerationEvent) -> pb.GenerateResponse:
    match event:
        case pb.Accepted():
            return pb.GenerateResponse(accepted=event)
        case pb.Started():
            return pb.GenerateResponse(started=event)
        case pb.PartStarted():
            return pb.GenerateResponse(part_started=event)
        case Delta(text, token_ids, logprobs):
            return pb.GenerateResponse(delta=pb.Delta(text=text, token_ids=token_ids, logprobs=logprobs))
        case pb.PartEnded():
            return pb.GenerateResponse(part_ended=event)
        case pb.Finished():
            return pb.GenerateResponse(finished=event)
        case _:
            assert_never(event)
