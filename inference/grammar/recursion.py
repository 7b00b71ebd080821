"""How deep schemas that contain themselves are followed. Models do not stop of themselves; grammars make them."""

import math
from collections.abc import Iterator

from inference.grammar.branches import Arrays, Branch, Node, Objects, Values, first_elements
from inference.grammar.normal import Document

MAX_LEVELS = 10
"""How many times a value may be inside a value of the same schema: as deep as OpenAI lets schemas be nested."""


class Recursion:
    """The levels of one document. In a walk from the root, an edge back to a node on the way leads a level down.

    Raises:
        ApiError: INVALID_JSON_SCHEMA, from the constructor.
    """

    def __init__(self, document: Document, root: Node) -> None:
        self._document = document
        self._branches: dict[Node, list[Branch]] = {}
        self._back: set[tuple[Node, Node]] = set()
        self._walk(root, set())
        self._costs: dict[Node, float] = dict.fromkeys(self._branches, math.inf)
        changed = True
        while changed:
            changed = False
            for node, branches in reversed(self._branches.items()):
                cost = min((self.branch_cost(branch, node) for branch in branches), default=math.inf)
                if cost < self._costs[node]:
                    self._costs[node] = cost
                    changed = True

    def levels(self, parent: Node, child: Node) -> int:
        """How many levels ``child`` is below ``parent`` where it is a part of it: 0 or 1."""
        return int((parent, child) in self._back)

    def cost(self, parent: Node, child: Node) -> float:
        """How many levels the flattest value of ``child`` reaches below ``parent``; infinite if there is none."""
        return self.levels(parent, child) + self._costs[child]

    def branch_cost(self, branch: Branch, node: Node) -> float:
        """How many levels the flattest value of a branch of ``node`` reaches."""
        match branch:
            case Arrays():
                return max((self.cost(node, part) for part in first_elements(branch)), default=0)
            case Objects():
                costs = {name: self.cost(node, part) for name, part in branch.properties.items()}
                needed = [costs.pop(name) for name in branch.required]
                if (missing := branch.least - len(needed)) > 0:
                    any_name = self.cost(node, branch.additional)
                    cheaper = sorted(cost for cost in costs.values() if cost <= any_name)
                    needed.append(cheaper[missing - 1] if missing <= len(cheaper) else any_name)
                return max(needed, default=0)
            case _:
                return 0

    def _walk(self, node: Node, above: set[Node]) -> None:
        self._branches[node] = self._document.branches(node) if node.members else [Values((None,))]
        above.add(node)
        for branch in self._branches[node]:
            for part in _parts(branch):
                if part in above:
                    self._back.add((node, part))
                elif part not in self._branches:
                    self._walk(part, above)
        above.remove(node)


def _parts(branch: Branch) -> Iterator[Node]:
    match branch:
        case Arrays():
            yield from branch.prefix
            yield branch.items
        case Objects():
            yield from branch.properties.values()
            yield branch.additional
        case _:
            pass
