"""Calls the whole API over gRPC, as an internal service would: ``python examples/responses_client.py [TARGET]``.

``ANTIPHON_API_KEY``: a key, if the edge asks for one. ``ANTIPHON_CA``: PEM file of its authority, for TLS.
"""

import os
import sys
import time
import uuid
from pathlib import Path

import grpc

from antiphon.errors import from_trailing_metadata
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub

OPTIONS = [
    # what may be retried by itself
    ("grpc.service_config", Path(__file__).with_name("service_config.json").read_text()),
    # long conversations exceed gRPC's 4 MiB
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.keepalive_time_ms", 30_000),
]
API_KEY = os.environ.get("ANTIPHON_API_KEY", "")
METADATA = (("authorization", f"Bearer {API_KEY}"),) if API_KEY else ()
TERMINAL = ("completed", "failed", "incomplete")


def open_channel(target: str) -> grpc.Channel:
    if authority := os.environ.get("ANTIPHON_CA"):
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(Path(authority).read_bytes()), OPTIONS)
    return grpc.insecure_channel(target, OPTIONS)


def user(text: str) -> item_pb2.Item:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text=text))
    return item_pb2.Item(message=item_pb2.Message(role=item_pb2.ROLE_USER, content=[part]))


def create(stub: ResponsesServiceStub, params: response_pb2.ResponseParams) -> response_pb2.Response:
    """Only with an idempotency key may a response be asked for again: however often it is, it is made once."""
    metadata = (*METADATA, ("idempotency-key", str(uuid.uuid4())))
    for attempt in range(1, 5):
        try:
            request = pb.CreateResponseRequest(params=params)
            return stub.CreateResponse(request, timeout=120, metadata=metadata).response
        except grpc.RpcError as failed:
            error = from_trailing_metadata(failed.trailing_metadata())  # None: gRPC itself ended the call
            retry_after_ms = error.retry_after_ms if error else None
            if attempt == 4 or (failed.code() != grpc.StatusCode.UNAVAILABLE and retry_after_ms is None):
                raise
            time.sleep(0.2 * 2**attempt if retry_after_ms is None else retry_after_ms / 1000)
    raise AssertionError("the last attempt raises or returns")


def stream(stub: ResponsesServiceStub, params: response_pb2.ResponseParams) -> None:
    """Leaving the loop cancels the call, and that ends the generation, as a deadline that passes does."""
    for answer in stub.StreamResponse(pb.StreamResponseRequest(params=params), timeout=120, metadata=METADATA):
        print(answer.event.output_text_delta.delta, end="", flush=True)
    print(f"\n{answer.event.WhichOneof('event')}")


def resume(stub: ResponsesServiceStub, response_id: str) -> None:
    """Events of a background response, whose stream breaks off: it goes on behind the last event that was seen."""
    last: int | None = None
    streams, kind = 0, ""
    while kind not in TERMINAL:
        streams += 1
        request = pb.ResumeResponseRequest(response_id=response_id, starting_after=last)
        call = stub.ResumeResponse(request, timeout=120, metadata=METADATA)
        for answer in call:
            last, kind = answer.event.sequence_number, answer.event.WhichOneof("event") or ""
            if streams == 1 and last == 2:
                call.cancel()  # as if the connection was lost
                break
    print(f"resumed: {(last or 0) + 1} events in {streams} streams")


def main(target: str) -> None:
    with open_channel(target) as channel:
        stub = ResponsesServiceStub(channel)
        model = stub.ListModels(pb.ListModelsRequest(), timeout=10, metadata=METADATA).models[0].id

        def params(text: str, *, background: bool = False) -> response_pb2.ResponseParams:
            return response_pb2.ResponseParams(
                model=model, input=[user(text)], max_output_tokens=32, background=background
            )

        created = create(stub, params("Say hello."))
        print(created.output[0].message.content[0].output_text.text)
        stream(stub, params("Count."))
        started = create(stub, params("Tell a story.", background=True))
        resume(stub, started.id)
        try:
            late = pb.CreateResponseRequest(params=params("Too late."))
            stub.CreateResponse(late, timeout=0.001, metadata=METADATA)
        except grpc.RpcError as error:
            print(error.code().name)
        for response in (created, started):
            stub.DeleteResponse(pb.DeleteResponseRequest(response_id=response.id), timeout=10, metadata=METADATA)
        try:
            stub.GetResponse(pb.GetResponseRequest(response_id=created.id), timeout=10, metadata=METADATA)
        except grpc.RpcError as error:
            print(from_trailing_metadata(error.trailing_metadata()))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
