"""Schemas in normal form: the alternatives that they leave, each of one type with all its limits in one place.

``allOf``, ``$ref`` and keywords beside them are conjunctions, ``anyOf`` and ``oneOf`` disjunctions of schemas. A node
is a conjunction; it is multiplied out into alternatives that hold none of these any more, and those are merged type by
type. What is below, such as the schema of a property under two schemas of an object, is again a node.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from inference.grammar.automaton import TooComplexError
from inference.grammar.branches import (
    Arrays,
    Branch,
    Members,
    Node,
    Numbers,
    Objects,
    Strings,
    Values,
    counts,
    first_elements,
    numbers,
    strings,
)
from inference.grammar.evaluate import is_valid, same
from inference.grammar.keywords import ALL_KINDS, Keywords, Sub, refusal

MAX_NODES = 5_000
MAX_DEPTH = 100
MAX_ALTERNATIVES = 300
"""Of one node."""
_MAX_STEPS = 50_000
"""In the search for a value of one node."""
_MAX_CPU_S = 2.0
"""Of one schema: those that are meant to be used take milliseconds."""

_NULL = {"type": "null"}


class Document:
    """One schema and all that it refers to.

    Raises:
        ApiError: INVALID_JSON_SCHEMA, from every method.
    """

    def __init__(self, schema: object, *, param: str) -> None:
        self._schema = schema
        self._param = param
        self._nodes: dict[frozenset[int], Node] = {}
        self._in_exclusion: set[int] = set()
        self._discriminated: dict[tuple[int, str], list[Sub]] = {}
        self._steps = 0
        self._started = time.thread_time()
        self.root = self.node([Sub(schema, param)], depth=0)

    def node(self, subs: Iterable[Sub], *, depth: int) -> Node:
        """The node of the values that are valid under all of ``subs``."""
        members = {id(sub.schema): sub for sub in subs if sub.schema is not True and sub.schema != {}}
        key = frozenset(members)
        if key not in self._nodes:
            param = next((sub.param for sub in members.values()), self._param)
            if depth > MAX_DEPTH:
                raise refusal(f"schemas are nested more than {MAX_DEPTH} deep", param)
            if len(self._nodes) >= MAX_NODES:
                raise refusal("the schema is too large", param)
            self._nodes[key] = Node(tuple(members.values()), depth, param)
        return self._nodes[key]

    def branches(self, node: Node) -> list[Branch]:
        """The branches of ``node`` that are to be generated; none if no value is valid."""
        self._branches(node)
        self._steps = 0
        with complexity_at(node.param):
            for branches in (node.narrowed, self._branches(node)):
                if found := [branch for branch in branches if self._branch_is_inhabited(branch, set())]:
                    return found
        return []

    def is_inhabited(self, node: Node) -> bool:
        """Whether some value is valid."""
        self._steps = 0
        return self._is_inhabited(node, set())

    def contradiction(self) -> str:
        """Where the schema, which has no valid value, leaves none: as deep as one place is to blame."""
        node = self.root
        seen = {id(node)}  # what contains itself without an end has no deepest place
        while (part := self._empty_part(node)) is not None and id(part) not in seen:
            seen.add(id(part))
            node = part
        return node.param

    def _empty_part(self, node: Node) -> Node | None:
        """What each value of ``node`` has to hold, and cannot."""
        match self._branches(node):
            case [Arrays() as arrays]:
                parts = list(first_elements(arrays))
            case [Objects() as objects]:
                parts = [part for name, part in objects.properties.items() if name in objects.required]
            case _:
                return None
        return next((part for part in parts if not self.is_inhabited(part)), None)

    def check_time(self, param: str) -> None:
        """To be called now and then."""
        if time.thread_time() - self._started > _MAX_CPU_S:
            raise refusal("the schema is too complex", param)

    def _branches(self, node: Node) -> list[Branch]:
        if node.branches is None:
            self.check_time(node.param)
            branches: list[Branch] = []
            for alternative in self._conjunction(node.members, ()):
                found, narrowed = self._merged(alternative, node)
                branches += found
                node.narrowed += narrowed
            node.branches = branches
        return node.branches

    def _conjunction(self, members: Iterable[Sub], trail: tuple[int, ...]) -> list[Members]:
        found: list[Members] = [()]
        for member in members:
            found = self._product(found, self._alternatives(member, trail), member)
        return found

    def _product(self, first: list[Members], second: list[Members], sub: Sub) -> list[Members]:
        if len(first) * len(second) > MAX_ALTERNATIVES:
            raise refusal(f"there are more than {MAX_ALTERNATIVES} alternatives", sub.param)
        return [(*left, *right) for left in first for right in second]

    def _alternatives(self, sub: Sub, trail: tuple[int, ...]) -> list[Members]:
        """``sub`` as a disjunction of conjunctions, in whose members references and combinations count no more."""
        if isinstance(sub.schema, bool):
            return [()] if sub.schema else []
        if id(sub.schema) in trail or len(trail) > MAX_DEPTH:
            raise refusal("the schema refers to itself without an end", sub.param)
        trail = (*trail, id(sub.schema))
        keywords = Keywords(sub)
        found: list[Members] = [(sub,)]
        if (reference := keywords.string("$ref")) is not None:
            target = self._resolved(reference, sub.at("$ref"))
            found = self._product(found, self._alternatives(target, trail), sub)
        if (all_of := keywords.schemas("allOf")) is not None:
            found = self._product(found, self._conjunction(all_of, trail), sub)
        for keyword in ("anyOf", "oneOf"):
            if (options := keywords.schemas(keyword)) is None:
                continue
            if keyword == "oneOf":
                options = self._exclusive(options, keywords)
            union = [alternative for option in options for alternative in self._alternatives(option, trail)]
            if len(union) > MAX_ALTERNATIVES:
                raise refusal(f"there are more than {MAX_ALTERNATIVES} alternatives", sub.at(keyword))
            found = self._product(found, union, sub)
        if keywords.given.get("nullable") is True:  # OpenAPI 3.0's
            found.append((Sub(_NULL, sub.at("nullable")),))
        return found

    def _resolved(self, reference: str, param: str) -> Sub:
        pointer = unquote(reference.removeprefix("#"))
        if not reference.startswith("#") or (pointer and not pointer.startswith("/")):
            raise refusal(f"'{reference}' is not a place in this schema, such as '#/$defs/name'", param)
        schema, place = self._schema, self._param
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(schema, dict) and key in schema:
                schema, place = schema[key], f"{place}.{key}"
            elif isinstance(schema, list) and key.isdecimal() and int(key) < len(schema):
                schema, place = schema[int(key)], f"{place}[{key}]"
            else:
                raise refusal(f"'{reference}' does not exist", param)
        return Sub(schema, place)

    def _exclusive(self, options: list[Sub], keywords: Keywords) -> list[Sub]:
        """``options`` of a ``oneOf``, if no value is valid under two of them: then it means the same as ``anyOf``.

        If some are, options with a discriminator (OpenAPI's) are held to it: it tells them apart where it is present.
        """
        identity = id(keywords.given)
        if identity in self._in_exclusion:
            return options
        self._in_exclusion.add(identity)
        try:
            clash = self._clash(options, keywords.sub)
            if clash is None:
                return options
            discriminator = keywords.given.get("discriminator")
            if isinstance(discriminator, dict) and isinstance(name := discriminator.get("propertyName"), str):
                key = (identity, name)
                if key not in self._discriminated:
                    required: dict[str, object] = {"type": "object", "required": [name]}
                    self._discriminated[key] = [
                        Sub({"allOf": [option.schema, required]}, option.param) for option in options
                    ]
                if self._clash(self._discriminated[key], keywords.sub) is None:
                    return self._discriminated[key]
            raise refusal(f"some values are valid under both of {clash}, use 'anyOf'", keywords.sub.at("oneOf"))
        finally:
            self._in_exclusion.remove(identity)

    def _clash(self, options: list[Sub], whole: Sub) -> str | None:
        """Two of ``options`` under which one value is valid that is valid under the rest of ``whole``, too."""
        for index, option in enumerate(options):
            for other_index, other in enumerate(options[:index]):
                if self._is_inhabited(self.node([option, other, whole], depth=0), set()):
                    return f"oneOf[{other_index}] and oneOf[{index}]"
        return None

    def _merged(self, members: Members, node: Node) -> tuple[list[Branch], list[Branch]]:
        """The branches of one alternative, and those of them that are to be generated."""
        schemas = [Keywords(member) for member in members]
        kinds = ALL_KINDS
        is_typed = False
        values: list[object] | None = None
        for keywords in schemas:
            if (given := keywords.kinds()) is not None:
                kinds &= given
                is_typed = True
            if values is None:
                values = keywords.values()
        if values is not None:
            valid = _distinct(v for v in values if all(is_valid(v, keywords, self._resolved) for keywords in schemas))
            branches: list[Branch] = [Values(tuple(valid))] if valid else []
            return branches, branches
        by_kind: dict[str, list[Branch]] = {}
        if "null" in kinds:
            by_kind["null"] = [Values((None,))]
        if "boolean" in kinds:
            by_kind["boolean"] = [Values((True, False))]
        if "integer" in kinds:
            by_kind["integer"] = [numbers(schemas, only_integers="fraction" not in kinds)]
        if "string" in kinds:
            by_kind["string"] = [strings(schemas)]
        if "array" in kinds:
            by_kind["array"] = [self._arrays(schemas, node)]
        if "object" in kinds:
            by_kind["object"] = [self._objects(schemas, node)]
        implied = frozenset().union(*(keywords.implied_kinds() for keywords in schemas))
        all_branches = [branch for branches in by_kind.values() for branch in branches]
        if is_typed or not implied:
            return all_branches, all_branches
        return all_branches, [branch for kind, branches in by_kind.items() if kind in implied for branch in branches]

    def _arrays(self, schemas: list[Keywords], node: Node) -> Arrays:
        prefixes = [keywords.prefix_items() for keywords in schemas]
        rests = [keywords.items() for keywords in schemas]
        length = max(map(len, prefixes), default=0)

        def element(index: int) -> Node:
            subs = (
                prefix[index] if index < len(prefix) else rest for prefix, rest in zip(prefixes, rests, strict=True)
            )
            return self.node((sub for sub in subs if sub is not None), depth=node.depth + 1)

        least, most = counts(schemas, "minItems", "maxItems")
        return Arrays(
            prefix=tuple(map(element, range(length))),
            items=element(length),
            least=least,
            most=most,
            is_closed=length > 0 and not any(rests),
        )

    def _objects(self, schemas: list[Keywords], node: Node) -> Objects:
        by_schema = [keywords.properties() for keywords in schemas]
        additional = [keywords.schema("additionalProperties") for keywords in schemas]
        required = {name: None for keywords in schemas for name in keywords.names("required")}
        names = dict.fromkeys([*(name for properties in by_schema for name in properties), *required])

        def property_(name: str | None) -> Node:
            subs = (
                properties.get(name, other) if name is not None else other
                for properties, other in zip(by_schema, additional, strict=True)
            )
            return self.node((sub for sub in subs if sub is not None), depth=node.depth + 1)

        least, most = counts(schemas, "minProperties", "maxProperties")
        return Objects(
            properties={name: property_(name) for name in names},
            required=frozenset(required),
            additional=property_(None),
            least=max(least, len(required)),
            most=most,
            is_closed=bool(names) and not any(additional),
        )

    def _is_inhabited(self, node: Node, above: set[int]) -> bool:
        if node.is_inhabited is None:
            if id(node) in above:
                return False  # the smallest value of a node does not need a value of that node
            self._steps += 1
            if self._steps > _MAX_STEPS:
                raise refusal("the schema is too complex", node.param)
            above.add(id(node))
            with complexity_at(node.param):
                inhabited = any(self._branch_is_inhabited(branch, above) for branch in self._branches(node))
            above.remove(id(node))
            if inhabited or not above:
                node.is_inhabited = inhabited
            return inhabited
        return node.is_inhabited

    def _branch_is_inhabited(self, branch: Branch, above: set[int]) -> bool:
        match branch:
            case Values():
                return True
            case Numbers(low=None) | Numbers(high=None):
                return True
            case Numbers():
                return not branch.automaton.is_empty
            case Strings(languages=()):
                return branch.most is None or branch.least <= branch.most
            case Strings():
                return not branch.automaton.is_empty
            case Arrays():
                return (branch.most is None or branch.least <= branch.most) and all(
                    self._is_inhabited(element, above) for element in first_elements(branch)
                )
            case Objects():
                if branch.most is not None and branch.least > branch.most:
                    return False
                if not all(self._is_inhabited(branch.properties[name], above) for name in sorted(branch.required)):
                    return False
                missing = branch.least - len(branch.required)
                optional = (node for name, node in branch.properties.items() if name not in branch.required)
                if missing > 0 and not self._is_inhabited(branch.additional, above):
                    missing -= sum(self._is_inhabited(node, above) for node in optional)
                    return missing <= 0
                return True


def _distinct(values: Iterable[object]) -> list[object]:
    found: list[object] = []
    for value in values:
        if not any(same(value, other) for other in found):
            found.append(value)
    return found


@contextmanager
def complexity_at(param: str) -> Iterator[None]:
    """TooComplexError becomes a refusal of the schema at ``param``."""
    try:
        yield
    except TooComplexError as error:
        raise refusal("its strings or numbers are too complex", param) from error
