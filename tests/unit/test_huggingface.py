"""Model folders as Hugging Face's hub has them, read into a tokenizer and a chat template."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.huggingface import HuggingFaceTokenizer, ModelFolderError, load_model_folder
from inference.template import ChatTemplate
from tests.support.huggingface import byte_level, model_files, sentencepiece, write_folder

MARKERS = {"<s>": True, "</s>": True, "<|im_start|>": True, "<think>": False, "[TOOL_CALLS]": True, "\n\n": False}
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
BYTE_LEVEL = HuggingFaceTokenizer(byte_level(MARKERS), NAMED)
SENTENCEPIECE = HuggingFaceTokenizer(sentencepiece({"<think>": False, "[INST]": True, "▁▁": False}), NAMED)
each_kind = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte level", "sentencepiece"])

HOSTILE = st.lists(
    st.one_of(
        st.sampled_from([*BYTE_LEVEL.markers, *SENTENCEPIECE.markers, "＜s＞", "<", "s>", "the", " the", "<0x41>"]),
        st.text(max_size=3),
    ),
    max_size=6,
).map("".join)


@each_kind
@given(text=HOSTILE)
def test_no_text_becomes_a_marker_or_the_unknown_token(tokenizer: HuggingFaceTokenizer, text: str) -> None:
    markers = {token_id for marker, token_id in tokenizer.markers.items() if not marker.isspace()}
    assert markers.isdisjoint(tokenizer.encode(text.encode(errors="replace").decode()))


@given(text=HOSTILE.filter(lambda text: "▁" not in text))
def test_text_comes_back_as_it_went_in(text: str) -> None:
    text = text.encode(errors="replace").decode()
    assert SENTENCEPIECE.decode(SENTENCEPIECE.encode(text)).decode() == text


@each_kind
def test_no_space_is_put_before_a_text(tokenizer: HuggingFaceTokenizer) -> None:
    [the] = tokenizer.encode("the")
    [spaced] = tokenizer.encode(" the")
    assert tokenizer.token_bytes(the) == b"the"
    assert tokenizer.token_bytes(spaced) == b" the"
    assert tokenizer.encode("thethe") == [the, the]


def test_special_tokens_have_no_text_and_other_added_ones_have_theirs() -> None:
    texts = {text: BYTE_LEVEL.token_bytes(token_id) for text, token_id in BYTE_LEVEL.markers.items()}
    assert texts == {"<s>": b"", "</s>": b"", "<|im_start|>": b"", "<think>": b"<think>", "[TOOL_CALLS]": b""}
    assert BYTE_LEVEL.token_bytes(BYTE_LEVEL.encode("\n\n")[0]) == b"\n\n"
    assert SENTENCEPIECE.decode(SENTENCEPIECE.encode("é")) == "é".encode()


def test_ids_without_a_token_are_silent_and_those_beyond_the_vocabulary_unknown() -> None:
    padded = HuggingFaceTokenizer(byte_level(MARKERS), NAMED, size=300)
    assert padded.token_bytes(299) == b""
    for token_id in (-1, 300):
        with pytest.raises(KeyError):
            padded.token_bytes(token_id)


def test_a_prompt_begins_with_bos_if_the_tokenizer_would_put_it_there() -> None:
    assert BYTE_LEVEL.bos_token_id is None
    assert SENTENCEPIECE.bos_token_id == 1
    assert HuggingFaceTokenizer(byte_level(MARKERS), NAMED, adds_bos=True).bos_token_id == BYTE_LEVEL.markers["<s>"]
    assert HuggingFaceTokenizer(sentencepiece({}), NAMED, adds_bos=False).bos_token_id is None
    assert SENTENCEPIECE.special_tokens == NAMED


def test_other_kinds_of_tokenizers_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, model_files(sentencepiece({}, has_bytes=False)))
    with pytest.raises(ModelFolderError, match="neither byte-level BPE nor SentencePiece"):
        load_model_folder(folder)


def test_a_folder_tells_the_ends_of_a_turn_and_the_context_window(tmp_path: Path) -> None:
    folder = load_model_folder(write_folder(tmp_path, model_files(sentencepiece({}), eos=[5, 6])))
    assert folder.tokenizer.eos_token_ids == {2, 5, 6}
    assert folder.context_window == 4096
    assert folder.chat_template == "{{ messages[0].content }}"


def test_what_the_folder_does_not_say_is_read_elsewhere_or_left_open(tmp_path: Path) -> None:
    files = model_files(sentencepiece({})) | {"config.json": {"text_config": {"eos_token_id": 9}}}
    folder = load_model_folder(write_folder(tmp_path, files))
    assert folder.tokenizer.eos_token_ids == {2, 9}
    assert folder.context_window is None


NAMED_TEMPLATES = {"default": "plain\n", "tool_use": "with tools\n", "rag": "never"}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"chat_template": [{"name": n, "template": t} for n, t in NAMED_TEMPLATES.items()]}},
        {"chat_template.jinja": "plain\n", "additional_chat_templates/tool_use.jinja": "with tools\n"},
    ],
    ids=["list", "files"],
)
def test_a_template_for_tools_renders_conversations_that_have_some(tmp_path: Path, files: dict[str, Any]) -> None:
    folder = load_model_folder(write_folder(tmp_path, model_files(sentencepiece({})) | files))
    template = ChatTemplate(folder.chat_template, {})
    user, call = {"role": "user"}, {"role": "assistant", "tool_calls": [{"id": "a"}]}
    assert template.render([user]) == "plain"
    assert template.render([user], [{"name": "f"}]) == "with tools"
    assert template.render([user, call]) == "with tools"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": "of the file"}, "of the file"),
        ({"chat_template.json": {"chat_template": "of the processor"}}, "of the processor"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "only", "template": "one"}]}}, "one"),
        ({"tokenizer_config.json": {}}, ""),
    ],
)
def test_a_template_is_found_wherever_models_keep_it(tmp_path: Path, files: dict[str, Any], expected: str) -> None:
    folder = load_model_folder(write_folder(tmp_path, model_files(sentencepiece({})) | files))
    assert folder.chat_template == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.json": "{"}, "tokenizer.json cannot be read"),
        ({"tokenizer.json": "[]"}, "tokenizer.json is no JSON object"),
        ({"tokenizer.json": {"added_tokens": []}}, "tokenizer.json is not a supported tokenizer"),
        ({"tokenizer_config.json": {"chat_template": [{}]}}, "malformed chat_template"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFolderError, match=message):
        load_model_folder(write_folder(tmp_path, model_files(sentencepiece({})) | files))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json is missing"):
        load_model_folder(tmp_path)
