"""A model's own Jinja chat template, rendered so that every character's origin is known.

The dialect is that of Hugging Face's ``apply_chat_template``: an immutable sandbox, ``trim_blocks``, ``lstrip_blocks``,
``break`` and ``continue``, ``{% generation %}``, ``raise_exception``, ``strftime_now`` and a ``tojson`` that escapes
no HTML.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import sync_do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_eval_context

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference.traced import TracedStr

RENDER_TIMEOUT_S = 10.0
"""The longest that one rendering may take."""
MAX_RENDERED_CHARS = 64 * 2**20
"""The longest text that a template may make."""


class ChatTemplate:
    """One model's chat template, compiled. May be used by several threads at once."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """
        Args:
            source: Jinja source.
            special_tokens: Text of the tokens that the template knows by name: ``bos_token``, ``eos_token``.

        Raises:
            jinja2.TemplateSyntaxError: the source does not compile.
        """
        self._template = _Environment().from_string(source)
        self._special_tokens = {name: TracedStr.literal(text) for name, text in special_tokens.items()}

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> TracedStr:
        """The prompt of ``messages``, up to the point where the assistant speaks.

        Strings count as content unless they are literal TracedStr.

        Args:
            variables: Further ones that some templates know, such as ``enable_thinking``.

        Raises:
            ApiError: INVALID_PROMPT, the template refuses these messages, or takes too long.
        """
        given = {"messages": messages, "tools": tools, "add_generation_prompt": True}
        try:
            return TracedStr.concat([self._template.render({**self._special_tokens, **(variables or {}), **given})])
        except _Refusal as error:
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_PROMPT, str(error), "input") from error
        except Exception as error:  # whatever an operation of the template raises
            message = "The model's chat template cannot render this conversation."
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_PROMPT, message, "input") from error


class _Refusal(TemplateError):
    """The template called ``raise_exception``, or went over a bound. The message holds no content."""


class _Context(Context):
    """The state of one rendering; holds its deadline."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = time.monotonic() + RENDER_TIMEOUT_S

    def check_deadline(self) -> None:
        """Called by the compiled template at the start of every block, so once per turn of a loop."""
        if time.monotonic() > self._deadline:
            raise _Refusal("The model's chat template takes too long over this conversation.")


class _CodeGenerator(CodeGenerator):
    """Compiles string constants to literals, and concatenation to one that keeps origins."""

    environment: "_Environment"

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        if isinstance(node.value, str):
            self.write(self.environment.literal(node.value))
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(self.environment.literal(node.data))

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat(map(str, (")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write(")))")

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("context.check_deadline()")
        super().blockvisit(nodes, frame)

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self.environment.literal("".join(group))


class _GenerationTag(Extension):
    """``{% generation %}`` marks what the assistant says, for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012 - jinja's declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The environment of one template: compiled code refers to its ``literals``."""

    code_generator_class = _CodeGenerator
    context_class = _Context

    def __init__(self) -> None:
        # not optimized: the optimizer folds lists and dicts into constants whose strings would be no literals
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[loopcontrols, _GenerationTag]
        )
        self.literals: list[TracedStr] = []
        self.filters |= {"join": _join, "safe": str, "tojson": _to_json}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def literal(self, text: str) -> str:
        """Python source of ``text`` as a literal."""
        self.literals.append(TracedStr.literal(text))
        return f"environment.literals[{len(self.literals) - 1}]"

    @staticmethod
    def concat(pieces: Iterable[str]) -> TracedStr:
        text = TracedStr.concat(pieces)
        if len(text) > MAX_RENDERED_CHARS:
            raise _Refusal("The model's chat template makes too long a text of this conversation.")
        return text


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    return sync_do_join(context, value, TracedStr.concat([str(d)]), attribute)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    if isinstance(message, TracedStr) and message.is_literal:
        raise _Refusal(f"The model's chat template refuses this conversation: {message}")
    raise _Refusal("The model's chat template refuses this conversation.")


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
