"""What ``generate_async`` takes: token ids, or text with images, which is tokenized here with control tokens parsed."""

import json
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import Tokenizer

from inference.engines.scripted.tokenizer import ScriptedTokenizer

_KEYS = {"prompt", "multi_modal_data"}
_STAND_IN = "<placeholder>"


class InputProcessor:
    """Of a model that sees if its ``config.json`` has an ``image_token_index``.

    An image becomes as many tokens as its description has bytes, and the scripted model reads that description.
    """

    def __init__(self, model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._image_token_id: int = config.get("image_token_index", -1)

    def __call__(self, inputs: Any) -> tuple[list[int], list[int]]:
        """Token ids as results have them, which are no tokens where images are; and those that the model reads."""
        match inputs:
            case list() if all(isinstance(token_id, int) for token_id in inputs):
                return inputs, inputs
            case {"prompt": str(text), "multi_modal_data": {"image": list(images), **media}} if (
                inputs.keys() == _KEYS and not media
            ):
                return self._with_images(text, images)
            case _:
                raise TypeError("The inputs must be type str or list of int")

    def _with_images(self, text: str, images: list[Any]) -> tuple[list[int], list[int]]:
        if self._image_token_id < 0:
            raise ValueError("the model has no input processor for images")
        image_token: str = self._tokenizer.decode([self._image_token_id], skip_special_tokens=False)
        descriptions = [description(image) for image in images]
        expanded = text
        for token_ids in descriptions:  # as transformers' processors do it
            expanded = expanded.replace(image_token, _STAND_IN * len(token_ids), 1)
        expanded = expanded.replace(_STAND_IN, image_token)
        read = iter([token_id for token_ids in descriptions for token_id in token_ids])
        token_ids = self._tokenizer.encode(expanded, add_special_tokens=True).ids
        outside = self._tokenizer.get_vocab_size() + 1
        seen = [next(read) if token_id == self._image_token_id else token_id for token_id in token_ids]
        if next(read, None) is not None:
            raise IndexError("more images than places for them")
        return [outside if token_id == self._image_token_id else token_id for token_id in token_ids], seen


def description(image: Any) -> list[int]:
    """Size and first pixel, as token ids of the scripted model."""
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    return ScriptedTokenizer().encode(f"[{image.width}x{image.height} {image.getpixel((0, 0))}]")
