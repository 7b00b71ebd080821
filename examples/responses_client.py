"""Calls the whole API over gRPC, as an internal service would: ``python examples/responses_client.py [TARGET]``."""

import sys

import grpc

from antiphon.errors import from_trailing_metadata
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub


def user(text: str) -> item_pb2.Item:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text=text))
    return item_pb2.Item(message=item_pb2.Message(role=item_pb2.ROLE_USER, content=[part]))


def main(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        stub = ResponsesServiceStub(channel)
        model = stub.ListModels(pb.ListModelsRequest(), timeout=10).models[0].id
        params = response_pb2.ResponseParams(model=model, input=[user("Say hello.")], max_output_tokens=32)
        response_id = ""
        for answer in stub.StreamResponse(pb.StreamResponseRequest(params=params), timeout=120):
            print(answer.event.output_text_delta.delta, end="", flush=True)
            response_id = answer.event.completed.response.id or answer.event.incomplete.response.id or response_id
        print(f"\n{response_id}")
        stub.DeleteResponse(pb.DeleteResponseRequest(response_id=response_id), timeout=10)
        try:
            stub.GetResponse(pb.GetResponseRequest(response_id=response_id), timeout=10)
        except grpc.RpcError as error:
            print(from_trailing_metadata(error.trailing_metadata()))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
