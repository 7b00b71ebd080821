"""Generates on one worker, without edge and store: ``python examples/inference_client.py [TARGET]``."""

import sys

import grpc

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from antiphon.responses.v1 import content_pb2, item_pb2


def main(target: str) -> None:
    text = content_pb2.ContentPart(input_text=content_pb2.InputText(text="Count from one to five."))
    question = item_pb2.Item(message=item_pb2.Message(role=item_pb2.ROLE_USER, content=[text]))
    with grpc.insecure_channel(target) as channel:
        stub = InferenceServiceStub(channel)
        served = stub.GetModel(pb.GetModelRequest(), timeout=10)
        print(f"{served.model.id} on {served.model.engine}, {served.load.capacity} at once")
        request = pb.GenerateRequest(
            request_id="example", items=[question], max_output_tokens=48, sampling=pb.SamplingParams(temperature=0)
        )
        for response in stub.Generate(request, timeout=120):  # leaving the loop or the deadline aborts the engine
            print(response.delta.text, end="", flush=True)
            if response.HasField("finished"):
                usage = response.finished.usage
                print(f"\n{usage.input_tokens} tokens in, {usage.output_tokens} out")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50061")
