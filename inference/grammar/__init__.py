"""What an engine may generate, as a grammar: JSON Schemas and other constraints -> GBNF text."""

from inference.grammar.gbnf import Grammar, alternatives, char_class, literal, repeated

__all__ = ["Grammar", "alternatives", "char_class", "literal", "repeated"]
