"""The retry policy in examples/service_config.json, as gRPC's clients understand it."""

import json
from collections import Counter

import grpc
import pytest

from antiphon.inference.v1 import inference_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub
from tests.support.antiphon import ROOT

CONFIG = (ROOT / "examples" / "service_config.json").read_text()
NEVER_BY_ITSELF = {"CreateResponse", "StreamResponse", "CompactResponse", "DeleteResponse", "Generate", "Attach"}
"""A second call would do, or cost, something again."""


def test_each_method_is_either_retried_or_meant_not_to_be() -> None:
    retried = {
        (name["service"], name["method"]) for entry in json.loads(CONFIG)["methodConfig"] for name in entry["name"]
    }
    services = [
        pb.DESCRIPTOR.services_by_name["ResponsesService"],
        inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    ]
    methods = {(service.full_name, name) for service in services for name in service.methods_by_name}
    assert {method for method in methods if method[1] not in NEVER_BY_ITSELF} == retried


async def test_reads_are_retried_and_what_generates_is_not() -> None:
    calls: Counter[str] = Counter()

    def fails_twice(name: str) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def handle(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            calls[name] += 1
            if calls[name] <= 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return b""

        return grpc.unary_unary_rpc_method_handler(handle)

    server = grpc.aio.server()
    handlers = {name: fails_twice(name) for name in ("GetResponse", "CreateResponse")}
    service = pb.DESCRIPTOR.services_by_name["ResponsesService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.service_config", CONFIG)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        stub = ResponsesServiceStub(channel)
        await stub.GetResponse(pb.GetResponseRequest(), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateResponse(pb.CreateResponseRequest(), timeout=20)
    await server.stop(None)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert calls == {"GetResponse": 3, "CreateResponse": 1}
