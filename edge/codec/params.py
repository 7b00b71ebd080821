"""What a client asks for: JSON <-> `ResponseParams`, and the API's defaults."""

from typing import Any, assert_never

import msgspec

from antiphon.responses.v1 import response_pb2 as pb
from antiphon.responses.v1 import tool_pb2
from edge.checks import INTEGER_RANGES, check_integer
from edge.codec.enums import (
    INCLUDE,
    REASONING_EFFORT,
    REASONING_SUMMARY,
    SERVICE_TIER,
    TRUNCATION,
    VERBOSITY,
    invalid_choice,
)
from edge.codec.items import decode_input
from edge.codec.tools import decode_tool, decode_tool_choice, encode_tool_choice, encode_tools, raw_json
from edge.rest import schema
from edge.rest.schema import shape, type_of

FRUITLESS_INCLUDES = frozenset(
    {
        "code_interpreter_call.outputs", "computer_call_output.output.image_url", "file_search_call.results",
        "message.input_image.image_url", "web_search_call.action.sources", "web_search_call.results",
    }
)  # fmt: skip
"""Values of `include` that OpenAI's API has and that add nothing here: no item of this server has such fields."""

_STRINGS = ("model", "previous_response_id", "safety_identifier", "prompt_cache_key", "instructions")
_NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_FLAGS = ("parallel_tool_calls", "background", "store")


def decode_params(body: schema.CreateResponse) -> pb.ResponseParams:
    """The params that ``body`` asks for, without defaults. `stream` is the door's affair and not among them.

    Raises:
        ApiError: a part of it has the wrong shape, or an enumeration does not have its value.
    """
    params = pb.ResponseParams(
        **{name: getattr(body, name) for name in _STRINGS + _NUMBERS + _FLAGS},
        input=decode_input(body.input) if body.input is not None else None,
        include=[
            INCLUDE.decode(value, f"include[{index}]")
            for index, value in enumerate(body.include or ())
            if value not in FRUITLESS_INCLUDES
        ],
        tools=[decode_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())],
        tool_choice=decode_tool_choice(body.tool_choice) if body.tool_choice is not None else None,
        metadata=_decode_metadata(body.metadata or {}),
        text=_decode_text_config(body.text) if body.text is not None else None,
        truncation=TRUNCATION.decode(body.truncation, "truncation"),
        service_tier=SERVICE_TIER.decode(body.service_tier, "service_tier"),
        reasoning=_decode_reasoning_config(body.reasoning) if body.reasoning is not None else None,
    )
    if body.stream_options is not None:
        params.stream_options.CopyFrom(pb.StreamOptions(include_obfuscation=body.stream_options.include_obfuscation))
    for name, bounds in INTEGER_RANGES.items():
        value = getattr(body, name)
        if value is not None:
            check_integer(value, name, *bounds)  # here, as a uint32 cannot carry what is out of range
            setattr(params, name, value)
    return params


def encode_params(params: pb.ResponseParams) -> dict[str, Any]:
    """The keys of the API's `response` object that repeat ``params``, as `with_defaults` leaves them.

    Every key is there; a null is only where the schema allows one.
    """
    return {
        "model": params.model,
        "previous_response_id": _given(params, "previous_response_id"),
        "instructions": _given(params, "instructions"),
        "tools": encode_tools(params.tools),
        "tool_choice": encode_tool_choice(params.tool_choice),
        "parallel_tool_calls": params.parallel_tool_calls,
        "text": _encode_text_config(params.text),
        "reasoning": _encode_reasoning_config(params.reasoning) if params.HasField("reasoning") else None,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "top_logprobs": params.top_logprobs,
        "max_output_tokens": _given(params, "max_output_tokens"),
        "max_tool_calls": _given(params, "max_tool_calls"),
        "truncation": TRUNCATION.encode(params.truncation),
        "service_tier": SERVICE_TIER.encode(params.service_tier),
        "store": params.store,
        "background": params.background,
        "metadata": dict(params.metadata),
        "safety_identifier": _given(params, "safety_identifier"),
        "prompt_cache_key": _given(params, "prompt_cache_key"),
    }


def with_defaults(params: pb.ResponseParams) -> pb.ResponseParams:
    """A copy of ``params`` in which every field that has a default holds its value: what a response repeats.

    `input` is left out, as it belongs to the record and not to the response. `service_tier` becomes the tier that is
    used. `max_output_tokens`, `max_tool_calls` and `reasoning` have no default.
    """
    filled = pb.ResponseParams(
        temperature=1.0,
        top_p=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        parallel_tool_calls=True,
        background=False,
        store=True,
        top_logprobs=0,
        truncation=pb.TRUNCATION_DISABLED,
        text=pb.TextConfig(verbosity=pb.VERBOSITY_MEDIUM),
    )
    filled.MergeFrom(params)  # a field that is set wins; lists, which have no default, are appended
    filled.ClearField("input")
    if filled.service_tier in (pb.SERVICE_TIER_UNSPECIFIED, pb.SERVICE_TIER_AUTO):
        filled.service_tier = pb.SERVICE_TIER_DEFAULT
    if filled.tool_choice.WhichOneof("choice") is None or (
        filled.tool_choice.WhichOneof("choice") == "mode" and not filled.tool_choice.mode
    ):
        filled.tool_choice.mode = tool_pb2.TOOL_CHOICE_MODE_AUTO
    if filled.tool_choice.HasField("allowed_tools") and not filled.tool_choice.allowed_tools.mode:
        filled.tool_choice.allowed_tools.mode = tool_pb2.TOOL_CHOICE_MODE_AUTO
    for tool in filled.tools:
        if tool.HasField("function") and not tool.function.HasField("strict"):
            tool.function.strict = True
    if filled.text.format.WhichOneof("format") is None:
        filled.text.format.text.SetInParent()
    if filled.text.format.HasField("json_schema") and not filled.text.format.json_schema.HasField("strict"):
        filled.text.format.json_schema.strict = False
    return filled


def _given(params: pb.ResponseParams, name: str) -> str | int | None:
    value: str | int | None = getattr(params, name) if params.HasField(name) else None  # type: ignore[arg-type]
    return value


def _decode_metadata(metadata: dict[str, Any]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise schema.invalid_type(f"metadata.{key}", "a string", value)
    return metadata


def _decode_text_config(config: schema.TextConfig) -> pb.TextConfig:
    return pb.TextConfig(
        format=_decode_text_format(config.format, "text.format") if config.format is not None else None,
        verbosity=VERBOSITY.decode(config.verbosity, "text.verbosity"),
    )


def _decode_text_format(fields: dict[str, Any], place: str) -> pb.TextFormat:
    match kind := type_of(fields, place):
        case "text":
            return pb.TextFormat(text=pb.TextFormatText())
        case "json_object":
            return pb.TextFormat(json_object=pb.TextFormatJsonObject())
        case "json_schema":
            given = shape(fields, schema.JsonSchemaFormat, place)
            return pb.TextFormat(
                json_schema=pb.TextFormatJsonSchema(
                    name=given.name,
                    description=given.description,
                    schema=msgspec.json.encode(given.schema).decode(),
                    strict=given.strict,
                )
            )
        case _:
            raise invalid_choice(kind, ("text", "json_schema", "json_object"), f"{place}.type")


def _encode_text_config(config: pb.TextConfig) -> dict[str, Any]:
    """`verbosity` may be absent, but never null. The schema of a json_schema format is repeated, as OpenAI does."""
    return {"format": _encode_text_format(config.format), "verbosity": VERBOSITY.encode(config.verbosity)}


def _encode_text_format(format_: pb.TextFormat) -> dict[str, Any]:
    match format_.WhichOneof("format"):
        case "text" | None:
            return {"type": "text"}
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            given = format_.json_schema
            return {
                "type": "json_schema",
                "name": given.name,
                "description": given.description if given.HasField("description") else None,
                "schema": raw_json(given.schema),
                "strict": given.strict,
            }
        case unreachable:
            assert_never(unreachable)


def _decode_reasoning_config(config: schema.ReasoningConfig) -> pb.ReasoningConfig:
    return pb.ReasoningConfig(
        effort=REASONING_EFFORT.decode(config.effort, "reasoning.effort"),
        summary=REASONING_SUMMARY.decode(config.summary, "reasoning.summary"),
    )


def _encode_reasoning_config(config: pb.ReasoningConfig) -> dict[str, Any]:
    """Both keys, always: an object without them is invalid."""
    return {
        "effort": REASONING_EFFORT.encode(config.effort) if config.effort else None,
        "summary": REASONING_SUMMARY.encode(config.summary) if config.summary else None,
    }
