"""Writes GGUF files: metadata of any shape, and whole models and projectors, tiny and untrained."""

import math
import random
import struct
from collections.abc import Mapping
from pathlib import Path

from inference.gguf import Value

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_ALIGNMENT = 32
_WIDTH, _HIDDEN = 32, 64
_PATCH, _SIDE, _SIGHT = 8, 32, 16
IMAGE_TOKENS = (_SIDE // _PATCH) ** 2
"""What every image takes of a prompt with a projector of ``write_projector``."""


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
    _write(path, architecture | dict(metadata), shapes)


def write_projector(path: Path) -> None:
    """The eyes of a model that ``write_model`` wrote: one layer and an MLP, as in LLaVA; it sees, but knows nothing."""
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (_PATCH, _PATCH, 3, _SIGHT),
        "v.position_embd.weight": (_SIGHT, IMAGE_TOKENS),
        "v.blk.0.ffn_up.weight": (_SIGHT, _HIDDEN),
        "v.blk.0.ffn_up.bias": (_HIDDEN,),
        "v.blk.0.ffn_down.weight": (_HIDDEN, _SIGHT),
        "v.blk.0.ffn_down.bias": (_SIGHT,),
        "mm.0.weight": (_SIGHT, _WIDTH),
        "mm.0.bias": (_WIDTH,),
        "mm.2.weight": (_WIDTH, _WIDTH),
        "mm.2.bias": (_WIDTH,),
    }
    for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
        shapes |= {f"v.blk.0.{part}.weight": (_SIGHT, _SIGHT), f"v.blk.0.{part}.bias": (_SIGHT,)}
    for part in ("ln1", "ln2"):
        shapes |= {f"v.blk.0.{part}.weight": (_SIGHT,), f"v.blk.0.{part}.bias": (_SIGHT,)}
    sight: dict[str, Value] = {
        "image_size": _SIDE,
        "patch_size": _PATCH,
        "embedding_length": _SIGHT,
        "feed_forward_length": _HIDDEN,
        "block_count": 1,
        "projection_dim": _WIDTH,
        "attention.head_count": 2,
        "attention.layer_norm_epsilon": 1e-5,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    metadata: dict[str, Value] = {
        "general.architecture": "clip",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
    }
    _write(path, metadata | {f"clip.vision.{key}": value for key, value in sight.items()}, shapes)


def _write(path: Path, metadata: Mapping[str, Value], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A file of random tensors, the same ones each time."""
    numbers = random.Random(0)
    infos, data = b"", b""
    for name, shape in shapes.items():
        infos += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        count = math.prod(shape)
        data += struct.pack(f"<{count}f", *(numbers.gauss(0, 0.5) for _ in range(count)))
        data += bytes(-len(data) % _ALIGNMENT)
    head = header(metadata, tensors=len(shapes)) + infos
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
