"""A model that sees, tiny and untrained: none can be had here. What it says means nothing, but pixels change it."""

from pathlib import Path
from typing import NamedTuple

from inference.gguf import Value
from inference.vocabulary import byte_pair_alphabet
from tests.support.gguf import write_model, write_projector
from tests.support.templates import CASES

MARKERS = {"<|endoftext|>": 3, "<|im_start|>": 3, "<|im_end|>": 3, "<fake_token_around_image>": 3, "<row_1_col_1>": 4}
"""Text and type: control tokens, and one that is user-defined."""


class VisionModel(NamedTuple):
    """Its two files."""

    model: Path
    projector: Path

    @property
    def settings(self) -> dict[str, str]:
        """Of a worker, as ``worker_process`` takes them."""
        return {"engine": "llamacpp", "model_path": str(self.model), "projector_path": str(self.projector)}


def vision_model(folder: Path, *more: str) -> VisionModel:
    """Write the files into ``folder``; some 100 KB, the same bytes each time.

    Args:
        more: Further tokens, of text by their type.
    """
    made = VisionModel(folder / "vision.gguf", folder / "mmproj.gguf")
    write_model(made.model, _vocabulary(*more))
    write_projector(made.projector)
    return made


def _vocabulary(*more: str) -> dict[str, Value]:
    """Bytes, two pairs of them, and markers."""
    tokens = [
        *MARKERS.items(),
        *((character, 1) for character in byte_pair_alphabet()),
        *((text, 1) for text in ("he", "ll", *more)),
    ]
    template = next(case.source for case in CASES if case.name == "chatml")
    return {
        "llama.context_length": 4096,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [text for text, _ in tokens],
        "tokenizer.ggml.token_type": [type_ for _, type_ in tokens],
        "tokenizer.ggml.merges": ["h e", "l l"],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template,
    }
