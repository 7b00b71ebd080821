"""Settings of all tests, and the stacks that many of them share: one with the default model, one that obeys."""

import os
from collections.abc import AsyncGenerator, Iterator

# read when gRPC is imported: its handlers of fork() break children that tests start beside its threads
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import pytest
from hypothesis import settings

from tests.support.http import Client, client_of
from tests.support.stack import SCRIPTED, RunningStack, running_stack

settings.register_profile("antiphon", deadline=None)  # a shared machine is slow at times, and that is no failure
settings.load_profile("antiphon")


@pytest.fixture(scope="session")
def model_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """``antiphon up`` as a user starts it, with the default model."""
    with running_stack(tmp_path_factory.mktemp("model_stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def scripted_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Two edges on one port, and two workers that follow the script in the request. Nobody may kill it."""
    folder = tmp_path_factory.mktemp("scripted_stack")
    with running_stack(folder, workers=2, edges=2, environ=SCRIPTED) as stack:
        yield stack


@pytest.fixture
async def client(scripted_stack: RunningStack) -> AsyncGenerator[Client, None]:
    """A client of the scripted stack."""
    async with client_of(scripted_stack.base_url) as client:
        yield client


@pytest.fixture
async def model_client(model_stack: RunningStack) -> AsyncGenerator[Client, None]:
    """A client of the stack with the default model."""
    async with client_of(model_stack.base_url) as client:
        yield client
