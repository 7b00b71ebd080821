"""Prompts of text and images as TensorRT-LLM takes them: one text, in which it finds control tokens and images itself.

Its processors come from transformers: they put as many tokens as an image takes in the place of what stands for it, and
tokenize the text with control tokens parsed. So what they would take for an image is broken up wherever there is none,
and a text in which a tokenizer like theirs finds other control tokens than are meant is refused.

None of this has run on a GPU; ``docs/tensorrt-llm.md`` says what it rests on.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import TemplateError
from tokenizers import Tokenizer as Encoder

from antiphon.errors import ApiError
from inference.engines.base import EngineError, MixedPrompt
from inference.engines.prefix import common_prefix
from inference.markers import MarkerIndex
from inference.template import ChatTemplate
from inference.tokenizer import Tokenizer
from inference.traced import TracedStr

_STAND_INS: Final = ("<|placeholder|>", "<placeholder>")
"""What processors write for an image's tokens for a while, and at last replace wherever they find it. No tokens."""
_BREAK: Final = "\N{ZERO WIDTH SPACE}"
_PROBE: Final = "probe"
_SIDE: Final = 64
"""Of the trial image, in pixels: more than any model's patch."""


class ImageText(NamedTuple):
    """A prompt with images, without their pixels."""

    text: str
    tokens: int
    """At most."""


class ImagePrompts:
    """Makes the prompts with images of one model. May be used by several threads at once; belongs in one.

    Args:
        tokenizer_file: The model's ``tokenizer.json``, as the library reads it.
        tokenizer: The same, as this project reads it.
        placeholder: What stands for an image in a prompt.
        tokens_per_image: The most that ``placeholder`` becomes.

    Raises:
        ValueError: ``placeholder`` is not made of control tokens alone: content could spell it.
    """

    def __init__(self, tokenizer_file: Path, tokenizer: Tokenizer, *, placeholder: str, tokens_per_image: int) -> None:
        self._markers = MarkerIndex(tokenizer.markers)
        units = list(_units(placeholder, self._markers))
        if not units or not self._markers.ids.keys() >= set(units):
            raise ValueError(f"{placeholder!r}, which stands for an image, is not made of control tokens alone")
        self._placeholder = placeholder
        self._broken = {text: f"{text[0]}{_BREAK}{text[1:]}" for text in (*_STAND_INS, *units)}
        self._more_tokens = tokens_per_image - len(units)
        self._bos_tokens = 0 if tokenizer.bos_token_id is None else 1
        self._marker_ids = frozenset(self._markers.ids.values())
        self._encoder = Encoder.from_file(str(tokenizer_file))
        self._encoder.no_truncation()
        self._encoder.no_padding()

    def text(self, prompt: MixedPrompt) -> ImageText:
        """``prompt`` as one text.

        Raises:
            EngineError: the library would find other control tokens in it than its markers, which all are meant.
        """
        text = self._placeholder.join(map(self._without_images, prompt.texts))
        token_ids = self._encoder.encode(text, add_special_tokens=False).ids
        meant = [self._markers.ids[marker] for _, marker in self._markers.find(text)]
        if [token_id for token_id in token_ids if token_id in self._marker_ids] != meant:
            raise EngineError("the tokenizer makes control tokens of what is text")
        return ImageText(text, self._bos_tokens + len(token_ids) + self._more_tokens * len(prompt.images))

    def _without_images(self, text: str) -> str:
        """``text``, in which nothing stands for an image; a model may have generated what does."""
        text = text.encode(errors="replace").decode()  # JSON can spell half a surrogate pair
        for image, broken in self._broken.items():
            text = text.replace(image, broken)
        return text


def salt(cache_salt: str, images: Sequence[bytes]) -> str:
    """``cache_salt`` for prompts with just these ``images``.

    Whether this version of the library tells two images apart whose tokens are alike, when it looks for a prompt in its
    KV cache, is not proven. One image must never be answered for another.
    """
    digest = sha256(cache_salt.encode())
    for image in images:
        digest.update(sha256(image).digest())
    return digest.hexdigest()


def trial_prompt() -> MixedPrompt:
    """A black image and nothing much."""
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(_SIDE * (1 + 3 * _SIDE)))), (b"IEND", b""))
    checked = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return MixedPrompt(("", "a"), (b"\x89PNG\r\n\x1a\n" + b"".join(checked),))


def find_placeholder(chat_template: str, tokenizer: Tokenizer) -> str | None:
    """What ``chat_template`` writes for an image; None if it writes nothing, or more than control tokens."""
    markers = MarkerIndex(tokenizer.markers)
    text: dict[str, str] = {"type": TracedStr.literal("text"), "text": _PROBE}
    image: dict[str, str] = {"type": TracedStr.literal("image")}
    try:
        template = ChatTemplate(chat_template, tokenizer.special_tokens)
        without, within = (
            tuple(_units(template.render([{"role": TracedStr.literal("user"), "content": content}]), markers))
            for content in ([text], [image, text])
        )
    except (TemplateError, ApiError):
        return None
    head = common_prefix(without, within)
    tail = common_prefix(without[head:][::-1], within[head:][::-1])
    found = "".join(within[head : len(within) - tail]).strip()
    return found if found and markers.ids.keys() >= set(_units(found, markers)) else None


def _units(text: str, markers: MarkerIndex) -> Iterator[str]:
    """Markers of ``text``, and the characters between them."""
    position = 0
    for start, marker in markers.find(text):
        yield from str.__getitem__(text, slice(position, start))
        yield marker
        position = start + len(marker)
    yield from str.__getitem__(text, slice(position, None))
