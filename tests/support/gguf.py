"""Writes GGUF files: metadata of any shape, and a whole model, tiny and untrained."""

import random
import struct
from collections.abc import Mapping
from pathlib import Path

from inference.gguf import Value

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_ALIGNMENT = 32
_WIDTH, _HIDDEN = 32, 64


def header(metadata: Mapping[str, Value], *, tensors: int = 0, version: int = 3) -> bytes:
    """All of a file up to the tensors."""
    pairs = b"".join(_string(key) + _typed(value) for key, value in metadata.items())
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(metadata)) + pairs


def write_model(path: Path, metadata: Mapping[str, Value]) -> None:
    """A model of one layer with the vocabulary in `metadata`; llama.cpp loads it, and it generates nonsense."""
    vocabulary = metadata["tokenizer.ggml.tokens"]
    assert isinstance(vocabulary, list)
    attention: dict[str, tuple[int, ...]] = {
        f"blk.0.attn_{part}.weight": (_WIDTH, _WIDTH) for part in ("q", "k", "v", "output")
    }
    shapes: dict[str, tuple[int, ...]] = attention | {
        "token_embd.weight": (_WIDTH, len(vocabulary)),
        "output_norm.weight": (_WIDTH,),
        "blk.0.attn_norm.weight": (_WIDTH,),
        "blk.0.ffn_norm.weight": (_WIDTH,),
        "blk.0.ffn_gate.weight": (_WIDTH, _HIDDEN),
        "blk.0.ffn_up.weight": (_WIDTH, _HIDDEN),
        "blk.0.ffn_down.weight": (_HIDDEN, _WIDTH),
    }
    architecture: dict[str, Value] = {
        "general.architecture": "llama",
        "llama.context_length": 512,
        "llama.embedding_length": _WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": _HIDDEN,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    numbers = random.Random(0)
    infos, data = b"", b""
    for name, shape in shapes.items():
        infos += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        data += struct.pack(f"<{count}f", *(numbers.gauss(0, 0.5) for _ in range(count)))
        data += bytes(-len(data) % _ALIGNMENT)
    head = header(architecture | dict(metadata), tensors=len(shapes)) + infos
    path.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + data)


def _typed(value: Value) -> bytes:
    kind, raw = _kind_and_bytes(value)
    return struct.pack("<I", kind) + raw


def _kind_and_bytes(value: Value) -> tuple[int, bytes]:
    match value:
        case bool():
            return BOOL, struct.pack("<?", value)
        case int():
            return UINT32, struct.pack("<I", value)
        case float():
            return FLOAT32, struct.pack("<f", value)
        case str():
            return STRING, _string(value)
        case list():
            if all(type(item) is int for item in value):
                return ARRAY, struct.pack(f"<IQ{len(value)}i", INT32, len(value), *value)
            items = [_kind_and_bytes(item) for item in value]
            return ARRAY, struct.pack("<IQ", items[0][0], len(items)) + b"".join(raw for _, raw in items)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
