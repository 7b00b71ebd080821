"""llama.cpp on a CPU, in this process, through xllamacpp: runs any GGUF model. The default engine."""

from inference.engines.llamacpp.engine import LlamaCppEngine, LlamaCppSettings

__all__ = ["LlamaCppEngine", "LlamaCppSettings"]
