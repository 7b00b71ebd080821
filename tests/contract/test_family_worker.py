"""Workers whose model belongs to a family with a format of its own, over real gRPC: outputs of the corpora."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2, tool_pb2
from inference.engines.base import EngineInfo, EnginePrompt, EngineStop, MixedPrompt, SamplingParams, Step
from inference.engines.scripted import ScriptedEngine
from tests.support.corpora import Stream, streams
from tests.support.gbnf import Gbnf
from tests.support.worker import MODEL, InProcessWorker, in_process_worker

TEMPLATES = Path(__file__).parent.parent / "templates"
STREAMS = {stream.id: stream for stream in streams()}


class RecitingEngine(ScriptedEngine):
    """Generates ``text``, whatever the prompt; a run whose prompt continues that of the first goes on where it ends."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.text = ""
        self.runs: list[tuple[list[int], SamplingParams]] = []

    @property
    def info(self) -> EngineInfo:
        info = super().info
        return replace(info, capabilities=replace(info.capabilities, grammar=True))

    async def generate(
        self, request_id: str, prompt: EnginePrompt, params: SamplingParams
    ) -> AsyncGenerator[Step, None]:
        assert not isinstance(prompt, MixedPrompt)
        self.runs.append((list(prompt), params))
        first = self.runs[0][0]
        said = len(prompt) - len(first) if list(prompt[: len(first)]) == first else 0
        for token_id in self.tokenizer.encode(self.text)[said : said + params.max_tokens]:
            yield Step(token_ids=(token_id,))
        yield Step(stop=EngineStop.END_OF_TURN, cached_tokens=0)


@asynccontextmanager
async def reciting(folder: Path, template: str, text: str) -> AsyncGenerator[InProcessWorker, None]:
    path = str(TEMPLATES / f"{template}.jinja")
    async with in_process_worker(folder, engine_class=RecitingEngine, chat_template=path) as worker:
        assert isinstance(worker.engine, RecitingEngine)
        worker.engine.text = text
        yield worker


def request(stream: Stream, **fields: Any) -> pb.GenerateRequest:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text="Hi"))
    message = item_pb2.Message(role=item_pb2.ROLE_USER, content=[part])
    tools = [
        tool_pb2.Tool(function=tool_pb2.FunctionTool(name=name, parameters=parameters))
        for name, parameters in stream.functions.items()
    ]
    items = [item_pb2.Item(message=message)]
    return pb.GenerateRequest(request_id="r", model=MODEL, items=items, tools=tools, **fields)


async def parts_heard(worker: InProcessWorker, asked: pb.GenerateRequest) -> list[tuple[int, str, str]]:
    parts: list[tuple[int, str, str]] = []
    async for message in worker.stub.Generate(asked, timeout=10):
        match message.WhichOneof("event"):
            case "part_started":
                parts.append((message.part_started.kind, message.part_started.name, ""))
            case "delta" if message.delta.text:
                parts[-1] = (*parts[-1][:2], parts[-1][2] + message.delta.text)
            case _:
                pass
    return parts


def grammars(worker: InProcessWorker) -> Sequence[str | None]:
    assert isinstance(worker.engine, RecitingEngine)
    return [params.grammar for _, params in worker.engine.runs]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("gpt_oss", "gpt_oss: thinks, then calls"),
        ("gpt_oss", "gpt_oss: thinks, then speaks"),
        ("gpt_oss", "gpt_oss: calls by the role"),
        ("deepseek_v3", "deepseek_v3: several calls after text"),
        ("deepseek_v31", "deepseek_v31: one call"),
        ("mistral_v3", "mistral: several calls"),
        ("mistral_v13", "mistral_args: several calls"),
        ("llama31", "llama3_json: one call"),
        ("llama32_pythonic", "pythonic: one call"),
        ("qwen3", "qwen3: thinks, then calls"),
        ("qwen3_coder", "qwen3_coder: several calls after text"),
        ("smollm3", "smollm: smollm3 thinks, then calls"),
    ],
)
async def test_a_family_is_read_and_held_to_its_grammar(tmp_path: Path, template: str, name: str) -> None:
    stream = STREAMS[name]
    async with reciting(tmp_path, template, stream.text) as worker:
        assert await parts_heard(worker, request(stream)) == stream.parts
        *_, grammar = grammars(worker)
    assert grammar is not None
    thoughts = stream.text.find(stream.marks.end) if stream.marks else -1
    answer = stream.text[thoughts + len(stream.marks.end) :].lstrip() if stream.marks and thoughts >= 0 else stream.text
    assert Gbnf(grammar).matches(answer)


async def test_an_answer_of_gpt_oss_without_tools_is_freed_of_its_headers(tmp_path: Path) -> None:
    stream = STREAMS["gpt_oss: thinks, then speaks"]
    asked = request(stream)
    del asked.tools[:]
    async with reciting(tmp_path, "gpt_oss", stream.text) as worker:
        assert await parts_heard(worker, asked) == stream.parts
        assert grammars(worker) == [None]


async def test_an_answer_of_gpt_oss_in_a_format_is_so_in_its_last_message(tmp_path: Path) -> None:
    stream = STREAMS["gpt_oss: thinks, then speaks"]
    text_format = response_pb2.TextFormat(json_object=response_pb2.TextFormatJsonObject())
    text = stream.text.partition("<|message|>Hello")[0] + '<|message|>{"a": 1}'
    asked = request(stream, text=response_pb2.TextConfig(format=text_format))
    async with reciting(tmp_path, "gpt_oss", text) as worker:
        assert await parts_heard(worker, asked) == [stream.parts[0], (pb.PART_KIND_TEXT, "", '{"a": 1}')]
        free, held = grammars(worker)
    assert free is None
    assert held is not None
    takes = Gbnf(held).matches
    assert takes('<|start|>assistant<|channel|>final<|message|>{"a": 1}')
    assert takes("<|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}")
    assert not takes('{"a": 1}')


async def test_the_summary_of_a_model_with_headers_has_none(tmp_path: Path) -> None:
    stream = STREAMS["gpt_oss: thinks, then speaks"]
    asked = request(stream)
    del asked.tools[:]
    asked.reasoning.summary = response_pb2.REASONING_SUMMARY_AUTO
    async with reciting(tmp_path, "gpt_oss", stream.text) as worker:
        kinds = [(kind, text) for kind, _, text in await parts_heard(worker, asked)]
    assert kinds[0] == (pb.PART_KIND_REASONING, "The user greets.")
    assert all("<|" not in text for _, text in kinds)
    assert (pb.PART_KIND_REASONING_SUMMARY, "Hello 🏔️!\n") in kinds
