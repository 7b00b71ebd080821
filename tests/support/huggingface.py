"""Small model folders as Hugging Face's hub has them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.huggingface import Json

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
ALPHABET = [chr(byte) for byte in _PRINTABLE] + [chr(256 + index) for index in range(len(_OTHERS))]
"""The characters by which byte-level BPE spells bytes."""
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("<", "s"), ("<s", ">"))


def added(token_id: int, content: str, *, special: bool) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, "special": special, **flags}


def byte_level(markers: Mapping[str, bool]) -> Json:
    """A ``tokenizer.json`` of bytes, ``MERGES`` and added tokens, each of which is special or not.

    Its merges make ``<s>`` even of plain text, and its normalizer makes ``<`` of a full-width one.
    """
    pieces = [*ALPHABET, *(first + second for first, second in MERGES)]
    vocab = {text: token_id for token_id, text in enumerate(pieces)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added(vocab.get(text, len(pieces) + index), text, special=special)
            for index, (text, special) in enumerate(markers.items())
        ],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": [list(merge) for merge in MERGES]},
    }


def sentencepiece(markers: Mapping[str, bool], *, has_bytes: bool = True) -> Json:
    """A ``tokenizer.json`` as Llama 2's: byte tokens, a space before every text, BOS by the post-processor."""
    texts = ["<unk>", "<s>", "</s>", *([f"<0x{byte:02X}>" for byte in range(256)] if has_bytes else [])]
    vocab = {text: token_id for token_id, text in enumerate([*texts, "▁", "t", "h", "e", "th", "the", "▁the"])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *(added(vocab[text], text, special=True) for text in texts[:3]),
            *(
                added(len(vocab) + index, text, special=special)
                for index, (text, special) in enumerate(markers.items())
            ),
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": has_bytes,
            "vocab": vocab,
            "merges": [["t", "h"], ["th", "e"], ["▁", "the"]],
        },
    }


def write_folder(folder: Path, files: Mapping[str, Any]) -> Path:
    """Write ``files``: text as it is, all else as JSON."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def model_files(
    spec: Json, *, template: object = "{{ messages[0].content }}", eos: Sequence[int] = ()
) -> dict[str, Any]:
    """The files of a small model."""
    return {
        "tokenizer.json": spec,
        "tokenizer_config.json": {"eos_token": "</s>", "bos_token": {"content": "<s>"}, "chat_template": template},
        "config.json": {"max_position_embeddings": 4096, "eos_token_id": 7},
        "generation_config.json": {"eos_token_id": list(eos)} if eos else {},
    }
