"""Prompts with images for TensorRT-LLM: what stands for an image, how many tokens there are, what is refused."""

from pathlib import Path

import pytest

from inference.engines.base import EngineError, MixedPrompt
from inference.engines.trtllm.vision import ImagePrompts, find_placeholder
from inference.huggingface import HuggingFaceTokenizer, Json
from tests.support.huggingface import byte_level, sentencepiece, write_folder
from tests.support.tokenizer import ByteTokenizer

MARKERS = (
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
    *("<image>", "[INST]", "[/INST]", "[IMG]"),
)
TOKENIZER = ByteTokenizer(MARKERS, bos="<s>", eos=("</s>",))

QWEN = """{% set images = namespace(value=0) %}{% for message in messages %}{% if loop.first %}<|im_start|>system
You help.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image_url' in content %}\
{% set images.value = images.value + 1 %}{% if add_vision_id %}Picture {{ images.value }}: {% endif %}\
<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}\
<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
IMAGES_FIRST = """{% for message in messages %}{{ message['role'] | upper }}: {% for content in \
message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in \
message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}{% endfor %}"""
IMAGES_LAST = """{{ bos_token }}{% for message in messages %}[INST]{% for part in message['content'] %}\
{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}[IMG]{% endif %}{% endfor %}[/INST]{% endfor %}"""
NUMBERED = """{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}\
Image {{ loop.index }}: <image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"""
NO_TOKEN = "{% for part in messages[0]['content'] %}{{ part['text'] if 'text' in part else '<|image_1|>' }}{% endfor %}"
BLIND = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
REFUSING = "{{ raise_exception('no parts') }}"
BROKEN = "{% for %}"


@pytest.mark.parametrize(
    ("template", "placeholder"),
    [
        (QWEN, "<|vision_start|><|image_pad|><|vision_end|>"),
        (IMAGES_FIRST, "<image>"),
        (IMAGES_LAST, "[IMG]"),
        (NUMBERED, None),
        (NO_TOKEN, None),
        (BLIND, None),
        (REFUSING, None),
        (BROKEN, None),
    ],
)
def test_a_chat_template_tells_what_stands_for_an_image(template: str, placeholder: str | None) -> None:
    assert find_placeholder(template, TOKENIZER) == placeholder


@pytest.mark.parametrize("placeholder", ["", "image", "<|image_1|>", "a<image>", "<image> "])
def test_what_content_could_spell_stands_for_no_image(placeholder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="control tokens alone"):
        ImagePrompts(tmp_path / "unread.json", TOKENIZER, placeholder=placeholder, tokens_per_image=1)


def image_prompts(folder: Path, spec: Json, **special_tokens: str) -> ImagePrompts:
    write_folder(folder, {"tokenizer.json": spec})
    tokenizer = HuggingFaceTokenizer(spec, special_tokens)
    return ImagePrompts(folder / "tokenizer.json", tokenizer, placeholder="<a><image>", tokens_per_image=100)


def test_a_prompt_has_its_texts_tokens_bos_and_as_many_for_each_image_as_one_may_take(tmp_path: Path) -> None:
    prompt = MixedPrompt(("the", "", "the</s>"), (b"", b""))
    spec = sentencepiece({"<a>": True, "<image>": True})
    assert image_prompts(tmp_path, spec, bos_token="<s>").text(prompt) == (
        "the<a><image><a><image>the</s>",
        1 + 1 + 100 + 100 + 1 + 1,
    )


def test_what_is_no_marker_and_would_become_one_is_refused(tmp_path: Path) -> None:
    """Where tokenizers look for a marker in what their normalizer has made of a text."""
    spec = byte_level({"<a>": True, "<image>": True})
    for marker in spec["added_tokens"]:
        marker["normalized"] = True
    prompts = image_prompts(tmp_path, spec)
    assert prompts.text(MixedPrompt(("", "b"), (b"",))).text == "<a><image>b"
    with pytest.raises(EngineError, match="control tokens of what is text"):
        prompts.text(MixedPrompt(("", "\N{FULLWIDTH LESS-THAN SIGN}a>"), (b"",)))
