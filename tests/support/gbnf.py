"""A reader of GBNF: what a grammar matches, and random texts of it. Knows what llama.cpp and xgrammar share."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Char:
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ref:
    name: str


@dataclass(frozen=True, slots=True)
class Group:
    options: "tuple[tuple[Symbol, ...], ...]"


@dataclass(frozen=True, slots=True)
class Repeat:
    symbol: "Symbol"
    least: int
    most: int | None


Symbol: TypeAlias = Char | Ref | Group | Repeat
Rest: TypeAlias = "tuple[Symbol, Rest] | None"
"""What is still to match, as a linked list."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_ESCAPE = re.compile(r"\\(?:u([0-9A-F]{4})|U([0-9A-F]{8})|([nrt\"\\]))")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_COUNT = re.compile(r"\{(\d+)(,(\d*))?\}")


class GbnfError(ValueError):
    """A text is no grammar in the common subset."""


class Gbnf:
    """A parsed grammar."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Group] = {}
        for line in text.splitlines():
            name, separator, body = line.partition(" ::= ")
            if not separator or not _NAME.fullmatch(name) or name in self.rules:
                raise GbnfError(line)
            self.rules[name] = _Reader(body).whole()
        if "root" not in self.rules:
            raise GbnfError("no root")
        for group in self.rules.values():
            self._check(group)
        self._expanded = lru_cache(100_000)(self._expand)

    def matches(self, text: str) -> bool:
        """Whether the whole of ``text`` is generated."""
        states: frozenset[Rest] = frozenset({(Ref("root"), None)})
        for char in text:
            states = frozenset(
                rest
                for state in states
                for ranges, rest in self._expanded(state)[0]
                if any(low <= ord(char) <= high for low, high in ranges)
            )
        return any(self._expanded(state)[1] for state in states)

    def generate(self, seed: int, *, symbols: int = 300) -> str:
        """A random text; after so many symbols the way to its end is the shortest."""
        chooser = random.Random(seed)
        waiting: list[Symbol] = [Ref("root")]
        written: list[str] = []
        while waiting:
            symbols -= 1
            match waiting.pop():
                case Char(ranges):
                    written.append(chr(chooser.randint(*chooser.choice(ranges))))
                case Ref(name):
                    waiting.append(self.rules[name])
                case Group(options):
                    usable = [option for option in options if self._height(option) < _ENDLESS]
                    option = chooser.choice(usable) if symbols > 0 else min(usable, key=self._height)
                    waiting += reversed(option)
                case Repeat(symbol, least, most):
                    longest = least + chooser.choice((0, 1, 2, 5)) if most is None else most
                    many = symbols > 0 and self._height((symbol,)) < _ENDLESS
                    waiting += [symbol] * (chooser.randint(least, longest) if many else least)
        return "".join(written)

    def _check(self, symbol: Symbol) -> None:
        match symbol:
            case Ref(name) if name not in self.rules:
                raise GbnfError(f"no rule {name}")
            case Group(options):
                for option in options:
                    for item in option:
                        self._check(item)
            case Repeat(item, least, most):
                if max(least, most or 0) >= 2000 or (most is not None and most < least):
                    raise GbnfError("llama.cpp takes less than 2000 repetitions")
                self._check(item)
            case _:
                pass

    def _expand(self, state: Rest) -> tuple[tuple[tuple[tuple[tuple[int, int], ...], Rest], ...], bool]:
        """The characters that may come next with what follows them, and whether the text may end here."""
        found: list[tuple[tuple[tuple[int, int], ...], Rest]] = []
        may_end = False
        waiting: list[Rest] = [state]
        seen: set[Rest] = set()
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            if current is None:
                may_end = True
                continue
            symbol, rest = current
            match symbol:
                case Char(ranges):
                    found.append((ranges, rest))
                case Ref(name):
                    waiting.append((self.rules[name], rest))
                case Group(options):
                    for option in options:
                        chain = rest
                        for item in reversed(option):
                            chain = (item, chain)
                        waiting.append(chain)
                case Repeat(item, least, most):
                    if least == 0:
                        waiting.append(rest)
                    if most is None or most > 0:
                        left = Repeat(item, max(0, least - 1), None if most is None else most - 1)
                        waiting.append((item, (left, rest)))
        return tuple(found), may_end

    @cached_property
    def _heights(self) -> dict[str, int]:
        """For each rule, how deep the smallest text of it is nested."""
        heights = dict.fromkeys(self.rules, _ENDLESS)
        self.__dict__["_heights"] = heights  # what is known so far
        changed = True
        while changed:
            changed = False
            for name, group in reversed(self.rules.items()):
                height = 1 + min(map(self._height, group.options))
                if height < heights[name]:
                    heights[name] = height
                    changed = True
        return heights

    def _height(self, items: tuple[Symbol, ...]) -> int:
        return max(map(self._symbol_height, items), default=0)

    def _symbol_height(self, symbol: Symbol) -> int:
        match symbol:
            case Char(ranges):
                return 0 if ranges else _ENDLESS
            case Ref(name):
                return min(self._heights[name], _ENDLESS)
            case Group(options):
                return min(map(self._height, options))
            case Repeat(item, least, _):
                return self._symbol_height(item) if least else 0


_ENDLESS = 10**6


class _Reader:
    def __init__(self, body: str) -> None:
        self._body = body
        self._position = 0

    def whole(self) -> Group:
        group = self._group()
        if self._position != len(self._body):
            raise GbnfError(f"at {self._position} of {self._body}")
        return group

    def _group(self) -> Group:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return Group(tuple(options))

    def _sequence(self) -> tuple[Symbol, ...]:
        items: list[Symbol] = []
        empty = False
        while True:
            self._skip()
            if self._take('"'):
                literal = list(self._chars('"'))
                empty = empty or not literal
                item: Symbol = Group((tuple(Char(((code, code),)) for code in literal),))
            elif self._take("["):
                item = Char(tuple(self._ranges()))
            elif self._take("("):
                item = self._group()
                if not self._take(")"):
                    raise GbnfError("no )")
            elif (name := _NAME.match(self._body, self._position)) is not None:
                self._position = name.end()
                item = Ref(name[0])
            else:
                break
            items.append(self._repeated(item))
        if not items:
            raise GbnfError(f"an option is empty in {self._body}")
        return tuple(items)

    def _repeated(self, item: Symbol) -> Symbol:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._body.startswith(sign, self._position):
                self._position += 1
                return Repeat(item, least, most)
        if (count := _COUNT.match(self._body, self._position)) is not None:
            self._position = count.end()
            least = int(count[1])
            return Repeat(item, least, least if count[2] is None else int(count[3]) if count[3] else None)
        return item

    def _ranges(self) -> Iterator[tuple[int, int]]:
        codes: list[int] = []
        while not self._take_exactly("]"):
            codes.append(self._char())
            if self._take_exactly("-"):
                low, high = codes.pop(), self._char()
                if low > high:
                    raise GbnfError("range")
                yield low, high
        yield from ((code, code) for code in codes)

    def _chars(self, end: str) -> Iterator[int]:
        while not self._take_exactly(end):
            yield self._char()

    def _char(self) -> int:
        if (escape := _ESCAPE.match(self._body, self._position)) is not None:
            self._position = escape.end()
            return ord(_CONTROLS[escape[3]]) if escape[3] else int(escape[1] or escape[2], 16)
        if self._position >= len(self._body) or self._body[self._position] in "\\\n\r":
            raise GbnfError(f"at {self._position} of {self._body}")
        self._position += 1
        return ord(self._body[self._position - 1])

    def _skip(self) -> None:
        while self._take_exactly(" "):
            pass

    def _take(self, char: str) -> bool:
        self._skip()
        return self._take_exactly(char)

    def _take_exactly(self, char: str) -> bool:
        if self._body.startswith(char, self._position):
            self._position += 1
            return True
        return False
