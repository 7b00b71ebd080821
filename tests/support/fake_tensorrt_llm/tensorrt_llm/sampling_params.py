"""What a generation is asked for, with 1.2.1's defaults."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, kw_only=True)
class GuidedDecodingParams:
    """At most one guide."""

    json: Any = None
    regex: Any = None
    grammar: Any = None
    json_object: Any = False
    structural_tag: Any = None

    def __post_init__(self) -> None:
        guides = (self.json, self.regex, self.grammar, self.structural_tag, self.json_object or None)
        if sum(guide is not None for guide in guides) > 1:
            raise ValueError("Only one guide can be used for a request")


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """Checked as the original does it."""

    end_id: Any = None
    pad_id: Any = None
    max_tokens: Any = 32
    bad: Any = None
    bad_token_ids: Any = None
    stop: Any = None
    stop_token_ids: Any = None
    include_stop_str_in_output: Any = False
    embedding_bias: Any = None
    logits_processor: Any = None
    apply_batched_logits_processor: Any = False
    n: Any = 1
    best_of: Any = None
    use_beam_search: Any = False
    top_k: Any = None
    top_p: Any = None
    top_p_min: Any = None
    top_p_reset_ids: Any = None
    top_p_decay: Any = None
    seed: Any = None
    temperature: Any = None
    min_tokens: Any = None
    beam_search_diversity_rate: Any = None
    repetition_penalty: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    prompt_ignore_length: Any = None
    length_penalty: Any = None
    early_stopping: Any = None
    no_repeat_ngram_size: Any = None
    min_p: Any = None
    beam_width_array: Any = None
    logprobs: Any = None
    prompt_logprobs: Any = None
    return_context_logits: Any = False
    return_generation_logits: Any = False
    exclude_input_from_output: Any = True
    return_encoder_output: Any = False
    return_perf_metrics: Any = False
    additional_model_outputs: Any = None
    lookahead_config: Any = None
    guided_decoding: Any = None
    ignore_eos: Any = False
    detokenize: Any = True
    add_special_tokens: Any = True
    truncate_prompt_tokens: Any = None
    skip_special_tokens: Any = True
    spaces_between_special_tokens: Any = True

    def __post_init__(self) -> None:
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"require temperature >= 0, got temperature={self.temperature}")
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError("best_of cannot be less than n")
