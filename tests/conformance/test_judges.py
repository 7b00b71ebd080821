"""Clients that others wrote, each a program of its own that is run against the default model and must end well.

They need the extra `judges` and, for those in JavaScript, a package registry.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.openapi import document
from tests.support.programs import SCRIPTS, install_packages, run
from tests.support.stack import MODEL, RunningStack
from tests.support.stream_rules import Json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JavaScript judges with their packages, the newest in their ranges."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(HERE / "node", folder, dirs_exist_ok=True)
    install_packages(folder)
    return folder


@pytest.mark.parametrize("program", ["agents_loop.py", "langchain_chat.py"])
def test_a_python_client_ends_well(model_stack: RunningStack, program: str) -> None:
    run(sys.executable, HERE / "judges" / program, f"{model_stack.base_url}/v1", MODEL)


@pytest.mark.parametrize("program", ["openai.mjs", "ai_sdk.mjs"])
def test_a_javascript_client_ends_well(model_stack: RunningStack, node_folder: Path, program: str) -> None:
    run("node", program, f"{model_stack.base_url}/v1", MODEL, cwd=node_folder)


def _without_discriminator(value: Json) -> Json:
    return {key: member for key, member in value.items() if key != "discriminator"}


def test_no_generated_request_breaks_the_server(scripted_stack: RunningStack, tmp_path: Path) -> None:
    """Schemathesis makes requests of the OpenAPI document, good ones and broken ones."""
    described = document()
    body = described["components"]["schemas"]["CreateResponseBody"]
    # most requests shall come further than the first name that was made up
    body["properties"] |= {"model": {"type": "string", "enum": [MODEL]}, "previous_response_id": {"type": "null"}}
    body["required"] = ["model", "input"]
    path = tmp_path / "openapi.json"
    # of a server-sent event it expects the schema of the fields `event` and `data`, not of the JSON within
    described["paths"]["/responses"]["post"]["responses"]["200"]["content"]["text/event-stream"] = {}
    # the document's discriminators map nothing, and then the names of components count, which are no types of items
    bare = json.loads(json.dumps(described), object_hook=_without_discriminator)
    path.write_text(json.dumps(bare))
    run(
        SCRIPTS / "schemathesis", "run", path, "--url", f"{scripted_stack.base_url}/v1",
        "--checks", "not_a_server_error,content_type_conformance,response_schema_conformance",
        "--max-examples", "150", "--seed", "1", "--generation-database", "none", "--request-timeout", "20",
        "--suppress-health-check", "all", "--no-color",
    )  # fmt: skip
