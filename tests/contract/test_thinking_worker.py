"""A worker whose model thinks, over real gRPC: the scripted engine under chat templates that know thoughts."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from antiphon.errors import from_trailing_metadata
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2 import PartKind, StopReason
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ReasoningConfig, ReasoningEffort, ReasoningSummary
from inference.engines.base import EngineInfo, EnginePrompt, MixedPrompt, SamplingParams, Step
from inference.engines.scripted import ScriptedEngine
from tests.support.worker import InProcessWorker, in_process_worker, script

TEMPLATES = Path(__file__).parent.parent / "templates"
UNSPECIFIED, TEXT, REASONING, SUMMARY = (
    PartKind.PART_KIND_UNSPECIFIED,
    PartKind.PART_KIND_TEXT,
    PartKind.PART_KIND_REASONING,
    PartKind.PART_KIND_REASONING_SUMMARY,
)
THINKS = ("marker <think>", 'json "\\nHmm, two"', 'json "\\n"', "marker </think>", 'json "\\n\\n"', "say Hello world")
AUTO_SUMMARY = ReasoningConfig(summary=ReasoningSummary.REASONING_SUMMARY_AUTO)
NO_THOUGHTS = ReasoningConfig(effort=ReasoningEffort.REASONING_EFFORT_NONE)
JSON_OBJECT = response_pb2.TextConfig(format=response_pb2.TextFormat(json_object=response_pb2.TextFormatJsonObject()))


class RecordingEngine(ScriptedEngine):
    """Says that it has grammars, which its scripts must keep to by themselves, and remembers each run."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.runs: list[tuple[bytes, SamplingParams]] = []

    @property
    def info(self) -> EngineInfo:
        info = super().info
        return replace(info, capabilities=replace(info.capabilities, grammar=True))

    async def generate(
        self, request_id: str, prompt: EnginePrompt, params: SamplingParams
    ) -> AsyncGenerator[Step, None]:
        assert not isinstance(prompt, MixedPrompt)
        self.runs.append((self.tokenizer.decode(prompt), params))
        async for step in super().generate(request_id, prompt, params):
            yield step


@asynccontextmanager
async def thinking_worker(folder: Path, template: str = "thinking") -> AsyncGenerator[InProcessWorker, None]:
    path = str(TEMPLATES / f"{template}.jinja")
    async with in_process_worker(folder, engine_class=RecordingEngine, chat_template=path) as worker:
        yield worker


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncGenerator[InProcessWorker, None]:
    async with thinking_worker(tmp_path) as worker:
        yield worker


class Heard(NamedTuple):
    parts: list[tuple[int, str]]
    token_ids: list[int]
    finished: pb.Finished


async def hear(worker: InProcessWorker, request: pb.GenerateRequest) -> Heard:
    """A whole generation; checks that text comes inside of parts alone.

    Text of a part that a predecessor has begun is of the kind UNSPECIFIED.
    """
    parts: list[tuple[int, str]] = [(UNSPECIFIED, "")] if request.resume_token_ids else []
    token_ids: list[int] = []
    is_open = bool(request.resume_token_ids)
    finished = pb.Finished()
    async for message in worker.stub.Generate(request, timeout=10):
        match message.WhichOneof("event"):
            case "part_started":
                assert not is_open or len(parts) == 1
                is_open = True
                parts.append((message.part_started.kind, ""))
            case "delta":
                assert is_open or not message.delta.text
                token_ids += message.delta.token_ids
                if message.delta.text:
                    parts[-1] = (parts[-1][0], parts[-1][1] + message.delta.text)
            case "part_ended":
                is_open = False
            case "finished":
                finished = message.finished
            case _:
                pass
    assert not is_open
    return Heard(parts, token_ids, finished)


def runs(worker: InProcessWorker) -> list[tuple[bytes, SamplingParams]]:
    assert isinstance(worker.engine, RecordingEngine)
    return worker.engine.runs


async def test_thoughts_are_a_part_of_their_own_and_counted(worker: InProcessWorker) -> None:
    heard = await hear(worker, script(*THINKS))
    assert heard.parts == [(REASONING, "Hmm, two"), (TEXT, "Hello world")]
    thoughts = worker.engine.tokenizer.encode("\nHmm, two\n")
    assert heard.finished.usage.reasoning_tokens == len(thoughts) + 2  # and the two marks
    assert heard.finished.usage.output_tokens == len(heard.token_ids) == len(thoughts) + 2 + 2 + 2
    assert len(runs(worker)) == 1


async def test_a_model_that_thinks_tells_so(worker: InProcessWorker) -> None:
    model = (await worker.stub.GetModel(pb.GetModelRequest())).model
    assert model.capabilities.reasoning


async def test_without_thoughts_all_is_the_answer(worker: InProcessWorker) -> None:
    heard = await hear(worker, script("say Hello world"))
    assert heard.parts == [(TEXT, "Hello world")]
    assert heard.finished.usage.reasoning_tokens == 0


async def test_a_prompt_that_opens_the_thoughts_makes_the_output_begin_with_them(tmp_path: Path) -> None:
    async with thinking_worker(tmp_path, "thinking_opened") as worker:
        # the prompt's end is the script's beginning: the engine takes it for generated before
        heard = await hear(worker, script("marker <think>", 'json "\\nHm"', "marker </think>", "say Hello"))
        assert heard.parts == [(REASONING, "Hm"), (TEXT, "Hello")]


async def test_effort_none_closes_the_thoughts_in_the_prompt(worker: InProcessWorker) -> None:
    closed = ("marker <think>", 'json "\\n\\n"', "marker </think>", 'json "\\n\\n"', "say Hello")
    heard = await hear(worker, script(*closed, reasoning=NO_THOUGHTS))
    assert heard.parts == [(TEXT, "Hello")]
    assert heard.finished.usage.reasoning_tokens == 0
    [(prompt, _)] = runs(worker)
    assert prompt.endswith(b"assistant\n<think>\n\n</think>\n\n")


async def test_effort_none_is_refused_where_the_model_always_thinks(tmp_path: Path) -> None:
    async with thinking_worker(tmp_path, "thinking_opened") as worker:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await hear(worker, script("say Hello", reasoning=NO_THOUGHTS))
        error = from_trailing_metadata(list(failed.value.trailing_metadata()))
        assert error is not None
        assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE, "reasoning.effort")


async def test_without_reasoning_even_a_model_that_always_thinks_answers_at_once(tmp_path: Path) -> None:
    async with thinking_worker(tmp_path, "thinking_opened") as worker:
        heard = await hear(worker, script("tokens 6", "say Hello", without_reasoning=True))
        assert heard.parts == [(TEXT, "Hello")]
        [(prompt, _)] = runs(worker)
        assert prompt.endswith(b"assistant\n<think>\n\n</think>\n\n")


async def test_the_token_limit_may_cut_the_thoughts(worker: InProcessWorker) -> None:
    heard = await hear(worker, script("marker <think>", "say one two three four", max_output_tokens=3))
    assert heard.parts == [(REASONING, "one two")]
    assert heard.finished.stop_reason == StopReason.STOP_REASON_MAX_OUTPUT_TOKENS
    assert heard.finished.usage.reasoning_tokens == heard.finished.usage.output_tokens == 3


@pytest.mark.parametrize("template", ["thinking", "thinking_opened"])
async def test_a_summary_comes_between_thoughts_and_answer_and_is_the_model_s_own(
    tmp_path: Path, template: str
) -> None:
    """The thoughts are the summarizer's user message, and so can be a script too.

    The six tokens at the end of the summarizer's prompt, empty thoughts, count as generated before.
    """
    async with thinking_worker(tmp_path, template) as worker:
        commands = (
            *("marker <think>", 'json "\\n"', r'json "script:\ntokens 6\nsay In short"'),
            *("marker </think>", "say Hello world"),
        )
        heard = await hear(worker, script(*commands, reasoning=AUTO_SUMMARY))
        plain = await hear(worker, script(*commands))
        assert [kind for kind, _ in heard.parts] == [REASONING, SUMMARY, TEXT]
        assert heard.parts[1:] == [(SUMMARY, "In short"), (TEXT, "Hello world")]
        assert heard.token_ids == plain.token_ids
        assert heard.finished.usage.output_tokens == plain.finished.usage.output_tokens
        assert heard.finished.usage.reasoning_tokens == plain.finished.usage.reasoning_tokens
        first, summary, rest, _ = runs(worker)
        assert summary[0].endswith(b"</think>\n\n")  # the summarizer does not think
        assert rest[0].startswith(first[0])
        assert rest[0].endswith(b"</think>")


async def test_without_thoughts_there_is_no_summary(worker: InProcessWorker) -> None:
    heard = await hear(worker, script("say Hello", reasoning=AUTO_SUMMARY))
    assert heard.parts == [(TEXT, "Hello")]
    assert len(runs(worker)) == 1


async def test_a_generation_that_ends_with_its_thoughts_can_still_be_summed_up(worker: InProcessWorker) -> None:
    thoughts = "one two three four five six seven"  # what is no script is echoed, but for the six tokens before
    heard = await hear(worker, script("marker <think>", f"say {thoughts}", "marker </think>", reasoning=AUTO_SUMMARY))
    assert heard.parts == [(REASONING, thoughts), (SUMMARY, " seven")]
    assert heard.finished.stop_reason == StopReason.STOP_REASON_END_OF_TURN


@pytest.mark.parametrize("known", range(15))
async def test_a_successor_goes_on_at_any_token_and_makes_no_summary_twice(worker: InProcessWorker, known: int) -> None:
    commands = (THINKS[0], 'json "\\nHmm, two three four"', *THINKS[2:])
    request = script(*commands, reasoning=AUTO_SUMMARY)
    whole = await hear(worker, request)
    end_of_thoughts = whole.token_ids.index(worker.engine.tokenizer.markers["</think>"]) + 1
    request.resume_token_ids.extend(whole.token_ids[:known])
    rest = await hear(worker, request)
    assert whole.token_ids[:known] + rest.token_ids == whole.token_ids
    assert rest.finished.usage.output_tokens == whole.finished.usage.output_tokens
    assert rest.finished.usage.reasoning_tokens == whole.finished.usage.reasoning_tokens
    assert [kind for kind, _ in rest.parts if kind == SUMMARY] == ([SUMMARY] if known <= end_of_thoughts else [])
    summaries = [text for kind, text in rest.parts if kind == SUMMARY]
    assert "".join(text for _, text in whole.parts).endswith("".join(text for _, text in rest.parts))
    assert summaries == [" four"] * len(summaries)


async def test_a_grammar_holds_for_the_answer_alone(worker: InProcessWorker) -> None:
    heard = await hear(worker, script(*THINKS[:4], r'json "{\"a\": 1}"', text=JSON_OBJECT))
    assert heard.parts == [(REASONING, "Hmm, two"), (TEXT, '{"a": 1}')]
    thinking, answering = runs(worker)
    assert thinking[1].grammar is None
    assert answering[1].grammar is not None
    assert answering[0].endswith(b"<think>\nHmm, two\n</think>")
    assert heard.finished.usage.output_tokens == len(heard.token_ids)


async def test_a_model_that_does_not_think_begins_again_under_the_grammar(worker: InProcessWorker) -> None:
    heard = await hear(worker, script(r'json "{\"a\": 1}"', text=JSON_OBJECT))
    assert heard.parts == [(TEXT, '{"a": 1}')]
    free, held = runs(worker)
    assert (free[1].grammar, free[0]) == (None, held[0])
    assert held[1].grammar is not None
    assert heard.finished.usage.output_tokens == len(heard.token_ids) == len('{"a": 1}')


async def test_log_probabilities_are_those_of_the_answer(worker: InProcessWorker) -> None:
    request = script(*THINKS, top_logprobs=1)
    shown = [
        logprob.utf8
        async for message in worker.stub.Generate(request, timeout=10)
        for logprob in message.delta.logprobs
    ]
    assert shown == [b"Hello", b" world"]


async def test_marks_can_be_set(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, thinking_marks="<tool_call> </tool_call>") as worker:
        commands = ("marker <tool_call>", "say one", "marker </tool_call>", "say two")
        heard = await hear(worker, script(*commands))
        assert heard.parts == [(REASONING, "one"), (TEXT, "two")]
