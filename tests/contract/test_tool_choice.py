"""Whether the default model calls a function: scores of its engine, decisions on real messages, and their end."""

import functools
import json
import math
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
import pytest_asyncio

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import FunctionCallOutput, Item
from antiphon.responses.v1.tool_pb2 import FunctionTool, Tool
from inference.generation import Generations
from inference.output import Delta
from inference.prompt import PromptBuilder
from inference.server import WorkerServer
from inference.settings import InferenceSettings
from inference.tools.choice import Choice, choose, saying_nothing
from tests.support.engines import CONTEXT_WINDOW, GREEDY, Subject, generate, started
from tests.support.worker import user_message

pytestmark = pytest.mark.asyncio(loop_scope="module")


def tool(name: str, description: str, *properties: str) -> Tool:
    parameters = {"type": "object", "properties": {key: {"type": "string"} for key in properties}}
    schema = json.dumps({**parameters, "required": list(properties)})
    return Tool(function=FunctionTool(name=name, description=description, parameters=schema))


WEATHER = tool("get_weather", "Get the current weather for a location", "location")
ADD = tool("add", "Add two numbers", "a", "b")
ALARM = tool("set_alarm", "Set an alarm", "time")
CALCULATOR = tool("calculator", "Evaluate a mathematical expression", "expression")
CURRENCY = tool("convert_currency", "Convert an amount from one currency to another", "amount", "source", "target")
CUSTOMER = tool("lookup_customer", "", "email")
DATABASE = tool("query_database", "Run a SQL query against the company's database", "sql")
EMAIL = tool("send_email", "Send an email to a recipient", "to", "subject", "body")
FLIGHTS = tool("search_flights", "Search for flights between two cities", "origin", "destination", "date")
LIGHT = tool("turn_on_light", "Turn on the light in a room", "room")
MUSIC = tool("play_music", "Play a song or an artist", "title")
NEWS = tool("getNews", "Returns the latest headlines about a topic", "topic")
NOTE = tool("create_note", "Save a note for later", "text")
ORDER = tool("get_order_status", "Look up the status of an order", "order_id")
STOCK = tool("get_stock_price", "Get the latest price of a stock", "symbol")
TIMER = tool("startTimer", "Starts a countdown timer", "minutes")
TRANSLATE = tool("translate_text", "Translate text into another language", "text", "language")

CALLS = [
    (ADD, "Add 120 and 33"),
    (ADD, "What is 5 plus 7?"),
    (ALARM, "Set an alarm for 6:30."),
    (CALCULATOR, "What is 23 * 47?"),
    (CURRENCY, "Convert 50 USD to GBP"),
    (CURRENCY, "How many euros are 100 dollars?"),
    (CUSTOMER, "Look up the customer anna@example.org"),
    (EMAIL, "Send an email to bob@example.com saying that I will be late."),
    (FLIGHTS, "Find me a flight from Berlin to Madrid on Friday."),
    (LIGHT, "Turn on the light in the kitchen."),
    (MUSIC, "Play something by the Beatles."),
    (NEWS, "Latest headlines about football please"),
    (NOTE, "Note down that the meeting is at noon."),
    (ORDER, "What's the status of order A-77?"),
    (ORDER, "Where is my order 12345?"),
    (STOCK, "How much is a share of Tesla today?"),
    (TIMER, "Start a 5 minute countdown"),
    (TRANSLATE, "Translate 'good night' into Spanish."),
    (WEATHER, "Do I need an umbrella in Seattle?"),
    (WEATHER, "How hot is it in Cairo right now?"),
    (WEATHER, "What's the weather like in San Francisco?"),
    (WEATHER, "weather in tokyo"),
]
ANSWERS = [
    (ADD, "I am sad today."),
    (ALARM, "Good morning!"),
    (CALCULATOR, "Remember the code word: cobalt. Reply with OK."),
    (CALCULATOR, "Who wrote Hamlet?"),
    (CURRENCY, "Tell me a story about a dragon."),
    (CUSTOMER, "Good afternoon!"),
    (DATABASE, "You are very helpful, thanks."),
    (EMAIL, "What is the capital of France?"),
    (FLIGHTS, "Hello there, what's up?"),
    (LIGHT, "Count from 1 to 5."),
    (MUSIC, "What is the largest planet?"),
    (NEWS, "Say goodbye."),
    (NOTE, "Are you a robot?"),
    (ORDER, "Explain photosynthesis in one sentence."),
    (STOCK, "Explain what a stock is."),
    (TIMER, "What is the meaning of life?"),
    (TRANSLATE, "Nice to meet you."),
    (WEATHER, "Hello, how are you?"),
    (WEATHER, "My name is Alice."),
    (WEATHER, "Say hello in exactly 3 words."),
    (WEATHER, "Tell me a joke."),
    (WEATHER, "Write a haiku about autumn."),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject() -> AsyncGenerator[Subject, None]:
    async with started("llamacpp") as subject:
        yield subject


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generations(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Generations, None]:
    socket = tmp_path_factory.mktemp("worker") / "socket"
    server = WorkerServer(subject.engine, InferenceSettings(listen=f"unix:{socket}", model_path="unused"))
    yield server.generations
    await server.stop()


async def test_forced_tokens_come_with_the_log_probabilities_of_free_ones(subject: Subject) -> None:
    assert subject.engine.info.capabilities.scoring
    prompt = subject.chat("Say hi.")
    free = await generate(subject.engine, prompt, replace(GREEDY, top_logprobs=20))
    forced_ids = tuple(free.token_ids)
    params = replace(GREEDY, top_logprobs=0, max_tokens=len(forced_ids), forced_token_ids=forced_ids)
    forced = await generate(subject.engine, prompt, params)
    assert forced.token_ids == list(forced_ids)
    assert [lp.logprob for lp in forced.logprobs] == pytest.approx([lp.logprob for lp in free.logprobs], abs=0.05)

    unlikely, logprob = free.logprobs[0].top[-1]
    forced = await generate(subject.engine, prompt, replace(params, max_tokens=1, forced_token_ids=(unlikely,)))
    assert forced.token_ids == [unlikely]
    assert forced.logprobs[0].logprob == pytest.approx(logprob, abs=0.05)


async def decide(engine_of: Subject, message: str, *tools: Tool) -> Choice:
    engine = engine_of.engine
    prompts = PromptBuilder(engine.tokenizer, engine.chat_template, CONTEXT_WINDOW)
    request = pb.GenerateRequest(items=[user_message(message)], tools=tools)
    return await choose(
        engine,
        prompts.call_heads([tool.function.name for tool in tools]),
        prompt=functools.partial(prompts.continued, prompts.build(request)),
        blank=functools.partial(prompts.continued, prompts.build(saying_nothing(request))),
        request_id="test",
        cache_salt="",
    )


async def test_evidence_of_a_tool_hardly_depends_on_the_others(subject: Subject) -> None:
    both = await decide(subject, "What's the weather in Paris?", WEATHER, CALCULATOR)
    assert both.best == "get_weather"
    assert both.is_call
    assert set(both.evidence) == {"get_weather", "calculator"}
    assert all(map(math.isfinite, both.evidence.values()))
    assert both.evidence["calculator"] < both.evidence["get_weather"] - 3


async def test_an_output_that_says_nothing_stands_for_one_that_says_something() -> None:
    items = [user_message("Hi"), Item(function_call_output=FunctionCallOutput(call_id="c", text="rain"))]
    blank = saying_nothing(pb.GenerateRequest(items=items))
    assert blank.items[0] == items[0]
    assert blank.items[1].function_call_output == FunctionCallOutput(call_id="c", text="...")
    assert saying_nothing(pb.GenerateRequest(items=items[:1])).items[0] == user_message("...")
    assert saying_nothing(pb.GenerateRequest()) == pb.GenerateRequest()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_most_messages_are_decided_rightly(subject: Subject) -> None:
    """What the docstring of ``inference.tools.choice`` reports, as a bar for changes of model, prompt or threshold."""
    wrong = [text for tool, text in CALLS if not (await decide(subject, text, tool)).is_call]
    wrong += [text for tool, text in ANSWERS if (await decide(subject, text, tool)).is_call]
    assert len(wrong) <= 4, wrong


async def run(generations: Generations, request: pb.GenerateRequest) -> tuple[list[int], str, int]:
    """Token ids, text and output tokens of a generation."""
    token_ids: list[int] = []
    text, output_tokens = "", 0
    async for event in generations.run(request):
        if isinstance(event, Delta):
            token_ids += event.token_ids
            text += event.text
        elif isinstance(event, pb.Finished):
            output_tokens = event.usage.output_tokens
    return token_ids, text, output_tokens


async def test_text_and_calls_go_on_elsewhere(subject: Subject, generations: Generations) -> None:
    request = pb.GenerateRequest(items=[user_message("Tell me a joke.")], tools=[WEATHER], max_output_tokens=24)
    request.sampling.seed = 7
    token_ids, text, _ = await run(generations, request)
    assert text
    request.resume_token_ids.extend(token_ids[:2])
    *_, output_tokens = await run(generations, request)
    assert 2 < output_tokens <= 24

    request = pb.GenerateRequest(items=[user_message("What's the weather like in San Francisco?")], tools=[WEATHER])
    token_ids, text, whole_tokens = await run(generations, request)
    assert json.loads(text) == {"location": "San Francisco"}
    rests = []
    for known in (len(token_ids) - 6, len(token_ids) - 4, len(token_ids) - 1):
        request.resume_token_ids[:] = token_ids[:known]
        _, rest, output_tokens = await run(generations, request)
        assert output_tokens == whole_tokens
        rests.append(rest)
    assert all(text.endswith(rest) for rest in rests)
    assert len(rests[0]) > len(rests[1]) > 0

    request.resume_token_ids[:] = [*token_ids[:-6], *subject.engine.tokenizer.encode("}}}")]
    with pytest.raises(ApiError) as refused:
        await run(generations, request)
    assert refused.value.reason == ErrorReason.ERROR_REASON_ENGINE_FAILED


async def test_a_prompt_that_leaves_no_room_for_a_call_is_answered(generations: Generations) -> None:
    request = pb.GenerateRequest(items=[user_message("weather " * 10)], tools=[WEATHER])
    tokens = await generations.count_tokens(request)
    missing = CONTEXT_WINDOW - 6 - tokens
    request.items[0].message.content[0].input_text.text += "weather " * missing
    while CONTEXT_WINDOW - await generations.count_tokens(request) > 10:
        request.items[0].message.content[0].input_text.text += "weather "
    token_ids, *_ = await run(generations, request)
    assert len(token_ids) <= 10
