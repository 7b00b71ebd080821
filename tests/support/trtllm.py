"""The TensorRT-LLM engine on a fake tensorrt_llm, which generates as the scripted engine does."""

import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inference.engines.scripted.script import CHAT_TEMPLATE
from inference.engines.scripted.tokenizer import ScriptedTokenizer
from inference.engines.trtllm.engine import TrtllmEngine, TrtllmSettings
from inference.engines.trtllm.options import Options
from tests.support.huggingface import ALPHABET, added, write_folder

FAKE = Path(__file__).parent / "fake_tensorrt_llm"
FAULTS = "FAKE_TENSORRT_LLM_FAULTS"
IMAGE = "<image>"
CHAT_TEMPLATE_OF_PARTS = CHAT_TEMPLATE.replace(
    "{{ message['content'] }}",
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}",
)
ABORT_MODE = "engine"
"""By default a prefill goes on to its end, which the tests of all engines do not expect."""

_BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES += [byte for byte in range(256) if byte not in _BYTES]
_LETTERS = dict(zip(_BYTES, ALPHABET, strict=True))


@contextmanager
def fake_tensorrt_llm() -> Generator[None, None, None]:
    """Let ``import tensorrt_llm`` find the fake."""
    sys.path.insert(0, str(FAKE))
    try:
        yield
    finally:
        sys.path.remove(str(FAKE))
        fakes = ("tensorrt_llm", "xgrammar", "inference.engines.trtllm.library")
        for name in [name for name in sys.modules if name.startswith(fakes)]:
            del sys.modules[name]


def write_scripted_model(folder: Path, *, sees: bool = False) -> Path:
    """The vocabulary of the scripted engine as a model folder; its texts are encoded byte by byte."""
    tokenizer = ScriptedTokenizer()
    markers = tokenizer.markers
    vocab = {
        "".join(_LETTERS[byte] for byte in tokenizer.token_bytes(token_id)): token_id
        for token_id in range(min(markers.values()))
    }
    # some words are there twice; without gaps, as `tokenizers` numbers added tokens anew after the others
    vocab |= {
        f"unused{token_id}": token_id for token_id in set(range(min(markers.values()))).difference(vocab.values())
    }
    image_id = max(markers.values()) + 1
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *(added(id_, text, special=not tokenizer.token_bytes(id_)) for text, id_ in markers.items()),
            *([added(image_id, IMAGE, special=True)] if sees else []),
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    files = {
        "tokenizer.json": spec,
        "tokenizer_config.json": {
            **tokenizer.special_tokens,
            "chat_template": CHAT_TEMPLATE_OF_PARTS if sees else CHAT_TEMPLATE,
        },
        "config.json": {"max_position_embeddings": 32768, **({"image_token_index": image_id} if sees else {})},
        "generation_config.json": {"eos_token_id": sorted(tokenizer.eos_token_ids)},
    }
    return write_folder(folder, files)


@contextmanager
def trtllm_engine(
    *, context_window: int = 1024, parallel: int = 4, sees: bool = False, **options: Any
) -> Generator[TrtllmEngine, None, None]:
    """An engine that has not started; the fake is there until the end of the context."""
    with tempfile.TemporaryDirectory() as folder, fake_tensorrt_llm():
        yield TrtllmEngine(
            TrtllmSettings(
                write_scripted_model(Path(folder), sees=sees),
                context_window=context_window,
                parallel=parallel,
                options=Options(**options),
            )
        )
