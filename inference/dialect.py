"""What a chat template can render, found out by rendering, and conversations rewritten to it.

Clients may send system and developer messages anywhere and in any number, turns in any order, and function calls.
Templates refuse much of that, or drop it without a word. A template's dialect is the mildest rewriting under which it
renders every short conversation without a loss.
"""

import enum
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, assert_never

from antiphon.errors import ApiError
from inference.template import ChatTemplate
from inference.traced import Content, TracedStr

Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(NamedTuple):
    """One function call of the assistant."""

    call_id: str
    name: str
    arguments: str
    """JSON text, perhaps invalid: a model wrote it."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message as chat templates know them. Developers speak as the system: few templates know them."""

    role: Role
    text: str = ""
    reasoning: str = ""
    """Only of the assistant. Templates may leave it out."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Only of the assistant."""
    call_id: str = ""
    """Only of tools: the call that this answers."""
    name: str = ""
    """Only of tools: the function, if known."""


class SystemStyle(enum.Enum):
    """Where system messages go, mildest first."""

    ANYWHERE = enum.auto()
    """Each stays where it is."""
    LEADING = enum.auto()
    """All become one, before everything else."""
    IN_USER = enum.auto()
    """All go before the first user message's text: the template knows no system."""


class TurnStyle(enum.Enum):
    """Which order of turns there is, mildest first."""

    FREE = enum.auto()
    """Any."""
    USER_FIRST = enum.auto()
    """The user begins; an empty message where none is."""
    ALTERNATING = enum.auto()
    """The user begins and nobody speaks twice in a row; such messages become one. Calls and outputs do not count: an
    empty message of the assistant is between an output and the user."""


class ToolStyle(enum.Enum):
    """How function calls are rendered, mildest first."""

    PARALLEL = enum.auto()
    """By the template, several in one message."""
    SEQUENTIAL = enum.auto()
    """By the template, each in a message of its own, followed by its output."""
    ALONE = enum.auto()
    """By the template, which has no place for a text beside them: it is left out."""
    TEXT = enum.auto()
    """As text of the assistant and the user: the template knows no tools."""


class CallStyle(enum.Enum):
    """How messages with calls are given to the template."""

    OBJECT = enum.auto()
    """Arguments as an object."""
    JSON = enum.auto()
    """Arguments as JSON text: the template puts it between texts of its own."""
    JSON_ALONE = enum.auto()
    """The same, and content that is empty is none: the template asks by it whether there are calls."""


class Dialect(NamedTuple):
    """What a template can render."""

    tools: ToolStyle
    calls: CallStyle
    system: SystemStyle
    turns: TurnStyle

    def adapt(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """``messages`` so that the template renders them; never empty, and whole but for ``ALONE``."""
        adapted = list(messages) or [ChatMessage("user")]
        match self.tools:
            case ToolStyle.PARALLEL:
                pass
            case ToolStyle.SEQUENTIAL:
                adapted = list(_one_call_each(adapted))
            case ToolStyle.ALONE:
                adapted = [replace(message, text="") if message.tool_calls else message for message in adapted]
            case ToolStyle.TEXT:
                adapted = [_tools_as_text(message) for message in adapted]
            case _:
                assert_never(self.tools)
        if self.system is not SystemStyle.ANYWHERE:
            adapted = _gather_system(adapted, self.system)
        return _order_turns(adapted, self.turns)


def find_dialect(template: ChatTemplate, tool_styles: Iterable[ToolStyle] = tuple(ToolStyle)) -> Dialect:
    """The mildest dialect under which ``template`` renders every conversation of up to four messages without a loss.

    Takes some ten milliseconds.

    Args:
        tool_styles: Those to try, in this order.

    Raises:
        ValueError: there is none; the template is broken.
    """
    for dialect in itertools.starmap(Dialect, itertools.product(tool_styles, CallStyle, SystemStyle, TurnStyle)):
        if all(_renders_whole(template, dialect, conversation) for conversation in _trials(dialect.tools)):
            return dialect
    raise ValueError("the chat template does not render simple conversations")


def to_template(messages: Iterable[ChatMessage], calls: CallStyle = CallStyle.OBJECT) -> list[dict[str, object]]:
    """``messages`` as Hugging Face's templates take them; roles and keys count as the template's own words."""
    return [_to_template(message, calls) for message in messages]


def _to_template(message: ChatMessage, calls: CallStyle) -> dict[str, object]:
    fields: dict[str, object] = {"role": TracedStr.literal(message.role), "content": message.text}
    if message.reasoning:
        # the field's two names: Qwen's and DeepSeek's, gpt-oss's
        fields |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
    if message.tool_calls:
        if calls is CallStyle.JSON_ALONE and not message.text:
            fields["content"] = None
        fields["tool_calls"] = [
            {
                "id": _short_id(call.call_id),
                "type": TracedStr.literal("function"),
                "function": {"name": call.name, "arguments": _arguments(call.arguments, calls)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        fields |= {"tool_call_id": _short_id(message.call_id), "name": message.name}
    return fields


def _arguments(arguments: str, calls: CallStyle) -> object:
    """Most templates expect an object; text that is none stays text."""
    if calls is not CallStyle.OBJECT:
        return arguments
    try:
        value: object = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _short_id(call_id: str) -> str:
    """Nine letters and digits, the only form that Mistral's templates accept; ids of that form stay."""
    if re.fullmatch("[a-zA-Z0-9]{9}", call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _tools_as_text(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        return ChatMessage("user", TracedStr.concat(("<tool_response>\n", message.text, "\n</tool_response>")))
    return replace(message, text=_joined(message.text, *map(_call_as_text, message.tool_calls)), tool_calls=())


def _call_as_text(call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments}}}\n</tool_call>'


def _one_call_each(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """Every call in a message of its own; its output, if among those that come right after the calls, follows it."""
    waiting = list(messages)
    while waiting:
        message = waiting.pop(0)
        if not message.tool_calls:
            yield message
            continue
        head = ChatMessage("assistant", reasoning=message.reasoning)  # thoughts lead to the calls
        if message.text:
            yield ChatMessage("assistant", message.text)
        outputs = list(itertools.takewhile(lambda following: following.role == "tool", waiting))
        for call in message.tool_calls:
            yield replace(head, tool_calls=(call,))
            head = ChatMessage("assistant")
            output = next((output for output in outputs if output.call_id == call.call_id), None)
            if output is not None:
                yield output
                outputs.remove(output)
                waiting.remove(output)


def _gather_system(messages: Sequence[ChatMessage], style: SystemStyle) -> list[ChatMessage]:
    rules = [message.text for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    if not rules:
        return others
    text = _joined(*rules)
    if style is SystemStyle.LEADING:
        return [ChatMessage("system", text), *others]
    for position, message in enumerate(others):
        if message.role == "user":
            others[position] = replace(message, text=_joined(text, message.text))
            return others
    return [ChatMessage("user", text), *others]


def _order_turns(messages: Sequence[ChatMessage], style: TurnStyle) -> list[ChatMessage]:
    if style is TurnStyle.FREE:
        return list(messages)
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    ordered = list(messages)
    if first == len(messages) or messages[first].role != "user":
        ordered.insert(first, ChatMessage("user"))
    return list(_merged(ordered)) if style is TurnStyle.ALTERNATING else ordered


def _merged(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    before = ""
    for role, group in itertools.groupby(messages, key=lambda message: message.role):
        members = list(group)
        if role == "user" and before == "tool":
            yield ChatMessage("assistant")
        before = role
        if role == "tool" or len(members) == 1:
            yield from members
            continue
        yield ChatMessage(
            role,
            _joined(*(message.text for message in members)),
            _joined(*(message.reasoning for message in members)),
            tuple(call for message in members for call in message.tool_calls),
        )


def _joined(*texts: str) -> str:
    """Texts that are not empty, as paragraphs."""
    return TracedStr("\n\n").join(text for text in texts if text)


def _trials(tools: ToolStyle) -> Iterator[list[ChatMessage]]:
    """Conversations that a dialect must render: every order of up to four messages, and function calls."""
    words = (f"trial{number}word" for number in itertools.count())

    def message(role: Role, *calls: str) -> ChatMessage:
        made = tuple(ToolCall(call, next(words), json.dumps({"key": next(words)})) for call in calls)
        return ChatMessage(role, next(words), tool_calls=made)

    def output(call_id: str) -> ChatMessage:
        return ChatMessage("tool", next(words), call_id=call_id, name="function")

    if tools is not ToolStyle.TEXT:
        yield [message("user"), message("assistant", "a"), output("a")]
        yield [message("user"), message("assistant", "a"), output("a"), message("user")]
        yield [message("user"), message("assistant", "a"), output("a"), message("assistant"), message("user")]
        yield [message("system"), message("user"), message("assistant", "a", "b"), output("a"), output("b")]
    roles: tuple[Role, ...] = ("user", "assistant", "system")
    for length in range(5):
        for order in itertools.product(roles, repeat=length):
            yield [message(role) for role in order]


def _renders_whole(template: ChatTemplate, dialect: Dialect, conversation: Sequence[ChatMessage]) -> bool:
    """Whether every text of ``conversation``, adapted to ``dialect``, is in its rendering."""
    messages = dialect.adapt(conversation)
    marked = [replace(message, text=TracedStr.of(Content(message.text))) for message in messages]
    try:
        rendered = template.render(to_template(marked, dialect.calls))
    except ApiError:
        return False
    words = [message.text for message in messages]
    for call in (call for message in messages for call in message.tool_calls):
        words += [call.name, *json.loads(call.arguments).values()]
    return all(word in rendered for word in words)
