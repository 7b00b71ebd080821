"""Hypothesis strategies for the messages of the contract, as this server makes them or accepts them."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from antiphon.responses.v1 import content_pb2, error_pb2, event_pb2, item_pb2, response_pb2, tool_pb2

# Text as protobuf can carry it: no surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
ids = names
uint32s = st.integers(0, 2**32 - 1)
urls = st.sampled_from(["https://example.org/a.png", "http://a/b?c=d", "data:image/png;base64,AAAA"])

json_values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=10,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)
# As the codec writes JSON text.
json_object_texts = json_objects.map(lambda value: msgspec.json.encode(value).decode())


def maybe(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """``strategy``, or None for a field that is not set."""
    return st.none() | strategy


def enum_values(enum: Any, *, unset: bool = True) -> SearchStrategy[Any]:
    """The values of a protobuf enumeration, with or without "not given"."""
    return st.sampled_from([value for value in enum.values() if unset or value])


candidates = {"token": texts, "logprob": st.floats(-9999, 0), "utf8": st.binary(max_size=4)}
logprobs = st.lists(
    st.builds(
        content_pb2.Logprob,
        **candidates,
        top_logprobs=st.lists(st.builds(content_pb2.TopLogprob, **candidates), max_size=2),
    ),
    max_size=3,
)
annotations = st.builds(
    content_pb2.Annotation,
    url_citation=st.builds(content_pb2.UrlCitation, start_index=uint32s, end_index=uint32s, url=urls, title=texts),
)
output_texts = st.builds(
    content_pb2.OutputText, text=texts, annotations=st.lists(annotations, max_size=2), logprobs=logprobs
)
files = st.builds(
    content_pb2.InputFile, filename=maybe(texts), file_data=texts.map(lambda text: f"data:,{text}")
) | st.builds(content_pb2.InputFile, filename=maybe(texts), file_url=st.just("https://example.org/a.pdf"))
images = st.builds(
    content_pb2.InputImage,
    image_url=urls,
    detail=enum_values(content_pb2.ImageDetail, unset=False),
)

input_parts = st.one_of(
    st.builds(content_pb2.ContentPart, input_text=st.builds(content_pb2.InputText, text=texts)),
    st.builds(content_pb2.ContentPart, input_image=images),
    st.builds(content_pb2.ContentPart, input_file=files),
)
output_parts = st.one_of(
    st.builds(content_pb2.ContentPart, output_text=output_texts),
    st.builds(content_pb2.ContentPart, refusal=st.builds(content_pb2.Refusal, refusal=texts)),
)
summary_parts = st.builds(content_pb2.ContentPart, summary_text=st.builds(content_pb2.SummaryText, text=texts))
reasoning_parts = st.builds(content_pb2.ContentPart, reasoning_text=st.builds(content_pb2.ReasoningText, text=texts))
video_parts = st.builds(content_pb2.ContentPart, input_video=st.builds(content_pb2.InputVideo, video_url=urls))
parts = st.one_of(
    input_parts,
    output_parts,
    summary_parts,
    reasoning_parts,
    video_parts,
    st.builds(content_pb2.ContentPart, text=st.builds(content_pb2.PlainText, text=texts)),
)

statuses = enum_values(item_pb2.ItemStatus, unset=False)
messages = st.builds(
    item_pb2.Item,
    id=ids,
    status=statuses,
    message=st.builds(
        item_pb2.Message,
        role=enum_values(item_pb2.Role, unset=False),
        content=st.lists(parts, max_size=3),
        phase=enum_values(item_pb2.MessagePhase),
    ),
)
function_calls = st.builds(
    item_pb2.Item,
    id=ids,
    status=statuses,
    function_call=st.builds(item_pb2.FunctionCall, call_id=ids, name=names, arguments=texts),
)
function_call_outputs = st.builds(
    item_pb2.Item,
    id=ids,
    status=statuses,
    function_call_output=st.builds(item_pb2.FunctionCallOutput, call_id=ids, text=texts)
    | st.builds(
        item_pb2.FunctionCallOutput,
        call_id=ids,
        parts=st.builds(item_pb2.ContentParts, parts=st.lists(input_parts | video_parts, max_size=3)),
    ),
)
reasonings = st.builds(
    item_pb2.Item,
    id=ids,
    status=statuses,
    reasoning=st.builds(
        item_pb2.Reasoning,
        summary=st.lists(summary_parts, max_size=2),
        content=st.lists(reasoning_parts, max_size=2),
        encrypted_content=maybe(texts),
    ),
)
compactions = st.builds(
    item_pb2.Item,
    id=ids,
    compaction=st.builds(item_pb2.Compaction, encrypted_content=names, created_by=maybe(texts)),
)
items = st.one_of(messages, function_calls, function_call_outputs, reasonings, compactions)

function_tools = st.builds(
    tool_pb2.Tool,
    function=st.builds(
        tool_pb2.FunctionTool,
        name=names,
        description=maybe(texts),
        parameters=maybe(json_object_texts),
        strict=maybe(st.booleans()),
    ),
)
formats = st.one_of(
    st.builds(response_pb2.TextFormat, text=st.builds(response_pb2.TextFormatText)),
    st.builds(response_pb2.TextFormat, json_object=st.builds(response_pb2.TextFormatJsonObject)),
    st.builds(
        response_pb2.TextFormat,
        json_schema=st.builds(
            response_pb2.TextFormatJsonSchema,
            name=names,
            description=maybe(texts),
            schema=json_object_texts,
            strict=maybe(st.booleans()),
        ),
    ),
)


@st.composite
def response_params(draw: st.DrawFn) -> response_pb2.ResponseParams:
    """Params without `input` that `check_rules` accepts once an input is there."""
    tools = draw(st.lists(function_tools, max_size=3, unique_by=lambda tool: tool.function.name))
    modes = enum_values(tool_pb2.ToolChoiceMode)
    choices = [st.builds(tool_pb2.ToolChoice, mode=enum_values(tool_pb2.ToolChoiceMode, unset=False))] if tools else []
    if tools:
        named = st.sampled_from([tool_pb2.FunctionToolChoice(name=tool.function.name) for tool in tools])
        allowed = st.builds(tool_pb2.AllowedToolsChoice, tools=st.lists(named, min_size=1, max_size=3), mode=modes)
        choices.append(st.builds(tool_pb2.ToolChoice, function=named))
        choices.append(st.builds(tool_pb2.ToolChoice, allowed_tools=allowed))
    store = draw(maybe(st.booleans()))
    return draw(
        st.builds(
            response_pb2.ResponseParams,
            model=names,
            previous_response_id=maybe(ids),
            tools=st.just(tools),
            tool_choice=maybe(st.one_of(*choices)) if choices else st.none(),
            metadata=st.dictionaries(texts, texts, max_size=16),
            text=maybe(
                st.builds(response_pb2.TextConfig, format=maybe(formats), verbosity=enum_values(response_pb2.Verbosity))
            ),
            temperature=maybe(st.floats(0, 2)),
            top_p=maybe(st.floats(0, 1)),
            presence_penalty=maybe(st.floats(-2, 2)),
            frequency_penalty=maybe(st.floats(-2, 2)),
            parallel_tool_calls=maybe(st.booleans()),
            background=maybe(st.booleans()) if store is not False else maybe(st.just(False)),
            max_output_tokens=maybe(st.integers(16, 2**32 - 1)),
            max_tool_calls=maybe(st.integers(1, 2**32 - 1)),
            reasoning=maybe(
                st.builds(
                    response_pb2.ReasoningConfig,
                    effort=enum_values(response_pb2.ReasoningEffort),
                    summary=enum_values(response_pb2.ReasoningSummary),
                )
            ),
            safety_identifier=maybe(texts),
            prompt_cache_key=maybe(texts),
            truncation=enum_values(response_pb2.Truncation),
            instructions=maybe(texts),
            store=st.just(store),
            service_tier=enum_values(response_pb2.ServiceTier),
            top_logprobs=maybe(st.integers(0, 20)),
        )
    )


def responses(params: SearchStrategy[response_pb2.ResponseParams]) -> SearchStrategy[response_pb2.Response]:
    """Responses in any state, whose params are drawn from ``params``."""
    return st.builds(
        response_pb2.Response,
        id=ids,
        created_at=st.integers(0, 2**40),
        completed_at=maybe(st.integers(0, 2**40)),
        status=enum_values(response_pb2.ResponseStatus, unset=False),
        incomplete_reason=enum_values(response_pb2.IncompleteReason),
        params=params,
        output=st.lists(items, max_size=3),
        error=maybe(st.builds(response_pb2.ResponseError, code=names, message=texts)),
        usage=maybe(
            st.builds(
                response_pb2.Usage,
                input_tokens=uint32s,
                cached_tokens=uint32s,
                output_tokens=uint32s,
                reasoning_tokens=uint32s,
            )
        ),
    )


def events(
    response: SearchStrategy[response_pb2.Response], item: SearchStrategy[item_pb2.Item] = items
) -> SearchStrategy[event_pb2.ResponseEvent]:
    """Every kind of event, about a ``response`` and an ``item``."""
    place = {"item_id": ids, "output_index": uint32s}
    content = {**place, "content_index": uint32s}
    summary = {**place, "summary_index": uint32s}
    snapshots = st.builds(event_pb2.ResponseSnapshot, response=response)
    boundaries = st.builds(event_pb2.OutputItemEvent, output_index=uint32s, item=item)
    content_parts = st.builds(event_pb2.ContentPartEvent, **content, part=output_parts | reasoning_parts)
    summary_part_events = st.builds(event_pb2.SummaryPartEvent, **summary, part=summary_parts)
    deltas = st.builds(event_pb2.ContentDelta, **content, delta=texts, logprobs=logprobs)
    dones = st.builds(event_pb2.ContentDone, **content, text=texts, logprobs=logprobs)
    bodies: dict[str, SearchStrategy[Any]] = {
        **dict.fromkeys(("created", "queued", "in_progress", "completed", "failed", "incomplete"), snapshots),
        **dict.fromkeys(("output_item_added", "output_item_done"), boundaries),
        **dict.fromkeys(("content_part_added", "content_part_done"), content_parts),
        **dict.fromkeys(("output_text_delta", "refusal_delta", "reasoning_delta"), deltas),
        **dict.fromkeys(("output_text_done", "refusal_done", "reasoning_done"), dones),
        **dict.fromkeys(("reasoning_summary_part_added", "reasoning_summary_part_done"), summary_part_events),
        "reasoning_summary_text_delta": st.builds(event_pb2.SummaryDelta, **summary, delta=texts),
        "reasoning_summary_text_done": st.builds(event_pb2.SummaryDone, **summary, text=texts),
        "output_text_annotation_added": st.builds(
            event_pb2.AnnotationAdded, **content, annotation_index=uint32s, annotation=annotations
        ),
        "function_call_arguments_delta": st.builds(event_pb2.ArgumentsDelta, **place, delta=texts),
        "function_call_arguments_done": st.builds(event_pb2.ArgumentsDone, **place, arguments=texts),
        "error": st.builds(
            error_pb2.Error,
            reason=enum_values(error_pb2.ErrorReason, unset=False),
            message=texts,
            param=maybe(texts),
        ),
    }
    return st.one_of(
        *(
            st.builds(event_pb2.ResponseEvent, sequence_number=st.integers(0, 2**53), **{kind: body})
            for kind, body in bodies.items()
        )
    )
