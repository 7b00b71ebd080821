"""What the engine reads before it loads a model: the package's names, the model's folder, how it takes images."""

import logging
from pathlib import Path

from inference.engines.base import EngineDead
from inference.engines.trtllm import surface
from inference.engines.trtllm.options import Images
from inference.engines.trtllm.vision import ImagePrompts, find_placeholder
from inference.huggingface import ModelFolder, ModelFolderError, load_model_folder

log = logging.getLogger(__name__)


def check_package() -> None:
    """Refuse a package that is not the one this engine was written for.

    Raises:
        EngineDead: there is none, or another one.
    """
    root = surface.installed_root()
    if root is None:
        version = surface.expected().version
        raise EngineDead(f"tensorrt_llm is not installed: the image of its version {version} has it, no package index")
    try:
        missing, told = surface.check(root)
    except (OSError, SyntaxError) as error:
        raise EngineDead(f"tensorrt_llm cannot be read: {error}") from error
    if missing:
        raise EngineDead(f"tensorrt_llm lacks what this engine needs: {'; '.join(missing)}")
    if told:
        log.warning("tensorrt_llm is not quite as expected", extra={"names": told})


def load_folder(path: Path, *, context_window: int) -> ModelFolder:
    """The model's folder.

    Raises:
        EngineDead: it cannot be read, or its model is made for less than ``context_window``.
    """
    try:
        model = load_model_folder(path)
    except ModelFolderError as error:
        raise EngineDead(str(error)) from error
    if model.context_window is not None and model.context_window < context_window:
        raise EngineDead(
            f"the model is made for {model.context_window} tokens, fewer than the {context_window}"
            " of the context window that is set"
        )
    return model


def load_image_prompts(path: Path, model: ModelFolder, images: Images) -> ImagePrompts:
    """How ``model``, of the folder ``path``, takes images.

    Raises:
        EngineDead: nothing says what stands for one, or its tokenizer does not know that.
    """
    placeholder = images.placeholder or find_placeholder(model.chat_template, model.tokenizer)
    if placeholder is None:
        raise EngineDead("the model's chat template does not say what stands for an image: set images.placeholder")
    try:
        return ImagePrompts(
            path / "tokenizer.json",
            model.tokenizer,
            placeholder=placeholder,
            tokens_per_image=images.tokens_per_image,
        )
    except ValueError as error:
        raise EngineDead(str(error)) from error
