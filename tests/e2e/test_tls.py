"""TLS on every hop, identities from certificates, and no plaintext by accident."""

import asyncio
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import pytest

from antiphon.errors import from_trailing_metadata
from antiphon.responses.v1 import item_pb2, response_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub
from edge.settings import from_environment
from inference.settings import read_settings
from tests.support.antiphon import ROOT, antiphon, clean_environ
from tests.support.edge import edge_process, free_port
from tests.support.processes import wait_until
from tests.support.tls import Authority, Pair
from tests.support.valkey import valkey_server
from tests.support.worker import MODEL


@dataclass(frozen=True)
class SecureStack:
    """A worker and an edge that speak TLS alone, with client certificates for gRPC."""

    https_url: str
    grpc_target: str
    worker_target: str
    authority: Authority
    door: Pair
    caller: Pair
    gateway: Pair


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureStack]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    worker, door = (authority.issue(name, is_server=True) for name in ("worker", "door"))
    edge, caller, gateway = (authority.issue(name) for name in ("edge", "billing.internal", "gateway.internal"))
    worker_target, grpc_port = f"127.0.0.1:{free_port()}", free_port()
    environ = clean_environ(
        INFERENCE_LISTEN=worker_target, INFERENCE_ENGINE="scripted", INFERENCE_MODEL_NAME=MODEL,
        INFERENCE_TLS_CERT=worker.cert, INFERENCE_TLS_KEY=worker.key, INFERENCE_TLS_CA=authority.path,
    )  # fmt: skip
    (folder / "valkey").mkdir()
    with (
        valkey_server(folder / "valkey") as redis_url,
        subprocess.Popen([sys.executable, "-m", "inference"], env=environ, cwd=ROOT) as process,
    ):
        try:
            with edge_process(
                folder / "process", workers=[worker_target], redis_url=redis_url, scheme="https",
                grpc_listen=f"127.0.0.1:{grpc_port}", http_tls_cert=door.cert, http_tls_key=door.key,
                grpc_tls_cert=door.cert, grpc_tls_key=door.key, grpc_tls_ca=authority.path,
                workers_tls_ca=authority.path, workers_tls_cert=edge.cert, workers_tls_key=edge.key,
                trusted_callers="gateway.internal",
            ) as running:  # fmt: skip
                yield SecureStack(
                    running.base_url, f"127.0.0.1:{grpc_port}", worker_target, authority, door, caller, gateway
                )
        finally:
            process.kill()


def credentials(stack: SecureStack, pair: Pair | None) -> grpc.ChannelCredentials:
    own = pair.read() if pair else (None, None)
    return grpc.ssl_channel_credentials(Path(stack.authority.path).read_bytes(), *own)


def say(text: str) -> pb.CreateResponseRequest:
    message = item_pb2.Message(role=item_pb2.ROLE_USER)
    message.content.add().input_text.text = text
    params = response_pb2.ResponseParams(model=MODEL, input=[item_pb2.Item(message=message)])
    return pb.CreateResponseRequest(params=params)


async def test_a_response_goes_by_tls_all_the_way(stack: SecureStack) -> None:
    context = ssl.create_default_context(cafile=stack.authority.path)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        body = {"model": MODEL, "input": "script:\nsay Hello.", "stream": True}
        async with session.post(f"{stack.https_url}/v1/responses", json=body) as answer:
            events = await answer.text()
    assert '"text":"Hello."' in events
    assert events.endswith("data: [DONE]\n\n")


def test_health_checks_know_tls(stack: SecureStack) -> None:
    for url in (f"{stack.https_url}/readyz", f"tcp://{stack.worker_target}"):
        assert antiphon("probe", url, environ=clean_environ()).returncode == 0
    for url in (f"grpc://{stack.worker_target}", f"tcp://127.0.0.1:{free_port()}"):
        assert antiphon("probe", url, environ=clean_environ()).returncode == 1


async def test_a_caller_is_who_its_certificate_says(stack: SecureStack) -> None:
    async with (
        grpc.aio.secure_channel(stack.grpc_target, credentials(stack, stack.caller)) as one,
        grpc.aio.secure_channel(stack.grpc_target, credentials(stack, stack.gateway)) as two,
        asyncio.timeout(30),
    ):
        caller, gateway = ResponsesServiceStub(one), ResponsesServiceStub(two)
        response = (await caller.CreateResponse(say("script:\nsay Hello."))).response
        request = pb.GetResponseRequest(response_id=response.id)
        assert (await caller.GetResponse(request)).response == response
        with pytest.raises(grpc.aio.AioRpcError) as absent:
            await gateway.GetResponse(request)
        assert absent.value.code() == grpc.StatusCode.NOT_FOUND
        on_behalf = (("x-antiphon-owner", "billing.internal"),)
        assert (await gateway.GetResponse(request, metadata=on_behalf)).response == response
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.GetResponse(request, metadata=(("x-antiphon-owner", "gateway.internal"),))
        error = from_trailing_metadata(refused.value.trailing_metadata())
        assert error is not None
        assert error.reason == ErrorReason.ERROR_REASON_PERMISSION_DENIED


@pytest.mark.parametrize("door", ["grpc_target", "worker_target"])
async def test_who_shows_no_certificate_of_the_authority_gets_nowhere(
    stack: SecureStack, door: str, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("billing.internal")
    for pair in (None, stranger):
        async with grpc.aio.secure_channel(getattr(stack, door), credentials(stack, pair)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ResponsesServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=10)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    async with grpc.aio.insecure_channel(getattr(stack, door)) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as unheard:
            await ResponsesServiceStub(plain).ListModels(pb.ListModelsRequest(), timeout=10)
        assert unheard.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_renewed_certificate_is_used_without_a_restart(stack: SecureStack, tmp_path: Path) -> None:
    port = int(stack.https_url.rpartition(":")[2])
    before = ssl.get_server_certificate(("127.0.0.1", port))
    renewed = Authority(tmp_path, "next").issue("door", is_server=True)
    shutil.copy(renewed.key, stack.door.key)
    shutil.copy(renewed.cert, stack.door.cert)
    wait_until(
        lambda: ssl.get_server_certificate(("127.0.0.1", port)) != before, timeout_s=20, what="the renewed certificate"
    )
    grpc_port = int(stack.grpc_target.rpartition(":")[2])
    assert ssl.get_server_certificate(("127.0.0.1", grpc_port)) == Path(renewed.cert).read_text()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"EDGE_HTTP_LISTEN": "0.0.0.0:8080"}, "EDGE_HTTP_LISTEN"),
        ({"EDGE_GRPC_LISTEN": "10.0.0.1:50051"}, "EDGE_GRPC_LISTEN"),
        ({"EDGE_WORKERS": "worker.example:50061"}, "EDGE_WORKERS"),
        ({"EDGE_WORKERS": "dns:///workers:50061"}, "EDGE_WORKERS"),
        ({"EDGE_HTTP_TLS_CERT": "x"}, "EDGE_HTTP_TLS_KEY"),
        ({"EDGE_WORKERS_TLS_CA": "nowhere.pem"}, "EDGE_WORKERS_TLS_CA"),
        ({"EDGE_GRPC_TLS_CA": __file__}, "EDGE_GRPC_TLS_CA"),
    ],
)
def test_an_edge_that_others_could_listen_in_on_does_not_start(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}: "):
        from_environment({"EDGE_OPEN_ACCESS": "true", **variables})
    if named.endswith(("LISTEN", "WORKERS")):
        from_environment({"EDGE_OPEN_ACCESS": "true", "EDGE_ALLOW_PLAINTEXT": "true", **variables})


def test_a_worker_that_others_could_listen_in_on_does_not_start() -> None:
    variables = {"INFERENCE_ENGINE": "scripted", "INFERENCE_LISTEN": "0.0.0.0:50061"}
    with pytest.raises(ValueError, match=r"^INFERENCE_LISTEN: "):
        read_settings(variables)
    read_settings({**variables, "INFERENCE_ALLOW_PLAINTEXT": "true"})
