"""Arguments of the LLM; unknown ones are refused, as pydantic does it for the original."""

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class KvCacheConfig:
    """Where keys and values are kept."""

    enable_block_reuse: Any = True
    max_tokens: Any = None
    max_attention_window: Any = None
    sink_token_length: Any = None
    free_gpu_memory_fraction: Any = 0.9
    host_cache_size: Any = None
    onboard_blocks: Any = True
    cross_kv_cache_fraction: Any = None
    secondary_offload_min_priority: Any = None
    event_buffer_max_size: Any = 0
    attention_dp_events_gather_period_ms: Any = 5
    enable_partial_reuse: Any = True
    copy_on_partial_reuse: Any = True
    use_uvm: Any = False
    max_gpu_total_bytes: Any = 0
    dtype: Any = "auto"
    mamba_ssm_cache_dtype: Any = "auto"
    tokens_per_block: Any = 32


@dataclass(kw_only=True)
class SchedulerConfig:
    """Who runs when."""

    capacity_scheduler_policy: Any = "GUARANTEED_NO_EVICT"
    context_chunking_policy: Any = None
    dynamic_batch_config: Any = None


@dataclass(kw_only=True)
class CudaGraphConfig:
    """Recorded steps."""

    batch_sizes: Any = None
    max_batch_size: Any = 0
    enable_padding: Any = False


@dataclass(kw_only=True)
class MoeConfig:
    """Mixtures of experts."""

    backend: Any = "CUTLASS"


@dataclass(kw_only=True)
class DecodingBaseConfig:
    """All kinds of speculation."""

    max_draft_len: Any = None
    speculative_model_dir: Any = None


@dataclass(kw_only=True)
class NGramDecodingConfig(DecodingBaseConfig):
    """By what came before."""

    max_matching_ngram_size: Any = 0
    is_keep_all: Any = True
    is_use_oldest: Any = True
    is_public_pool: Any = True


class DraftTargetDecodingConfig(DecodingBaseConfig):
    """By a smaller model."""


@dataclass(kw_only=True)
class EagleDecodingConfig(DecodingBaseConfig):
    """By a head."""

    eagle3_one_model: Any = True


@dataclass(kw_only=True)
class MTPDecodingConfig(DecodingBaseConfig):
    """By own layers."""

    num_nextn_predict_layers: Any = 1
    use_relaxed_acceptance_for_thinking: Any = False
    relaxed_topk: Any = 1
    relaxed_delta: Any = 0.0


@dataclass(kw_only=True)
class BaseLlmArgs:
    """Of every backend."""

    model: Any = None
    tokenizer: Any = None
    tokenizer_mode: Any = "auto"
    custom_tokenizer: Any = None
    skip_tokenizer_init: Any = False
    trust_remote_code: Any = False
    tensor_parallel_size: Any = 1
    dtype: Any = "auto"
    revision: Any = None
    tokenizer_revision: Any = None
    pipeline_parallel_size: Any = 1
    context_parallel_size: Any = None
    gpus_per_node: Any = None
    moe_cluster_parallel_size: Any = None
    moe_tensor_parallel_size: Any = None
    moe_expert_parallel_size: Any = None
    enable_attention_dp: Any = None
    enable_lora: Any = None
    lora_config: Any = None
    kv_cache_config: Any = None
    enable_chunked_prefill: Any = False
    guided_decoding_backend: Any = None
    batched_logits_processor: Any = None
    iter_stats_max_iterations: Any = None
    request_stats_max_iterations: Any = None
    peft_cache_config: Any = None
    scheduler_config: Any = None
    cache_transceiver_config: Any = None
    speculative_config: Any = None
    max_batch_size: Any = None
    max_input_len: Any = None
    max_seq_len: Any = None
    max_beam_width: Any = None
    max_num_tokens: Any = 8192
    gather_generation_logits: Any = None
    num_postprocess_workers: Any = 0
    postprocess_tokenizer_dir: Any = None
    reasoning_parser: Any = None
    otlp_traces_endpoint: Any = None
    backend: Any = "pytorch"
    return_perf_metrics: Any = None
    orchestrator_type: Any = None
    env_overrides: Any = None


@dataclass(kw_only=True)
class TorchLlmArgs(BaseLlmArgs):
    """Of the PyTorch backend."""

    garbage_collection_gen0_threshold: Any = 20000
    cuda_graph_config: Any = None
    attention_dp_config: Any = None
    disable_overlap_scheduler: Any = False
    moe_config: Any = None
    nvfp4_gemm_config: Any = None
    attn_backend: Any = "TRTLLM"
    sampler_type: Any = "auto"
    enable_iter_perf_stats: Any = False
    enable_iter_req_stats: Any = False
    print_iter_log: Any = None
    perf_metrics_max_requests: Any = None
    batch_wait_timeout_ms: Any = None
    batch_wait_timeout_iters: Any = None
    batch_wait_max_tokens_ratio: Any = None
    torch_compile_config: Any = None
    enable_autotuner: Any = None
    load_format: Any = None
    enable_min_latency: Any = None
    stream_interval: Any = 1
    allreduce_strategy: Any = None
    checkpoint_format: Any = None
    kv_connector_config: Any = None
    mm_encoder_only: Any = None
    enable_sleep: Any = None
    disable_flashinfer_sampling: Any = None
    max_stats_len: Any = 1000
