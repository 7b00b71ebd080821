"""An engine without a model, for tests and load: it generates what it is told, at the pace it is told.

The chat template and the tokenizer are its own. The last user message of a prompt is its script, if it begins with a
line ``script:``; so a test can steer an engine in another process with ordinary requests. Then one command a line:

===================  =================================================================================================
``say TEXT``         generate the tokens of TEXT
``json TEXT``        the same, TEXT being a JSON string: for line ends and spaces at its ends
``tokens N``         generate N tokens, each the word `` token``
``bytes HEX``        generate one token a byte: a way to split a character (``bytes f09f8e89``)
``marker TEXT``      generate one of the tokenizer's markers, such as ``<think>``
``echo``             generate the tokens of the prompt, but for control tokens
``pace N``           from here on N tokens a second (a number); 0, as at the beginning: as fast as they are taken
``prefill N``        wait as long as prefilling takes at N tokens a second, for the prompt tokens not in the cache
``wait MS``          wait so many milliseconds
``hold``             wait until aborted
``fail [TEXT]``      fail this generation with EngineError
``die [TEXT]``       fail this generation and the engine with EngineDead
``filter``           end as if by a content filter
``end``              end of turn: also what comes after the last command
===================  =================================================================================================

A prompt that ends inside an answer is continued there, as a model would: the commands for those tokens are skipped.
Without a script the engine generates the tokens of the last user message. ``max_tokens`` ends either.
For example: ``{"model": "scripted", "input": "script:\\npace 20\\nsay Hello world.\\nhold"}``.
"""

from inference.engines.scripted.engine import ScriptedEngine, ScriptedSettings

__all__ = ["ScriptedEngine", "ScriptedSettings"]
