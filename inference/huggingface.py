"""A model folder as Hugging Face's hub has them: tokenizer, chat template, ends of a turn, context window.

Files: ``tokenizer.json``, ``tokenizer_config.json``, ``config.json``, ``generation_config.json``, and a chat template
in ``chat_template.jinja`` (with ``additional_chat_templates/*.jinja``), ``chat_template.json`` or
``tokenizer_config.json``. Read without ``transformers``: an engine that brings it pins a version of its own, and its
tokenizers turn what users write into control tokens.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import Tokenizer

from inference import vocabulary
from inference.markers import MarkerIndex

Json: TypeAlias = dict[str, Any]

_CONTEXT_WINDOWS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""What models call their context window, the usual name first."""
_BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""SentencePiece's tokens for single bytes."""
_TOOL_USE = '{{% if tools or messages | selectattr("tool_calls") | list %}}{tool_use}{{% else %}}{default}{{% endif %}}'
"""As transformers chooses between two templates; a conversation that has calls needs the one that can render them."""


class ModelFolderError(Exception):
    """The folder is incomplete or damaged, or has a tokenizer of a kind that is not supported. Names the file."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a worker reads of a model, its weights aside."""

    tokenizer: "HuggingFaceTokenizer"
    chat_template: str
    """Jinja source; empty if the folder has none."""
    context_window: int | None
    """Tokens that the model is made for; None if its configuration does not say."""


def load_model_folder(path: Path) -> ModelFolder:
    """Read the folder; takes seconds.

    Raises:
        ModelFolderError: the folder cannot be used.
    """
    tokenizer_config = _read_json(path / "tokenizer_config.json")
    config = _read_json(path / "config.json", is_needed=False)
    config |= config.get("text_config") or {}  # of models that see
    tokenizer = _tokenizer(path, tokenizer_config, config)
    chat_template = _chat_template(path, tokenizer_config)
    windows = [value for name in _CONTEXT_WINDOWS if isinstance(value := config.get(name), int)]
    return ModelFolder(tokenizer, chat_template, windows[0] if windows else None)


class HuggingFaceTokenizer:
    """``inference.tokenizer.Tokenizer`` for a ``tokenizer.json``: BPE, byte-level or SentencePiece's with byte tokens.

    Added tokens are taken out of the encoder, so that no text spells one, whatever its flags say. Nor does the encoder
    put the space before a text that some SentencePiece models are trained with: texts here are parts of prompts.

    Args:
        spec: The parsed ``tokenizer.json``.
        special_tokens: Texts of ``bos_token``, ``eos_token`` and others that the model has.
        adds_bos: Whether prompts begin with ``bos_token``; None: as the post-processor in ``spec`` says.
        eos_token_ids: Besides ``eos_token``.
        size: Tokens that the model can generate; those without text among them are silent.

    Raises:
        ValueError: ``spec`` is malformed, or describes another kind of tokenizer.
    """

    def __init__(
        self,
        spec: Json,
        special_tokens: Mapping[str, str],
        *,
        adds_bos: bool | None = None,
        eos_token_ids: Collection[int] = (),
        size: int = 0,
    ) -> None:
        added = {token["id"]: token for token in spec["added_tokens"]}
        is_byte_level = "ByteLevel" in _types(spec["decoder"])
        self._encoder = _plain_encoder(spec)
        vocab: dict[str, int] = self._encoder.get_vocab(with_added_tokens=False)
        if not is_byte_level and not vocab.keys() >= set(_BYTE_TOKENS):
            raise ValueError("neither byte-level BPE nor SentencePiece with a token for each byte")
        # white space stays in the encoder: some vocabularies add runs of it, and they are text
        self.markers = {token["content"]: id_ for id_, token in added.items() if not _is_space(token)}
        self._cuts = MarkerIndex(self.markers)
        self._forbidden = frozenset(self._cuts.ids.values())
        self._bytes = [b""] * max(size, *(id_ + 1 for id_ in vocab.values()), *(id_ + 1 for id_ in added))
        for text, id_ in vocab.items():
            self._bytes[id_] = (
                vocabulary.byte_pair_bytes(text) if is_byte_level else vocabulary.sentencepiece_bytes(text)
            )
        for byte, text in enumerate(() if is_byte_level else _BYTE_TOKENS):
            self._bytes[vocab[text]] = bytes([byte])
        for id_, token in added.items():
            self._bytes[id_] = b"" if token["special"] else vocabulary.sentencepiece_bytes(token["content"])
        single_bytes = {piece for piece in self._bytes if len(piece) == 1}
        self._single_bytes = b"".join(single_bytes)
        self.special_tokens = dict(special_tokens)
        ids = self.markers | {token["content"]: id_ for id_, token in added.items()}
        bos = ids.get(special_tokens.get("bos_token", ""))
        if adds_bos is None:
            adds_bos = bos is not None and self._encoder.encode("").ids[:1] == [bos]
        self.bos_token_id = bos if adds_bos else None
        eos = ids.get(special_tokens.get("eos_token", ""))
        self.eos_token_ids = frozenset(eos_token_ids) | ({eos} if eos is not None else set())

    def encode(self, text: str) -> list[int]:
        token_ids: list[int] = []
        for piece in self._cuts.cut(vocabulary.spellable(text, self._single_bytes)):
            encoded = self._encode(piece)
            if not self._forbidden.isdisjoint(encoded):  # the normalizer made a marker of other characters
                encoded = [token_id for character in piece for token_id in self._encode(character)]
            token_ids += encoded
        return token_ids

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._bytes):
            raise KeyError(token_id)
        return self._bytes[token_id]

    def decode(self, token_ids: Sequence[int]) -> bytes:
        return b"".join(map(self.token_bytes, token_ids))


def _is_space(token: Json) -> bool:
    return not token["special"] and not token["content"].replace(vocabulary.SPACE, "").strip()


def _plain_encoder(spec: Json) -> Tokenizer:
    """The tokenizer of ``spec`` that knows no added tokens but white space, and puts no space before a text."""
    if spec["model"]["type"] != "BPE":
        raise ValueError(f"its model is {spec['model']['type']}, supported is BPE")
    plain = _without_prefix_space(spec) | {"truncation": None, "padding": None}
    spaces = plain["added_tokens"] = [token for token in spec["added_tokens"] if _is_space(token)]
    # the library numbers added tokens by their place, unless the model knows them
    vocab = spec["model"]["vocab"] | {token["content"]: token["id"] for token in spaces}
    plain["model"] = spec["model"] | {"vocab": vocab}
    try:
        return Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises nothing more exact
        raise ValueError(str(error)) from error


def _without_prefix_space(node: Any) -> Any:
    """``node`` of a ``tokenizer.json`` without what puts a space before texts."""
    match node:
        case {"type": "Prepend"}:
            return {"type": "Sequence", "normalizers": []}
        case {"type": "Metaspace"}:
            return {
                **{key: value for key, value in node.items() if key != "add_prefix_space"},
                "prepend_scheme": "never",
            }
        case {"type": "ByteLevel"}:
            return {**node, "add_prefix_space": False}
        case {"type": "Sequence"}:
            return {
                key: [*map(_without_prefix_space, value)] if isinstance(value, list) else value
                for key, value in node.items()
            }
        case {"model": _}:
            return node | {key: _without_prefix_space(node.get(key)) for key in ("normalizer", "pre_tokenizer")}
        case _:
            return node


def _types(node: Any) -> set[str]:
    """The types of a part of ``tokenizer.json`` and of all that is in it."""
    match node:
        case {"type": str(type_)}:
            return {type_}.union(*map(_types, node.values()))
        case list():
            return set().union(*map(_types, node))
        case _:
            return set()


def _tokenizer(path: Path, tokenizer_config: Json, config: Json) -> HuggingFaceTokenizer:
    file = path / "tokenizer.json"
    spec = _read_json(file)
    named = {name: _text(value) for name, value in tokenizer_config.items() if name.endswith("_token")}
    generation_config = _read_json(path / "generation_config.json", is_needed=False)
    eos = generation_config.get("eos_token_id", config.get("eos_token_id"))
    adds_bos = tokenizer_config.get("add_bos_token")
    size = config.get("vocab_size")
    try:
        return HuggingFaceTokenizer(
            spec,
            {name: text for name, text in named.items() if text is not None},
            adds_bos=adds_bos if isinstance(adds_bos, bool) else None,
            eos_token_ids=[id_ for id_ in (eos if isinstance(eos, list) else [eos]) if isinstance(id_, int)],
            size=size if isinstance(size, int) else 0,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{file} is not a supported tokenizer: {error}") from error


def _text(token: object) -> str | None:
    """Of a token that is given as its text or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _chat_template(path: Path, tokenizer_config: Json) -> str:
    templates = _chat_templates(path, tokenizer_config)
    if "tool_use" in templates and "default" in templates:
        return _TOOL_USE.format(**{name: source.removesuffix("\n") for name, source in templates.items()})
    return templates.get("default") or next(iter(templates.values()), "")


def _chat_templates(path: Path, tokenizer_config: Json) -> dict[str, str]:
    """By name; the only one is usually ``default``."""
    file = path / "chat_template.jinja"
    if file.exists():
        others = {extra.stem: extra.read_text() for extra in path.glob("additional_chat_templates/*.jinja")}
        return others | {"default": file.read_text()}
    found = _read_json(path / "chat_template.json", is_needed=False).get("chat_template")
    match found if found is not None else tokenizer_config.get("chat_template"):
        case str(source):
            return {"default": source}
        case list(entries):
            try:
                return {str(entry["name"]): str(entry["template"]) for entry in entries}
            except (KeyError, TypeError) as error:
                raise ModelFolderError(f"{path / 'tokenizer_config.json'} has a malformed chat_template") from error
        case _:
            return {}


def _read_json(file: Path, *, is_needed: bool = True) -> Json:
    """The object in ``file``; an empty one if there is no such file and none is needed."""
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        if is_needed:
            raise ModelFolderError(f"{file} is missing") from error
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelFolderError(f"{file} is no JSON object")
    return value
