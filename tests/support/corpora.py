"""Recorded outputs of model families, one file each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from antiphon.inference.v1.inference_pb2 import PART_KIND_FUNCTION_CALL, PART_KIND_REASONING, PART_KIND_TEXT
from inference.parsing.base import OutputParser
from inference.parsing.thinking import ThinkingMarks, ThinkingParser
from inference.tools.format import ToolFormat
from inference.tools.native import find_format
from tests.support.parsing import Parts

_FOLDER = Path(__file__).parent.parent / "corpora"
_KINDS = {"text": PART_KIND_TEXT, "reasoning": PART_KIND_REASONING, "call": PART_KIND_FUNCTION_CALL}


@dataclass(frozen=True)
class Stream:
    """One output."""

    family: str
    name: str
    tokens: Sequence[str]
    parts: Parts
    is_cut: bool
    """By the token limit, or by a model that leaves arguments unfinished: those of calls need not be JSON."""
    format: ToolFormat
    functions: Mapping[str, str]
    control_tokens: Sequence[str]
    marks: ThinkingMarks | None
    prompt_opens: bool

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @cached_property
    def id(self) -> str:
        return f"{self.family}: {self.name}"

    def new_parser(self, *, may_mix: bool = True) -> OutputParser:
        """As a worker makes it."""

        def answer() -> OutputParser:
            return self.format.new_parser(may_mix=may_mix, functions=self.functions)

        if self.marks is None:
            return answer()
        return ThinkingParser(self.marks, is_open=self.prompt_opens, new_answer_parser=answer)


def streams() -> Iterator[Stream]:
    """All of them."""
    for file in sorted(_FOLDER.glob("*.json")):
        corpus: dict[str, Any] = json.loads(file.read_text())
        if "format" not in corpus:  # of thoughts alone
            continue
        marks = ThinkingMarks(*corpus["thinking"]["marks"]) if "thinking" in corpus else None
        for stream in corpus["streams"]:
            yield Stream(
                family=file.stem,
                name=stream["name"],
                tokens=stream["tokens"],
                parts=[(_KINDS[kind], name, text) for kind, name, text in stream["parts"]],
                is_cut=stream.get("cut", False),
                format=find_format(corpus["format"]),
                functions={name: json.dumps(schema) for name, schema in corpus["functions"].items()},
                control_tokens=corpus["control_tokens"],
                marks=marks,
                prompt_opens=stream.get("prompt_opens", False),
            )
