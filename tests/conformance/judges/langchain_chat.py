"""LangChain's ChatOpenAI on the Responses API. Usage: langchain_chat.py BASE_URL MODEL"""

import sys

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=12)
    is_large: bool


class Add(BaseModel):
    """Add two numbers."""

    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


def main(base_url: str, model: str) -> None:
    chat = ChatOpenAI(
        base_url=base_url, api_key="none", model=model, use_responses_api=True, temperature=0, max_tokens=100
    )
    answer = chat.invoke("Say hi.")
    assert answer.text, answer
    assert answer.usage_metadata["total_tokens"] > 0

    whole = AIMessageChunk("")
    for chunk in chat.stream("Say hi."):
        whole += chunk
    assert whole.text == answer.text

    question = HumanMessage("What is 17 plus 25?")
    call = chat.bind_tools([Add], tool_choice="required", strict=True).invoke([question])
    assert [made["name"] for made in call.tool_calls] == ["Add"], call
    Add.model_validate(call.tool_calls[0]["args"])
    result = ToolMessage("42", tool_call_id=call.tool_calls[0]["id"])
    assert chat.bind_tools([Add]).bind(tool_choice="none").invoke([question, call, result]).text

    for method in ("json_schema", "function_calling"):
        city = chat.with_structured_output(City, method=method).invoke("Name a city.")
        assert isinstance(city, City), city

    stateful = ChatOpenAI(
        base_url=base_url, api_key="none", model=model, max_tokens=32, use_responses_api=True,
        use_previous_response_id=True,
    )  # fmt: skip
    first = stateful.invoke("My name is Alice.")
    assert stateful.invoke([HumanMessage("My name is Alice."), first, HumanMessage("And mine?")]).text


main(*sys.argv[1:])
