"""What an engine may generate, as a grammar: JSON Schemas and other constraints -> GBNF text."""

from inference.grammar.bodies import alternatives, char_class, literal, repeated
from inference.grammar.gbnf import Grammar, GrammarTooLargeError

__all__ = ["Grammar", "GrammarTooLargeError", "alternatives", "char_class", "literal", "repeated"]
