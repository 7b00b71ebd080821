"""Items -> chat template -> prompt token ids; or texts and images, if there are images.

Only what the template itself wrote can become a marker token. Everything between two markers is tokenized in one run,
as it would be without that rule, but for two cuts: inside a marker's text that content spells, and around text whose
token ids are known from its generation, so that a conversation goes on token for token and finds its KV cache.
"""

import enum
import json
import logging
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item
from antiphon.responses.v1.response_pb2 import Truncation
from antiphon.responses.v1.tool_pb2 import Tool
from inference import reasoning
from inference.conversation import SYSTEM_ROLES, read_conversation
from inference.dialect import ChatMessage, ToolStyle, find_dialect, to_template
from inference.engines.base import EnginePrompt, MixedPrompt
from inference.markers import MarkerIndex
from inference.mixed import MixedPrompts, images_of
from inference.template import ChatTemplate
from inference.tokenizer import Tokenizer
from inference.tools import native
from inference.tools.format import ToolFormat
from inference.tools.hermes import HERMES
from inference.tools.prompted import told_tools, with_tools
from inference.tools.rules import call_rules
from inference.traced import Segment, TracedStr

CACHED_CHARS = 4 * 2**20
"""Characters of tokenized text that are kept, so that a long conversation is not tokenized anew at every turn."""

log = logging.getLogger(__name__)


class ThinkingPlace(enum.Enum):
    """What the end of a prompt says about the model's thoughts."""

    FREE = enum.auto()
    """Nothing: the model may think or not."""
    OPEN = enum.auto()
    """They have begun: the output goes on with them."""
    CLOSED = enum.auto()
    """They are over, or there are none: the output is the answer."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads."""

    token_ids: list[int] = field(default_factory=list)
    """Of text without images; empty if ``mixed`` is set."""
    thinking: ThinkingPlace = ThinkingPlace.FREE
    """Where it leaves the model's thoughts."""
    mixed: MixedPrompt | None = None
    """Text with images."""
    mixed_tokens: int = 0
    """Tokens of ``mixed``."""

    @property
    def input_tokens(self) -> int:
        """Number of tokens."""
        return self.mixed_tokens if self.mixed else len(self.token_ids)


class PromptBuilder:
    """Builds the prompts of one model. May be used by several threads at once; belongs in one, as it takes its time."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: str,
        context_window: int,
        *,
        thinking_marks: str = reasoning.AUTO,
        count_mixed: Callable[[MixedPrompt], int] | None = None,
        tool_format: str = native.AUTO,
    ) -> None:
        """
        Args:
            tokenizer: The model's.
            chat_template: Jinja source of the model's chat template.
            context_window: Tokens of prompt and output together.
            thinking_marks: As ``inference.reasoning.find_style`` takes them.
            tool_format: As ``inference.tools.native.native_format`` takes its name.
            count_mixed: ``Engine.count_tokens`` of an engine that takes images; None: images are refused.

        Raises:
            jinja2.TemplateSyntaxError: the template does not compile.
            ValueError: the template renders no conversation, the marks are malformed, there is no such tool format, or
                no character is free to break up markers in content.
        """
        self._tokenizer = tokenizer
        self._context_window = context_window
        self._markers = MarkerIndex(tokenizer.markers)
        self._marker_ids = frozenset(self._markers.ids.values()) | tokenizer.eos_token_ids
        self._template = ChatTemplate(chat_template, tokenizer.special_tokens)
        self._dialect = self._told_dialect = find_dialect(self._template)
        spoken = native.native_format(self._template, self._dialect, tool_format)
        if spoken is None and self._dialect.tools is not ToolStyle.TEXT:
            self._told_dialect = find_dialect(self._template, [ToolStyle.TEXT])
        self.has_native_tools = spoken is not None
        """The model is trained to call; otherwise a prompt of ours shows it how."""
        self._tells_tools = spoken is not None and spoken.tells_tools
        self.tool_format: ToolFormat = HERMES if spoken is None else spoken.format
        """How the model writes calls."""
        trial = [ChatMessage("user", "a")]
        self.reasoning = reasoning.find_style(
            chat_template, tokenizer.markers, lambda variables: self._render(trial, (), variables), thinking_marks
        )
        """How the model thinks."""
        self._runs = _RunCache(CACHED_CHARS)
        self._mixed = MixedPrompts(tokenizer, self._markers)
        self._count_mixed = count_mixed
        self._warn_of_lost_markers()

    def build(self, request: GenerateRequest) -> Prompt:
        """The prompt of ``request``: fewer tokens than the context window.

        Raises:
            ApiError: CONTEXT_LENGTH_EXCEEDED; UNSUPPORTED_VALUE and UNSUPPORTED_PARAMETER, something that the model
                does not take; INVALID_VALUE, a tool choice of no tool; INVALID_MEDIA; INVALID_PROMPT, the template
                refuses the conversation, or loses an image. ``param`` counts ``request.items`` as ``input[i]``.
            EngineError: the engine failed to count the tokens of images.
        """
        prompt = self._build(request, request.items)
        if prompt.input_tokens >= self._context_window and request.truncation == Truncation.TRUNCATION_AUTO:
            prompt = self._truncate(request, prompt)
        self._check_length(prompt.input_tokens)
        return prompt

    def continued(self, prompt: Prompt, token_ids: Sequence[int]) -> EnginePrompt:
        """``prompt`` and what was generated after it. After images it is tokenized anew, perhaps otherwise."""
        if prompt.mixed is None:
            return [*prompt.token_ids, *token_ids]
        return self._mixed.continued(prompt.mixed, token_ids) if token_ids else prompt.mixed

    def call_heads(self, names: Iterable[str]) -> dict[str, list[int]]:
        """The token ids with which a call of each function begins."""
        return {name: self._tokenizer.encode(self.tool_format.call_head(name)) for name in names}

    def spelled(self, marks: Iterable[str]) -> dict[int, bytes]:
        """Texts of the markers in ``marks``, by id: what a parser has to see of a model's output."""
        return {self._markers.ids[text]: text.encode() for mark in marks for _, text in self._markers.find(mark)}

    def _check_length(self, input_tokens: int) -> None:
        if input_tokens >= self._context_window:
            message = (
                f"This model's maximum context length is {self._context_window} tokens. However, your input has"
                f" {input_tokens} tokens. Please reduce its length."
            )
            raise ApiError(ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED, message, "input")

    def _truncate(self, request: GenerateRequest, whole: Prompt) -> Prompt:
        """The prompt without as few items from the front as leave room for an answer; ``whole`` if none may go.

        If no cut leaves that room, the shortest prompt there is.
        """
        wanted = request.max_output_tokens if request.HasField("max_output_tokens") else self._context_window // 8
        room = max(1, min(wanted, self._context_window // 2))
        cuts = _cuts(request.items)
        if not cuts:
            return whole

        def build(cut: int) -> Prompt:
            return self._build(request, _without_first(request.items, cut))

        fits = bisect_left(cuts, True, key=lambda cut: build(cut).input_tokens <= self._context_window - room)
        return build(cuts[min(fits, len(cuts) - 1)])

    def _build(self, request: GenerateRequest, items: Iterable[Item]) -> Prompt:
        """The prompt of ``items``, however long."""
        messages = read_conversation(request.instructions, items, sees_images=self._count_mixed is not None)
        variables = self.reasoning.variables(request.reasoning)
        rendered = self._render(messages, self._tools(request), variables)
        thinking = self._thinking_place(rendered)
        marks = self.reasoning.marks
        if request.without_reasoning and marks is not None and thinking is not ThinkingPlace.CLOSED:
            # where thoughts are a message of their own, no line ends are around them
            gap = "" if self.tool_format.answer_start else "\n"
            start = marks.start + gap if thinking is ThinkingPlace.FREE else ""
            rendered = TracedStr.concat([rendered, TracedStr.literal(f"{start}{gap}{marks.end}{gap * 2}")])
            thinking = ThinkingPlace.CLOSED
        if images := images_of([message.text for message in messages]):
            assert self._count_mixed is not None, "images were refused"
            mixed = self._mix(rendered, images)
            return Prompt(thinking=thinking, mixed=mixed, mixed_tokens=self._count_mixed(mixed))
        return Prompt(self._tokenize(rendered), thinking)

    def _mix(self, rendered: TracedStr, images: int) -> MixedPrompt:
        mixed = self._mixed.split(rendered)
        if len(mixed.images) != images or not mixed.texts[-1]:
            message = "The model's chat template cannot render images in this conversation."
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_PROMPT, message, "input")
        return mixed

    def _tools(self, request: GenerateRequest) -> list[dict[str, object]]:
        """The tools that the model is told of. A prompt of ours makes it eager to call, so it must not call in vain."""
        allows_calls = call_rules(request).allows_calls
        return _to_template_tools(request.tools) if allows_calls or self.has_native_tools else []

    def _render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, object]] = (),
        variables: Mapping[str, object] | None = None,
    ) -> TracedStr:
        dialect = self._dialect
        if tools and not self.has_native_tools:
            dialect, messages, tools = self._told_dialect, with_tools(messages, tools), ()
        elif tools and not self._tells_tools:
            messages, tools = told_tools(messages, tools, self.tool_format), ()
        return self._template.render(to_template(dialect.adapt(messages), dialect.calls), tools or None, variables)

    def _thinking_place(self, rendered: TracedStr) -> ThinkingPlace:
        """Content is not asked: what the user wrote opens no thoughts."""
        marks, tail = self.reasoning.marks, rendered.rstrip()
        if marks is not None:
            for mark, place in ((marks.start, ThinkingPlace.OPEN), (marks.end, ThinkingPlace.CLOSED)):
                end = tail[-len(mark) :]
                if end == mark and isinstance(end, TracedStr) and end.is_literal:
                    return place
        return ThinkingPlace.FREE

    def _tokenize(self, rendered: TracedStr) -> list[int]:
        token_ids = self._tokenize_text(rendered)
        bos = self._tokenizer.bos_token_id
        return token_ids if bos is None or token_ids[:1] == [bos] else [bos, *token_ids]

    def _tokenize_text(self, rendered: TracedStr) -> list[int]:
        token_ids: list[int] = []
        run: list[str] = []

        def end_run() -> None:
            token_ids.extend(self._encode("".join(run)))
            run.clear()

        for segment in rendered.segments():
            if segment.is_literal:
                position = 0
                for start, marker in self._markers.find(segment.text):
                    run.append(segment.text[position:start])
                    end_run()
                    token_ids.append(self._markers.ids[marker])
                    position = start + len(marker)
                run.append(segment.text[position:])
            elif generated := self._generated_ids(segment):
                end_run()
                token_ids.extend(generated)
            else:
                run.append(segment.text)
        end_run()
        return token_ids

    def _generated_ids(self, segment: Segment) -> Sequence[int]:
        """The ids that the model generated as this segment; empty if they are unknown or do not spell just its text."""
        content = segment.content
        if content is None or segment.text != content.text or not self._marker_ids.isdisjoint(content.token_ids):
            return ()
        try:
            spells = self._tokenizer.decode(content.token_ids) == segment.text.encode()
        except KeyError:  # ids of another vocabulary
            return ()
        return content.token_ids if spells else ()

    def _encode(self, run: str) -> Sequence[int]:
        if not run:
            return ()
        token_ids = self._runs.get(run)
        if token_ids is None:
            text = run.encode(errors="replace").decode()  # JSON can spell half a surrogate pair
            token_ids = [token_id for piece in self._markers.cut(text) for token_id in self._tokenizer.encode(piece)]
            self._runs.put(run, token_ids)
        return token_ids

    def _warn_of_lost_markers(self) -> None:
        """The template's text goes through an operation that forgets its origin: safe, but the model will do worse."""
        rendered = self._render([ChatMessage("system", "a"), ChatMessage("user", "b"), ChatMessage("assistant", "c")])
        literal = [
            marker for part in rendered.segments() if part.is_literal for _, marker in self._markers.find(part.text)
        ]
        if literal != [marker for _, marker in self._markers.find(rendered)]:
            log.warning("chat template builds control tokens in a way that cannot be traced")


class _RunCache:
    """Token ids of texts, the least recently used ones dropped beyond a number of characters in all."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._runs: OrderedDict[str, Sequence[int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, run: str) -> Sequence[int] | None:
        with self._lock:
            token_ids = self._runs.get(run)
            if token_ids is not None:
                self._runs.move_to_end(run)
            return token_ids

    def put(self, run: str, token_ids: Sequence[int]) -> None:
        with self._lock:
            if run not in self._runs:
                self._chars += len(run)
            self._runs[run] = token_ids
            while self._chars > self._max_chars:
                dropped, _ = self._runs.popitem(last=False)
                self._chars -= len(dropped)


def _to_template_tools(tools: Sequence[Tool]) -> list[dict[str, object]]:
    """The functions of ``tools`` as Hugging Face's templates take them; the model is told of no other kind of tool.

    Raises:
        ApiError: INVALID_JSON_SCHEMA.
    """
    converted: list[dict[str, object]] = []
    for index, tool in enumerate(tools):
        if not tool.HasField("function"):
            continue
        function: dict[str, object] = {"name": tool.function.name, "description": tool.function.description}
        function["parameters"] = _schema(tool.function.parameters, f"tools[{index}].parameters")
        converted.append({"type": TracedStr.literal("function"), "function": function})
    return converted


def _schema(text: str, param: str) -> object:
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        message = "The parameters are not valid JSON."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_JSON_SCHEMA, message, param) from error


def _is_kept(item: Item) -> bool:
    """Whether truncation must leave ``item``: rules are never dropped."""
    return item.WhichOneof("kind") == "message" and item.message.role in SYSTEM_ROLES


def _without_first(items: Sequence[Item], cut: int) -> list[Item]:
    return [item for index, item in enumerate(items) if index >= cut or _is_kept(item)]


def _cuts(items: Sequence[Item]) -> list[int]:
    """The numbers of items, rising, that truncation may drop from the front.

    At least one item stays besides the rules, and no call is parted from its output.
    """
    calls: dict[str, int] = {}
    parted = [0] * (len(items) + 1)  # how many more pairs a cut here parts than one before
    for index, item in enumerate(items):
        if item.HasField("function_call"):
            calls[item.function_call.call_id] = index
        elif item.HasField("function_call_output") and item.function_call_output.call_id in calls:
            parted[calls[item.function_call_output.call_id] + 1] += 1
            parted[index + 1] -= 1
    parts = list(accumulate(parted))
    droppable = [index for index, item in enumerate(items) if not _is_kept(item)]
    return [index + 1 for index in droppable[:-1] if not parts[index + 1]]
