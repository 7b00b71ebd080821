"""The LLM API of tensorrt_llm: the one module that imports it. Importing it takes a GPU.

Every name used here is in ``surface.toml``, which has been checked before. Arguments are passed by keyword: their order
differs between versions.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import xgrammar
from msgspec import UNSET, UnsetType
from PIL import Image
from tensorrt_llm import LLM
from tensorrt_llm.executor.utils import RequestError
from tensorrt_llm.llmapi.llm_args import (
    CudaGraphConfig,
    DraftTargetDecodingConfig,
    EagleDecodingConfig,
    KvCacheConfig,
    MoeConfig,
    MTPDecodingConfig,
    NGramDecodingConfig,
    SchedulerConfig,
)
from tensorrt_llm.sampling_params import GuidedDecodingParams, SamplingParams

from inference.engines import base
from inference.engines.trtllm.options import DraftTarget, Eagle3, Mtp, NGram, Options, Speculation
from inference.engines.trtllm.steps import Result

_SPECULATION: Mapping[type[Speculation], Any] = {
    NGram: NGramDecodingConfig,
    DraftTarget: DraftTargetDecodingConfig,
    Eagle3: EagleDecodingConfig,
    Mtp: MTPDecodingConfig,
}

Inputs: TypeAlias = list[int] | dict[str, object]
"""What ``generate_async`` takes: token ids, or what ``with_images`` makes."""

__all__ = ["Inputs", "Library", "RequestError", "check_grammar", "with_images"]


class Library:
    """One model, loaded: takes minutes, and the thread that it happens in, which must be the main one.

    MPI starts the process that holds the GPU; it runs the main module again, under another name. All other calls are
    for the event loop's thread: results belong to the loop that was running when they were asked for.

    Raises:
        Exception: whatever it is, the model cannot be loaded.
    """

    def __init__(self, model_path: Path, *, context_window: int, parallel: int, options: Options) -> None:
        guided = None if options.guided_decoding_backend == "none" else options.guided_decoding_backend
        graph = options.cuda_graph
        self._llm = LLM(
            model=str(model_path),
            trust_remote_code=options.trust_remote_code,
            tensor_parallel_size=options.tensor_parallel_size,
            pipeline_parallel_size=options.pipeline_parallel_size,
            dtype=options.dtype,
            max_batch_size=parallel,
            max_seq_len=context_window,
            max_num_tokens=options.max_num_tokens,
            max_beam_width=1,
            enable_chunked_prefill=options.enable_chunked_prefill,
            kv_cache_config=KvCacheConfig(**_given(options.kv_cache)),
            scheduler_config=SchedulerConfig(**_given(options.scheduler)),
            cuda_graph_config=CudaGraphConfig(
                enable_padding=graph.enable_padding,
                # either the largest batch, or which sizes there are: both is refused
                **({"max_batch_size": parallel} if graph.batch_sizes is UNSET else {"batch_sizes": graph.batch_sizes}),
            )
            if graph.enabled
            else None,
            guided_decoding_backend=guided,
            speculative_config=_speculative_config(options.speculation),
            sampler_type=options.sampler_type,
            stream_interval=options.stream_interval,
            num_postprocess_workers=0,  # they do text, and lose aborts
            enable_iter_perf_stats=True,
            **_present(
                moe_expert_parallel_size=options.moe_expert_parallel_size,
                enable_attention_dp=options.enable_attention_dp,
                gpus_per_node=options.gpus_per_node,
                attn_backend=options.attn_backend,
                moe_config=UNSET if options.moe_backend is UNSET else MoeConfig(backend=options.moe_backend),
                disable_overlap_scheduler=options.disable_overlap_scheduler,
            ),
        )

    def submit(self, inputs: Inputs, params: base.SamplingParams, *, stop_token_ids: Sequence[int]) -> Result:
        """Start a generation. There is no limit to how many; each takes about 0.1 ms of the event loop's time.

        Images take far more: the library scales and normalizes their pixels here, and has no way to do it elsewhere.

        Raises:
            ValueError: it cannot be done, such as a prompt that is too long.
            TypeError: an argument is of the wrong kind.
            LookupError, AssertionError: so says a model's processor of images.
            RuntimeError: the engine is shutting down.
        """
        sampling = SamplingParams(  # a new one each time: the library changes it
            max_tokens=params.max_tokens,  # by default 32
            temperature=params.temperature,  # by default greedy
            top_p=params.top_p,
            detokenize=False,
            skip_special_tokens=False,
            add_special_tokens=False,
            stop_token_ids=list(stop_token_ids) or None,
            logprobs=None if params.top_logprobs is None else max(1, params.top_logprobs),  # 0 is none at all
            guided_decoding=None if params.grammar is None else GuidedDecodingParams(grammar=params.grammar),
        )
        result: Result = self._llm.generate_async(
            inputs=inputs,
            sampling_params=sampling,
            streaming=True,
            cache_salt=params.cache_salt or None,
        )
        return result

    def is_shut_down(self) -> bool:
        """Whether the library knows that it serves no more; of processes that hang or were killed it knows nothing.

        False where it has no such method: whether this version does is not proven.
        """
        is_healthy: Callable[[], bool] | None = getattr(self._llm, "_check_health", None)
        return is_healthy is not None and not is_healthy()

    async def stats(self) -> AsyncIterator[Mapping[str, Any]]:
        """Statistics of the engine's steps, until none has come for a while. For one reader."""
        async for stats in self._llm.get_stats_async(timeout=_STATS_TIMEOUT_S):
            yield stats

    async def shutdown(self, timeout_s: float) -> bool:
        """Stop the engine; say whether it did. It waits for its processes without bound, even for dead ones."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def stop() -> None:
            self._llm.shutdown()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(stopped.set)

        # a thread that nobody joins, not even the end of the event loop
        threading.Thread(target=stop, name="TensorRT-LLM shutdown", daemon=True).start()
        try:
            async with asyncio.timeout(timeout_s):
                await stopped.wait()
        except TimeoutError:
            return False
        return True


_STATS_TIMEOUT_S = 2.0


def with_images(text: str, images: Sequence[bytes]) -> Inputs:
    """A prompt of text and images. Decodes them, which takes its time: belongs in a thread.

    Args:
        images: As ``inference.images.check_image`` lets them pass.

    Raises:
        OSError: one is no PNG.
        SyntaxError: one is damaged.
    """
    return {"prompt": text, "multi_modal_data": {"image": [_pixels(image) for image in images]}}


def _pixels(png: bytes) -> Image.Image:
    with Image.open(BytesIO(png), formats=("PNG",)) as image:
        image.load()
        return image.copy()


def check_grammar(grammar: str) -> None:
    """Parse ``grammar`` as the engine will: a broken one could take more than its own generation down.

    Raises:
        RuntimeError: it is none.
    """
    xgrammar.Grammar.from_ebnf(grammar)


def _speculative_config(speculation: Speculation | None) -> Any:
    return None if speculation is None else _SPECULATION[type(speculation)](**_given(speculation))


def _given(options: msgspec.Struct) -> dict[str, Any]:
    return _present(**{name: getattr(options, name) for name in options.__struct_fields__})


def _present(**options: object | UnsetType) -> dict[str, Any]:
    """Those that are set."""
    return {name: value for name, value in options.items() if value is not UNSET}
