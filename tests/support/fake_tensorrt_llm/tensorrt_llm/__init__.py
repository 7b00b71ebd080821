"""The fake's public names."""

from .llmapi.llm import LLM
from .sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]
