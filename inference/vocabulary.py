"""How vocabularies spell bytes: what GGUF files and Hugging Face's ``tokenizer.json`` have in common."""

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes in place of a space."""


def byte_pair_alphabet() -> dict[str, int]:
    """The character that stands for each byte: GPT-2's ``bytes_to_unicode``, reversed."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = byte_pair_alphabet()


def byte_pair_bytes(text: str) -> bytes:
    """What a token of byte-level BPE stands for."""
    return bytes(_ALPHABET[c] for c in text) if all(c in _ALPHABET for c in text) else text.encode()


def sentencepiece_bytes(text: str) -> bytes:
    """What a SentencePiece token that is no byte stands for."""
    return text.replace(SPACE, " ").encode()


def spellable(text: str, single_bytes: bytes) -> str:
    """``text`` with U+FFFD for each character that has a byte without a token: encoders would drop that byte."""
    if not text.encode().translate(None, delete=single_bytes):
        return text
    return "".join(c if not c.encode().translate(None, delete=single_bytes) else "\ufffd" for c in text)
