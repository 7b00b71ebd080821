"""Schemas in normal form -> rules of a grammar."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, assert_never

from inference.grammar.automaton import ANY, Automaton, Ranges, common, complement, of_length, of_texts, union
from inference.grammar.bodies import MAX_REPEAT, alternatives, char_class, literal, repeated
from inference.grammar.branches import Arrays, Branch, Node, Numbers, Objects, Strings, Values
from inference.grammar.keywords import refusal
from inference.grammar.normal import Document, complexity_at
from inference.grammar.recursion import MAX_LEVELS, Recursion
from inference.grammar.regular import ANYTHING, Chars, Repeated, compiled

if TYPE_CHECKING:
    from inference.grammar.gbnf import Grammar

_FEW = 4
"""Alternatives that are written one by one; more become an automaton, so that an engine follows one of them only."""

_MAX_COUNTED = 20_000
"""Properties that an object names, times those that are counted."""

_ESCAPED: Ranges = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
_UNMARKED = compiled(Repeated(Chars(complement(((ord("<"), ord("<")),))), 0, None))
"""Texts without the sign with which marks begin."""
_RAW: Ranges = union([(0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, 0x10FFFF)])


class _Place(NamedTuple):
    """A node as far down in itself as ``level`` says: rules are written anew for each level."""

    node: Node
    level: int


class SchemaRules:
    """Adds the rules of one document to a grammar."""

    def __init__(self, grammar: "Grammar", document: Document) -> None:
        self._grammar = grammar
        self._document = document
        self._recursion = Recursion(document, document.root)
        self._names: dict[_Place, str] = {}
        self._waiting: list[_Place] = []

    def add(self) -> str:
        """Add all that the document's root needs; returns its rule.

        Raises:
            ApiError: INVALID_JSON_SCHEMA.
            GrammarTooLargeError: as it says.
        """
        name = self._rule(_Place(self._document.root, 0))
        while self._waiting:
            place = self._waiting.pop()
            param = place.node.param
            self._document.check_time(param)
            with complexity_at(param):
                bodies = [
                    self._body(branch, place)
                    for branch in self._document.branches(place.node)
                    if place.level + self._recursion.branch_cost(branch, place.node) <= MAX_LEVELS
                ]
            if not bodies:
                raise refusal(f"its values are nested in themselves more than {MAX_LEVELS} times", param)
            self._grammar.define(self._names[place], " | ".join(bodies))
        return name

    def add_plain(self) -> str:
        """Add the document's root, whose values are strings: their characters as they are, and ``<`` not among them.

        Raises:
            ApiError: as ``add``.
            GrammarTooLargeError: as it says.
        """
        root = self._document.root
        bodies: list[str] = []
        for branch in self._document.branches(root):
            match branch:
                case Values():
                    bodies += [literal(value) for value in branch.values if isinstance(value, str) and "<" not in value]
                case Strings():
                    with complexity_at(root.param):
                        plain = _UNMARKED & of_length(branch.least, branch.most)
                        for language in branch.languages:
                            plain &= language
                        if not plain.is_empty:
                            bodies.append(self._automaton("text", plain, _plain))
                case _:
                    pass
        if not bodies:
            raise refusal("this model's format of calls has no text for its values", root.param)
        return self._grammar.define(self._grammar.reserve(_last_step(root.param)), " | ".join(bodies))

    def _rule(self, place: _Place) -> str:
        if not place.node.members:
            return self._grammar.json_value()
        if place not in self._names:
            self._names[place] = self._grammar.reserve(_last_step(place.node.param))
            self._waiting.append(place)
        return self._names[place]

    def _part(self, place: _Place, part: Node) -> str:
        """The rule of ``part`` as a part of the value at ``place``."""
        return self._rule(_Place(part, place.level + self._recursion.levels(place.node, part)))

    def _has_room(self, place: _Place, part: Node) -> bool:
        """Whether the value at ``place`` can have such a part."""
        return place.level + self._recursion.cost(place.node, part) <= MAX_LEVELS

    def _body(self, branch: Branch, place: _Place) -> str:
        match branch:
            case Values():
                return self._values(branch, place.node)
            case Numbers(low=None, high=None):
                return self._grammar.json_integer() if branch.only_integers else self._grammar.json_number()
            case Numbers():
                return self._automaton("number", branch.automaton, _plain)
            case Strings(least=0, most=None, languages=()):
                return self._grammar.json_string()
            case Strings(languages=()):
                chars = self._grammar.repeat(self._grammar.json_char(), branch.least, branch.most)
                return rf'"\"" {chars} "\""'
            case Strings():
                return self._string(branch.automaton)
            case Arrays():
                return self._array(branch, place)
            case Objects():
                return self._object(branch, place)
            case _:
                assert_never(branch)

    def _values(self, branch: Values, node: Node) -> str:
        try:
            texts = [_json_text(value) for value in branch.values]
        except ValueError as error:
            raise refusal("it has a number that is not finite", node.param) from error
        if len(texts) <= _FEW:
            return " | ".join(map(literal, texts))
        return self._automaton("values", of_texts(texts), _plain)

    def _string(self, automaton: Automaton) -> str:
        return rf'"\"" {self._automaton("text", automaton, self._json_chars)} "\""'

    def _array(self, branch: Arrays, place: _Place) -> str:
        ws = self._grammar.whitespace()
        most = branch.most
        for index, node in enumerate(branch.prefix[:most]):
            if not self._has_room(place, node):
                most = index
        if most is None or most > len(branch.prefix):
            is_closed = branch.is_closed and branch.least <= len(branch.prefix)
            if is_closed or not self._has_room(place, branch.items):
                most = len(branch.prefix)
        if most == 0:
            return f'"[" {ws} "]"'
        return f'"[" {ws} {self._elements(branch, most, place)} "]"'

    def _elements(self, branch: Arrays, most: int | None, place: _Place) -> str:
        """The elements, commas between and whitespace after them."""
        ws = self._grammar.whitespace()
        length = len(branch.prefix) if most is None else min(most, len(branch.prefix))
        body = ws
        if most is None or most > length:
            item = self._part(place, branch.items)
            next_item = self._grammar.add_rule(f"next-{item}", f'"," {ws} {item}')
            least = max(0, branch.least - length)
            limit = None if most is None else most - length
            if length:
                body = f"{self._grammar.repeat(next_item, least, limit)} {ws}"
            else:
                others = self._grammar.repeat(next_item, max(0, least - 1), None if limit is None else limit - 1)
                body = f"{item} {others} {ws}"
                return body if least else f"({body})?"
        for index in reversed(range(length)):
            comma = f'"," {ws} ' if index else ""
            body = f"{comma}{self._part(place, branch.prefix[index])} {body}"
            if index >= branch.least:
                body = self._grammar.add_rule("elements", f"{body} | {ws if index else literal('')}")
        return body

    def _object(self, branch: Objects, place: _Place) -> str:
        ws = self._grammar.whitespace()
        fields = {
            name: self._part(place, value) for name, value in branch.properties.items() if self._has_room(place, value)
        }
        is_open = self._has_room(place, branch.additional)
        if branch.is_closed and branch.least <= len(fields):
            is_open = False
        if is_open and branch.least > len(branch.required) + 1:
            raise refusal(
                "'minProperties' is not supported for properties of any name", f"{place.node.param}.minProperties"
            )
        pair = (
            self._grammar.add_rule(
                "pair", f'{self._other_name(branch)} ":" {ws} {self._part(place, branch.additional)}'
            )
            if is_open
            else None
        )
        cap = min(len(fields), max(1, branch.least, branch.most or 0))
        """Up to so many properties are counted."""
        if cap * len(fields) > _MAX_COUNTED:
            raise refusal("there are too many properties to be counted", place.node.param)
        tails = [self._other_pairs(branch, pair, count) for count in range(cap + 1)]
        for index, (name, value) in reversed(list(enumerate(fields.items()))):
            field = f"{literal(_json_text(name) + ':')} {ws} {value}"
            is_required = name in branch.required
            if not is_required:
                tails = [None if tail is None else self._named(tail) for tail in tails]
            before: list[str | None] = []
            for count in range(min(index, cap) + 1):
                comma = f'"," {ws} ' if count else ""
                rest = tails[min(count + 1, cap)] if branch.most is None or count < branch.most else None
                options = [] if rest is None else [f"{comma}{field} {rest}"]
                if not is_required and (without := tails[count]) is not None:
                    options.append(without)
                if len(options) > 1:
                    options = [self._grammar.add_rule("fields", " | ".join(options))]
                before.append(options[0] if options else None)
            tails = before
        body = tails[0]
        assert body is not None, "the branch is inhabited"
        return f'"{{" {ws} {body} "}}"'

    def _named(self, body: str) -> str:
        """``body`` as one name, so that writing it twice does not double it."""
        return (
            body if body == literal("") or body.replace("-", "").isalnum() else self._grammar.add_rule("fields", body)
        )

    def _other_pairs(self, branch: Objects, pair: str | None, count: int) -> str | None:
        """What may follow the declared properties, of which ``count`` are there; None if nothing can make it valid."""
        ws = self._grammar.whitespace()
        least = max(0, branch.least - count)
        most = None if branch.most is None else branch.most - count
        if pair is None or most == 0:
            return None if least else ws if count else literal("")
        next_pair = self._grammar.add_rule(f"next-{pair}", f'"," {ws} {pair}')
        if count:
            return f"{self._grammar.repeat(next_pair, least, most)} {ws}"
        others = self._grammar.repeat(next_pair, max(0, least - 1), None if most is None else most - 1)
        body = f"{pair} {others} {ws}"
        return body if least else f"({body})?"

    def _other_name(self, branch: Objects) -> str:
        if not branch.properties:
            return self._grammar.json_string()
        return self._string(compiled(ANYTHING) - of_texts(branch.properties))

    def _automaton(self, name: str, automaton: Automaton, spell: Callable[[Ranges], list[str]]) -> str:
        """The rule of the texts that ``automaton`` accepts, in the spelling of ``spell``.

        A rule for each state that is reached in several ways or left in several; chains of others are written out.
        """
        moves = [_moves(automaton, state) for state in range(len(automaton.edges))]
        arrivals = [0] * len(moves)
        for out in moves:
            for target in out:
                arrivals[target] += 1

        def is_last(state: int) -> bool:
            return state in automaton.accepting and not moves[state]

        def is_passed(state: int) -> bool:
            return state != 0 and arrivals[state] == 1 and len(moves[state]) == 1 and state not in automaton.accepting

        rules = {
            state: self._grammar.reserve(name)
            for state in range(len(moves))
            if state == 0 or not (is_last(state) or is_passed(state))
        }
        for state, rule in rules.items():
            bodies: list[str] = []
            for target, ranges in moves[state].items():
                path = [ranges]
                while is_passed(target):
                    ((target, ranges),) = moves[target].items()
                    path.append(ranges)
                bodies.append(_joined([spell(ranges) for ranges in path], rules.get(target)))
            if state in automaton.accepting:
                bodies.append(literal(""))
            self._grammar.define(rule, " | ".join(bodies))
        return rules[0]

    def _json_chars(self, ranges: Ranges) -> list[str]:
        """One character of ``ranges`` inside a JSON string."""
        if ranges == ANY:
            return [self._grammar.json_char()]
        raw, escaped = common(ranges, _RAW), common(ranges, _ESCAPED)
        bodies = _plain(raw) if raw else []
        if escaped == _ESCAPED:
            return [*bodies, self._grammar.json_escape()]
        codes = (code for low, high in escaped for code in range(low, high + 1))
        return [*bodies, *(literal(json.dumps(chr(code))[1:-1]) for code in codes)]


def _moves(automaton: Automaton, state: int) -> dict[int, Ranges]:
    """By target, the characters that lead there."""
    by_target: dict[int, list[tuple[int, int]]] = {}
    for low, high, target in automaton.edges[state]:
        by_target.setdefault(target, []).append((low, high))
    return {target: union(ranges) for target, ranges in by_target.items()}


def _joined(path: Sequence[list[str]], end: str | None) -> str:
    """Bodies for one item after the other, each one of several; equal neighbours are counted, literals joined."""
    items: list[tuple[str, int]] = []
    for bodies in path:
        item = bodies[0] if len(bodies) == 1 else alternatives(bodies)
        if items and items[-1][0] == item:
            items[-1] = (item, items[-1][1] + 1)
        elif items and _is_literal(item) and _is_literal(items[-1][0]) and items[-1][1] == 1:
            items[-1] = (items[-1][0][:-1] + item[1:], 1)
        else:
            items.append((item, 1))
    pieces = [
        repeated(item, times, times)
        for item, count in items
        for times in [MAX_REPEAT] * (count // MAX_REPEAT) + [count % MAX_REPEAT]
        if times
    ]
    return " ".join(pieces if end is None else [*pieces, end])


def _is_literal(body: str) -> bool:
    return body.startswith('"')


def _plain(ranges: Ranges) -> list[str]:
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return [literal(chr(ranges[0][0]))]
    return [char_class(ranges)]


def _json_text(value: object) -> str:
    """``value`` in its shortest spelling.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs: only their escapes can be written
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text


def _last_step(param: str) -> str:
    return param.rpartition(".")[2]
