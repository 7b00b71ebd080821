"""The scripted engine's language: text in, commands out. The package's docstring describes it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from inference.tokenizer import Tokenizer

HEADER = "script:"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_USER = b"user\n"
_ASSISTANT = "assistant\n"


@dataclass(frozen=True, slots=True)
class Emit:
    """Generate these tokens, so many times."""

    token_ids: tuple[int, ...]
    times: int = 1


@dataclass(frozen=True, slots=True)
class SetPace:
    """Generate so many tokens a second from here on; 0: no limit."""

    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """Wait as long as the uncached part of the prompt takes."""

    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for a time."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Do nothing until aborted."""


@dataclass(frozen=True, slots=True)
class Fail:
    """End with an error."""

    message: str
    engine_too: bool


@dataclass(frozen=True, slots=True)
class End:
    """End of turn, or of a content filter's patience."""

    filtered: bool = False


Command: TypeAlias = Emit | SetPace | Prefill | Wait | Hold | Fail | End


class ScriptError(Exception):
    """The message names the line."""


def last_user_message(prompt: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of the last user message in a prompt of ``CHAT_TEMPLATE``; of the whole prompt if there is none."""
    start, end = tokenizer.markers["<|im_start|>"], tokenizer.markers["<|im_end|>"]
    message: bytes | None = None
    begin = 0
    for index, token_id in enumerate(prompt):
        if token_id == start:
            begin = index + 1
        elif token_id == end:
            text = tokenizer.decode(prompt[begin:index])
            message = text.removeprefix(_USER) if text.startswith(_USER) else message
    return (tokenizer.decode(prompt) if message is None else message).decode(errors="replace")


def generated_before(prompt: Sequence[int], tokenizer: Tokenizer) -> int:
    """How many of the last tokens of ``prompt`` are the beginning of the answer: a generation is being continued."""
    start = tokenizer.markers["<|im_start|>"]
    header = tokenizer.encode(_ASSISTANT)
    for index in range(len(prompt) - 1, -1, -1):
        if prompt[index] == start and list(prompt[index + 1 : index + 1 + len(header)]) == header:
            return len(prompt) - index - 1 - len(header)
    return 0


def commands(message: str, default: str, prompt: Sequence[int], tokenizer: Tokenizer) -> list[Command]:
    """What ``message`` tells to do if it is a script, else what ``default`` tells, else to generate ``message``.

    Raises:
        ScriptError: a line is no command.
    """
    for text in (message, default):
        header, _, body = text.partition("\n")
        if header.strip() == HEADER:
            return _parse_all(body, prompt, tokenizer)
    return [Emit(tuple(tokenizer.encode(message)))]


def _parse_all(body: str, prompt: Sequence[int], tokenizer: Tokenizer) -> list[Command]:
    parsed: list[Command] = []
    for number, line in enumerate(body.splitlines(), start=2):
        if not line.strip():
            continue
        name, _, argument = line.strip().partition(" ")
        try:
            parsed.append(_parse(name, argument, prompt, tokenizer))
        except (ValueError, KeyError) as error:
            raise ScriptError(f"line {number}, {line!r}: {error!r}") from error
    return parsed


def _parse(name: str, argument: str, prompt: Sequence[int], tokenizer: Tokenizer) -> Command:
    match name:
        case "say":
            return Emit(tuple(tokenizer.encode(argument)))
        case "json":
            return Emit(tuple(tokenizer.encode(str(json.loads(argument)))))
        case "tokens":
            return Emit(tuple(tokenizer.encode(" token")), times=int(argument))
        case "bytes":
            return Emit(tuple(bytes.fromhex(argument)))
        case "marker":
            return Emit((tokenizer.markers[argument],))
        case "echo":
            return Emit(tuple(id_ for id_ in prompt if tokenizer.token_bytes(id_)))
        case "pace":
            return SetPace(_positive(argument, zero=True))
        case "prefill":
            return Prefill(_positive(argument))
        case "wait":
            return Wait(_positive(argument, zero=True) / 1000)
        case "hold":
            return Hold()
        case "fail" | "die":
            return Fail(argument or f"the script says {name}", engine_too=name == "die")
        case "filter" | "end":
            return End(filtered=name == "filter")
        case _:
            raise ValueError("there is no such command")


def _positive(text: str, *, zero: bool = False) -> float:
    value = float(text)
    if not (0 <= value < float("inf")) or (value == 0 and not zero):
        raise ValueError("not a number, or out of range")
    return value
