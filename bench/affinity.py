"""What it is worth that a conversation returns to its worker: cached tokens and time to the first token.

Real workers with the default model. The same conversations twice: as they come, and each turn with a `prompt_cache_key`
of its own, which sends it anywhere, as a balancer does that knows nothing of KV caches.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final
from uuid import uuid4

import aiohttp

from bench.processes import Server, edge, model_worker, valkey
from bench.runs import Row
from stack.models.catalog import DEFAULT_MODEL

WORKERS: Final = 3
CONVERSATIONS: Final = 30
TURNS: Final = 3
AT_ONCE: Final = 3
_SLOTS: Final = 16
_TOKENS: Final = 16
_RULES_WORDS: Final = 20
"""Of the instructions of each conversation, which no other has."""


@dataclass
class _Seen:
    """What the turns after the first showed."""

    cached_tokens: int = 0
    input_tokens: int = 0
    first_token_s: list[float] = field(default_factory=list)


def affinity_rows(folder: Path) -> list[Row]:
    """Affine routing against random routing."""
    with (
        valkey(folder) as redis_url,
        model_worker(folder, "one", slots=_SLOTS) as one,
        model_worker(folder, "two", slots=_SLOTS) as two,
        model_worker(folder, "three", slots=_SLOTS) as three,
        edge(folder, one, two, three, redis_url=redis_url) as server,
    ):
        random = asyncio.run(_converse(server, is_affine=False))
        affine = asyncio.run(_converse(server, is_affine=True))
    shares = [seen.cached_tokens / seen.input_tokens for seen in (affine, random)]
    times = [median(seen.first_token_s) * 1000 for seen in (affine, random)]
    return [
        Row(
            f"{CONVERSATIONS} conversations, {WORKERS} workers",
            f"{shares[0]:.0%} cached",
            f"at random {shares[1]:.0%}",
            f"{shares[0] / shares[1]:.1f}x",
            "> 1",
        ),
        Row(
            "  first token, median",
            f"{times[0]:.0f} ms",
            f"at random {times[1]:.0f} ms",
            f"{times[0] / times[1]:.2f}x",
            "< 1",
        ),
    ]


async def _converse(server: Server, *, is_affine: bool) -> _Seen:
    """Hold all conversations, some of them at a time, turn by turn."""
    seen = _Seen()
    free = asyncio.Semaphore(AT_ONCE)
    run = uuid4().hex
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        previous: dict[int, str] = {}

        async def turn(conversation: int, number: int) -> None:
            async with free:
                body: dict[str, Any] = {
                    "model": DEFAULT_MODEL,
                    "instructions": " ".join(f"{run[:4]}{conversation}-{word}" for word in range(_RULES_WORDS)),
                    "input": f"Question {number}: what comes next?",
                    "previous_response_id": previous.get(conversation),
                    "max_output_tokens": _TOKENS,
                    "temperature": 0,
                    "stream": True,
                    "prompt_cache_key": None if is_affine else uuid4().hex,
                }
                response, first_token_s = await _stream(session, body)
                previous[conversation] = response["id"]
                if number:
                    usage = response["usage"]
                    seen.cached_tokens += usage["input_tokens_details"]["cached_tokens"]
                    seen.input_tokens += usage["input_tokens"]
                    seen.first_token_s.append(first_token_s)

        for number in range(TURNS):
            await asyncio.gather(*(turn(conversation, number) for conversation in range(CONVERSATIONS)))
    return seen


async def _stream(session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The final response, and how long its first token took."""
    started_at = time.monotonic()
    first_token_s, last = 0.0, b""
    async with session.post("/v1/responses", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if line.startswith(b"event: response.output_text.delta") and not first_token_s:
                first_token_s = time.monotonic() - started_at
            if line.startswith(b'data: {"type":"response.') and b'"response":{' in line[:120]:
                last = line
    response: dict[str, Any] = json.loads(last.removeprefix(b"data: "))["response"]
    return response, first_token_s
