"""A generation under a grammar goes on at a second worker, wherever the first one was lost."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import pytest_asyncio

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.tool_pb2 import FunctionTool, Tool, ToolChoice, ToolChoiceMode
from inference.generation import Generations
from inference.output import Delta
from inference.server import WorkerServer
from inference.settings import InferenceSettings
from tests.contract.test_thinking_worker import THINKS, RecordingEngine, thinking_worker
from tests.support.engines import started
from tests.support.gbnf import Gbnf
from tests.support.worker import script, user_message

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "sign": {"const": "é 🙂"},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
    },
    "required": ["sign", "age"],
    "additionalProperties": False,
}
REQUIRED = ToolChoice(mode=ToolChoiceMode.TOOL_CHOICE_MODE_REQUIRED)


def schema_format(schema: object) -> response_pb2.TextConfig:
    json_schema = response_pb2.TextFormatJsonSchema(name="n", schema=json.dumps(schema))
    return response_pb2.TextConfig(format=response_pb2.TextFormat(json_schema=json_schema))


class Told(NamedTuple):
    """What a caller has been told after one delta, or at the end."""

    token_ids: list[int]
    text: str


async def run(generations: Generations, request: pb.GenerateRequest) -> tuple[list[Told], pb.Finished]:
    """What the caller knows at each point at which a worker can be lost.

    Not after the markup before a part: it comes in one step with that part.
    """
    told = [Told([], "")]
    markup: list[int] = []
    is_open = bool(request.resume_token_ids)
    finished = pb.Finished()
    async for event in generations.run(request):
        match event:
            case pb.PartStarted():
                is_open = True
            case pb.PartEnded():
                is_open = False
            case Delta() if is_open:
                told.append(Told([*told[-1].token_ids, *markup, *event.token_ids], told[-1].text + event.text))
                markup = []
            case Delta():
                markup += event.token_ids
            case pb.Finished():
                finished = event
            case _:
                pass
    return told, finished


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generations(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Generations, None]:
    async with started("llamacpp") as subject:
        socket = tmp_path_factory.mktemp("worker") / "socket"
        server = WorkerServer(subject.engine, InferenceSettings(listen=f"unix:{socket}", model_path="unused"))
        yield server.generations
        await server.stop()


async def test_the_default_model_goes_on_with_valid_json_after_a_delta(generations: Generations) -> None:
    request = pb.GenerateRequest(items=[user_message("Who are you?")], text=schema_format(SCHEMA))
    request.sampling.temperature = 0
    told, finished = await run(generations, request)
    assert json.loads(told[-1].text)["sign"] == "é 🙂"
    assert finished.stop_reason == pb.STOP_REASON_END_OF_TURN
    for known in told[::2]:
        request.resume_token_ids[:] = known.token_ids
        rest, finished = await run(generations, request)
        jsonschema.validate(json.loads(known.text + rest[-1].text), SCHEMA)
        assert finished.stop_reason == pb.STOP_REASON_END_OF_TURN
        assert finished.usage.output_tokens >= len(known.token_ids) + len(rest[-1].token_ids)


@pytest.mark.parametrize(
    ("commands", "fields"),
    [
        ([*THINKS[:4], r'json "{\"a\":\"é 🙂\"}"'], {"text": schema_format({"const": {"a": "é 🙂"}})}),
        ([r'json "{\"a\":\"é 🙂\"}"'], {"text": schema_format({"const": {"a": "é 🙂"}})}),
        (
            [
                r'json "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":\"🙂\"}}\n</tool_call>"',
                r'json "\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":\"x\"}}\n</tool_call>"',
            ],
            {"tools": [Tool(function=FunctionTool(name="f", parameters=json.dumps({"required": ["a"]})))]},
        ),
    ],
    ids=["thoughts and an answer", "answer", "calls"],
)
async def test_the_grammar_of_the_rest_is_what_remains_of_the_whole(
    tmp_path: Path, commands: list[str], fields: dict[str, Any]
) -> None:
    request = script(*commands, tool_choice=REQUIRED if "tools" in fields else None, **fields)
    async with thinking_worker(tmp_path) as worker:
        assert isinstance(worker.engine, RecordingEngine)
        told, finished = await run(worker.server.generations, request)
        assert worker.engine.runs[-1][1].grammar is not None
        whole = Gbnf(worker.engine.runs[-1][1].grammar)
        grammars = set()
        for known in told[1:]:
            request.resume_token_ids[:] = known.token_ids
            rest, again = await run(worker.server.generations, request)
            assert known.text + rest[-1].text == told[-1].text
            assert again.usage.output_tokens == finished.usage.output_tokens
            grammar = worker.engine.runs[-1][1].grammar
            assert grammar is not None
            left = Gbnf(grammar)
            output = worker.engine.tokenizer.decode(known.token_ids).decode()
            answer = output.partition("</think>")[2] if "<think>" in output else output
            for seed in range(3):
                assert whole.matches(answer + left.generate(seed))
            grammars.add(grammar)
        assert len(grammars) > 5
