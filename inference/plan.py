"""One generation as its request wants it: its prompt and room, what it may call, what its output is held to."""

from collections.abc import Sequence
from typing import Final

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference.constraint import check_size, constraint, has_free_text
from inference.engines.base import Engine
from inference.grammar.residual import residual
from inference.output import Output
from inference.params import TokenLimit
from inference.parsing.base import OutputParser
from inference.parsing.plain import PlainParser
from inference.parsing.thinking import ThinkingParser
from inference.prompt import Prompt, PromptBuilder, ThinkingPlace
from inference.tools.rules import CallRules

_MAX_UNTRAINED_CALLS: Final = 8
_MAX_UNTRAINED_STRING: Final = 1024
"""Calls, and characters of one string in them, of models that were not trained to call, and may not find an end."""


class Plan:
    """What one generation asks of ``engine``, which speaks as ``prompts`` knows.

    Args:
        rules: May be narrowed while the generation goes on; a grammar has to be made of them by ``constrain``.
    """

    def __init__(
        self,
        request: GenerateRequest,
        prompt: Prompt,
        limit: TokenLimit,
        rules: CallRules,
        *,
        engine: Engine,
        prompts: PromptBuilder,
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.limit = limit
        self.rules = rules if prompts.has_native_tools else rules.at_most(_MAX_UNTRAINED_CALLS)
        self.grammar: str | None = None
        """What the answer and the calls are held to."""
        self._engine = engine
        self._prompts = prompts

    def constrain(self, rules: CallRules) -> None:
        """Hold the output to ``rules``. Takes long: belongs in a thread, as ``go_on_after``.

        Raises:
            ApiError: as ``constraint`` and ``check_size``.
        """
        self.rules = rules
        capabilities = self._engine.info.capabilities
        if capabilities.grammar:
            max_string = None if self._prompts.has_native_tools else _MAX_UNTRAINED_STRING
            self.grammar = constraint(self.request, rules, self._prompts.tool_format, max_string=max_string)
            check_size(self.grammar, capabilities.max_grammar_chars, self.request)

    def go_on_after(self, answer_token_ids: Sequence[int]) -> None:
        """Hold the output to what the grammar leaves after ``answer_token_ids``, which came under it.

        Raises:
            ApiError: ENGINE_FAILED, the grammar does not generate them, or cannot be followed through them in time.
        """
        if self.grammar is None:
            return
        spelled, token_bytes = self._prompts.spelled(self.marks), self._engine.tokenizer.token_bytes
        answer = b"".join(spelled.get(token_id) or token_bytes(token_id) for token_id in answer_token_ids)
        try:
            rest = residual(self.grammar, answer.decode())
        except UnicodeDecodeError:  # it ends in the middle of a character
            raise cannot_resume() from None
        most = self._engine.info.capabilities.max_grammar_chars
        if rest is None or (most is not None and len(rest) > most):
            raise cannot_resume()
        self.grammar = rest

    @property
    def has_choice(self) -> bool:
        """Whether it is for us to find out if the model wants to call, and what."""
        is_open = self.rules.allows_calls and (not self.rules.is_required or len(self.rules.names) > 1)
        return is_open and not self._prompts.has_native_tools and self._engine.info.capabilities.scoring

    @property
    def may_think(self) -> bool:
        return self._prompts.reasoning.marks is not None and self.prompt.thinking is not ThinkingPlace.CLOSED

    @property
    def has_pause(self) -> bool:
        """Whether something has to happen between thoughts and answer."""
        return self.may_think and (bool(self.request.reasoning.summary) or self.grammar is not None)

    @property
    def marks(self) -> tuple[str, ...]:
        """Those that are to be seen in answers; none where all is text."""
        tool_format = self._prompts.tool_format
        return tool_format.marks if self.rules.allows_calls or tool_format.answer_start else ()

    def new_answer_parser(self) -> OutputParser:
        """A parser of what is no thoughts, under the rules as they are now."""
        if not self.marks:
            return PlainParser()
        functions = {
            tool.function.name: tool.function.parameters
            for tool in self.request.tools
            if tool.HasField("function") and tool.function.name in self.rules.names
        }
        return self._prompts.tool_format.new_parser(may_mix=has_free_text(self.request), functions=functions)

    def new_output(self) -> Output:
        """The output, which begins with what the request resumes.

        Raises:
            ApiError: INVALID_VALUE, the model has no such tokens.
        """
        parser, looked_for = self.new_answer_parser(), self.marks
        marks = self._prompts.reasoning.marks
        if marks is not None and self.may_think:
            is_open = self.prompt.thinking is ThinkingPlace.OPEN
            parser = ThinkingParser(marks, is_open=is_open, new_answer_parser=self.new_answer_parser)
            looked_for = (*looked_for, marks.start, marks.end)
        try:
            return Output(
                tokenizer=self._engine.tokenizer,
                stop=self.request.stop,
                parser=parser,
                input_tokens=self.prompt.input_tokens,
                limit=self.limit,
                resume_token_ids=self.request.resume_token_ids,
                spelled=self._prompts.spelled(looked_for),
                pauses_after_reasoning=self.has_pause,
            )
        except KeyError:
            message = "The model has no such token."
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "resume_token_ids") from None


def cannot_resume() -> ApiError:
    """Another worker failed within an output that no worker can go on with."""
    message = "The inference worker failed, and no other one can go on with this output. Try again."
    return ApiError(ErrorReason.ERROR_REASON_ENGINE_FAILED, message)
