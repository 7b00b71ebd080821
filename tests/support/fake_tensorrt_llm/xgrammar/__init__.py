"""As much of xgrammar as the engine's check of grammars needs."""

from tests.support.gbnf import Gbnf, GbnfError


class Grammar:
    """A grammar that has been read."""

    @staticmethod
    def from_ebnf(text: str) -> "Grammar":
        try:
            Gbnf(text)
        except GbnfError as error:
            raise RuntimeError(f"EBNF parser error: {error}") from error
        return Grammar()
