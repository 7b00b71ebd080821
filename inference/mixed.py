"""Prompts of text and images.

Engines that take images take text with them, no token ids, and turn every marker's text in it into its token. So
content that spells a marker is broken up here, which prompts of token ids need not do.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from inference.engines.base import MixedPrompt
from inference.markers import MarkerIndex
from inference.tokenizer import Tokenizer
from inference.traced import Content, TracedStr

_BREAKS = ("\N{ZERO WIDTH SPACE}", "\N{WORD JOINER}", "\N{SOFT HYPHEN}")
"""Characters that nobody sees; the first that no marker has in it is put into markers that content spells."""


class MixedPrompts:
    """Makes the mixed prompts of one model."""

    def __init__(self, tokenizer: Tokenizer, markers: MarkerIndex) -> None:
        """
        Raises:
            ValueError: markers have all invisible characters in them.
        """
        self._tokenizer = tokenizer
        self._markers = markers
        self._texts: Mapping[int, str] = {token_id: text for text, token_id in markers.ids.items()}
        found = next((mark for mark in _BREAKS if not any(mark in text for text in markers.ids)), None)
        if found is None:
            raise ValueError("no invisible character is free to break up markers")
        self._break = found

    def split(self, rendered: TracedStr) -> MixedPrompt:
        """``rendered`` without a leading BOS, in texts and images."""
        pieces: list[list[str]] = [[]]
        images: list[bytes] = []
        for text, is_literal, content, _ in self._without_bos(rendered).segments():
            if content is not None and content.image is not None:
                images.append(content.image)
                pieces.append([])
            else:
                pieces[-1].append(TracedStr.literal(text) if is_literal else text)
        return MixedPrompt(tuple(self.without_forged(TracedStr.concat(piece)) for piece in pieces), tuple(images))

    def continued(self, prompt: MixedPrompt, token_ids: Sequence[int]) -> MixedPrompt:
        """``prompt`` followed by the text of ``token_ids``, which the model may tokenize otherwise."""
        tail = [TracedStr.literal(prompt.texts[-1])]
        run: list[int] = []
        for token_id in token_ids:
            if token_id in self._texts:
                tail += [TracedStr(self._spell(run)), TracedStr.literal(self._texts[token_id])]
                run.clear()
            else:
                run.append(token_id)
        tail.append(TracedStr(self._spell(run)))
        return MixedPrompt((*prompt.texts[:-1], self.without_forged(TracedStr.concat(tail))), prompt.images)

    def without_forged(self, text: TracedStr) -> str:
        """``text`` with an invisible character in every marker's text that is not wholly literal.

        No marker has that character in it. So what spells a marker afterwards is a stretch of ``text`` without a cut,
        and one with content in it has been cut: within the longest marker that begins there, next to its first
        character of content, which cuts all shorter ones with content too.
        """
        is_literal = b"".join(bytes([part.is_literal]) * len(part.text) for part in text.segments())
        cuts = set()
        for start, marker in self._markers.starts(text):
            content = is_literal.find(b"\0", start, start + len(marker))
            if content >= 0:
                cuts.add(max(content, start + 1))
        bounds = [0, *sorted(cuts), len(text)]
        return self._break.join(str.__getitem__(text, slice(*pair)) for pair in pairwise(bounds))

    def _without_bos(self, rendered: TracedStr) -> TracedStr:
        """The engine puts BOS before a prompt, if the model expects it; so do many templates."""
        bos = self._texts.get(-1 if self._tokenizer.bos_token_id is None else self._tokenizer.bos_token_id, "")
        head = rendered[: len(bos)]
        if bos and head == bos and isinstance(head, TracedStr) and head.is_literal:
            return TracedStr.concat([rendered[len(bos) :]])
        return rendered

    def _spell(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids).decode(errors="replace")


def images_of(texts: Sequence[str]) -> int:
    """How many images are in ``texts``."""
    return sum(content.image is not None for text in texts for content in _contents(text))


def _contents(text: str) -> list[Content]:
    segments = text.segments() if isinstance(text, TracedStr) else ()
    return [segment.content for segment in segments if segment.content is not None]
