"""OpenAI's Agents SDK: a tool loop on a server, plain and streamed. Usage: agents_loop.py BASE_URL MODEL"""

import asyncio
import sys

from agents import Agent, ModelSettings, Runner, function_tool, set_tracing_disabled
from agents.models.openai_responses import OpenAIResponsesModel
from openai import AsyncOpenAI


async def main(base_url: str, model: str) -> None:
    set_tracing_disabled(True)
    calls: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        calls.append(city)
        return "64 degrees and clear"

    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        agent = Agent(
            name="weather",
            instructions="Answer in one short sentence.",
            tools=[get_weather],
            model=OpenAIResponsesModel(model, client),
            model_settings=ModelSettings(tool_choice="required", temperature=0, max_tokens=100),
        )
        result = await Runner.run(agent, "What is the weather in Paris?", max_turns=4)
        assert calls, "no tool was called"
        assert result.final_output, result
        assert result.raw_responses[-1].usage.total_tokens > 0

        called = len(calls)
        streamed = Runner.run_streamed(agent, "What is the weather in Rome?", max_turns=4)
        kinds = {event.data.type async for event in streamed.stream_events() if event.type == "raw_response_event"}
        assert len(calls) > called, "no tool was called in the stream"
        assert streamed.final_output
        assert {"response.created", "response.function_call_arguments.done"} <= kinds, kinds


asyncio.run(main(*sys.argv[1:]))
