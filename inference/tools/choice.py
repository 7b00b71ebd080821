"""Whether to call, and what, read off a model's own probabilities: for models that were not trained to decide it.

A model of a few hundred million parameters that samples calls them at random. Asked about the weather, with the tool
for it, SmolLM2-135M begins a call with probability 0.5; but so it does when asked about Hamlet. What it does know is
what the call would have to be: for Hamlet it would call anything but ``get_weather``. So what counts is the probability
of the beginning of a call, mark and name, of a function that is there. And as some names are likelier than others
whatever is said, each is compared with itself in a conversation whose last message says nothing (contextual
calibration: Zhao et al., "Calibrate Before Use", 2021)::

    evidence = log P(beginning | conversation) - 0.75 log P(beginning | conversation with last message "...")

The function with the most evidence is called, if calls are required or its evidence is above a threshold. So the choice
does not depend on temperature and seed, and no word of a prompt is looked at.

Measured on SmolLM2-135M-Instruct Q4_1 with the prompt of ``prompted``: of 53 messages with 1 to 3 of 11 tools, half of
them in need of one, the best threshold on the probability of the mark alone decides 44 rightly, on that of mark and
name 48, on the evidence all 53, with a gap from -1.7 to -0.9. On these, prompt, factor and threshold were chosen. Of 36
others, mostly with 8 other tools, 33 are decided rightly; wrong are words about what a tool is about, such as "Explain
what a stock is." with ``get_stock_price``. Instructions, and further turns ("And in Paris?", "Thank you!"), move the
evidence by about 1; that of the weather question is above 4 then, that of greetings and jokes below -1.7.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.content_pb2 import ContentPart, InputText
from inference.engines.base import Engine, EnginePrompt, SamplingParams
from inference.engines.prefix import common_prefix

THRESHOLD: Final = -1.3
_CALIBRATION: Final = 0.75
_NOTHING: Final = "..."


class Choice(NamedTuple):
    """What was found about one generation."""

    evidence: Mapping[str, float]
    """Of each function; see above."""
    cached_tokens: int
    """Tokens of the conversation that were in the KV cache before."""

    @property
    def best(self) -> str:
        """The function with the most evidence."""
        return max(self.evidence, key=self.evidence.__getitem__)

    @property
    def is_call(self) -> bool:
        """Whether that is enough for a call that is not required."""
        return self.evidence[self.best] > THRESHOLD


def saying_nothing(request: GenerateRequest) -> GenerateRequest:
    """``request`` with a last message, or output of a function, that says nothing."""
    blank = GenerateRequest()
    blank.CopyFrom(request)
    for last in blank.items[-1:]:
        if last.HasField("message"):
            del last.message.content[:]
            last.message.content.append(ContentPart(input_text=InputText(text=_NOTHING)))
        elif last.HasField("function_call_output"):
            last.function_call_output.text = _NOTHING
    return blank


async def choose(
    engine: Engine,
    heads: Mapping[str, Sequence[int]],
    *,
    prompt: Callable[[Sequence[int]], EnginePrompt],
    blank: Callable[[Sequence[int]], EnginePrompt],
    request_id: str,
    cache_salt: str,
) -> Choice:
    """Weigh the functions, in a generation's place at ``engine``; takes two passes over all ``heads``.

    Args:
        heads: Token ids of the beginning of each function's call; at least one.
        prompt: The conversation, followed by given token ids.
        blank: The conversation that ends with nothing said, likewise.
    """
    first, *others = (tuple(head) for head in heads.values())
    shared = first[: min((common_prefix(first, other) for other in others), default=len(first))]
    scorer = _Scorer(engine, request_id, cache_salt)

    async def score(context: Callable[[Sequence[int]], EnginePrompt]) -> dict[str, float]:
        of_shared = await scorer.score(context(()), shared)
        beginning = context(shared)
        return {name: of_shared + await scorer.score(beginning, head[len(shared) :]) for name, head in heads.items()}

    without = await score(blank)  # first, so that the conversation itself is left in the KV cache
    scores = await score(prompt)
    evidence = {name: scores[name] - _CALIBRATION * without[name] for name in heads}
    return Choice(evidence, scorer.cached_tokens or 0)


class _Scorer:
    """Log probabilities of continuations."""

    def __init__(self, engine: Engine, request_id: str, cache_salt: str) -> None:
        self._engine = engine
        self._request_id = request_id
        self._cache_salt = cache_salt
        self.cached_tokens: int | None = None
        """Of the first pass."""

    async def score(self, prompt: EnginePrompt, continuation: Sequence[int]) -> float:
        """The natural logarithm of the probability that ``continuation`` follows ``prompt``."""
        if not continuation:
            return 0.0
        params = SamplingParams(
            max_tokens=len(continuation),
            temperature=0.0,
            top_logprobs=0,
            forced_token_ids=tuple(continuation),
            cache_salt=self._cache_salt,
        )
        total = 0.0
        async with aclosing(self._engine.generate(self._request_id, prompt, params)) as steps:
            async for step in steps:
                total += sum(logprob.logprob for logprob in step.logprobs)
                if self.cached_tokens is None:
                    self.cached_tokens = step.cached_tokens
        return total
