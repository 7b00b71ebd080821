"""The llama.cpp engine: one thread a running generation, woken tokens to the event loop in batches."""

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from inference.engines.base import (
    Capabilities,
    EngineDead,
    EngineInfo,
    EnginePrompt,
    EngineStop,
    MixedPrompt,
    SamplingParams,
    Step,
)
from inference.engines.llamacpp.generation import Generation
from inference.engines.llamacpp.server import VERSION, LlamaServer
from inference.engines.llamacpp.slots import Slot, Slots, cache_key
from inference.engines.llamacpp.tokenizer import LlamaCppTokenizer

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 10.0
_STALL_TIMEOUT_S = 120.0
"""No token and no chunk of a prompt of any generation for so long: llama.cpp hangs."""
_IMAGE_STALL_TIMEOUT_S = 600.0
"""The same for models that see: a processor may look at one image for minutes."""
_PNG_HEAD_BYTES = 33
"""Signature and IHDR."""
_COUNTED_SIZES = 1024
"""Sizes of images whose numbers of tokens are remembered."""


@dataclass(frozen=True, slots=True)
class LlamaCppSettings:
    """What to load and how wide."""

    model_path: Path
    projector_path: Path | None = None
    """The file with the model's eyes, llama.cpp's ``mmproj``; None: it sees no images."""
    context_window: int = 8192
    """Tokens a generation. KV cache for all of it is held for each one: see ``parallel``."""
    parallel: int = 4
    """Generations at once. SmolLM2-135M takes 23 KB a token: 190 MB a generation of 8192 tokens."""
    threads: int = 1
    """Of llama.cpp's compute pool. More than there are idle cores makes it many times slower."""


class LlamaCppEngine:
    """``Engine`` over an in-process llama.cpp server.

    Penalties count generated tokens only, as OpenAI's do. ``seed`` repeats an output as far as llama.cpp's arithmetic
    is the same, which other generations in the same batch can change in the last digits. Under a grammar penalties
    count the end of the prompt too, and a character that ``max_tokens`` cuts is left out with its tokens; so after
    images.
    """

    def __init__(self, settings: LlamaCppSettings) -> None:
        self._settings = settings
        self._info = EngineInfo(
            engine=f"llamacpp {VERSION}",
            context_window=settings.context_window,
            capacity=settings.parallel,
            capabilities=Capabilities(
                penalties=True,
                seed=True,
                max_top_logprobs=20,
                grammar=True,
                scoring=True,
                images=settings.projector_path is not None,
                end_bias=True,
                cache_salt=True,
            ),
        )
        self._stall_timeout_s = _STALL_TIMEOUT_S if settings.projector_path is None else _IMAGE_STALL_TIMEOUT_S
        self._image_tokens: dict[bytes, int] = {}
        self._threads = ThreadPoolExecutor(settings.parallel, thread_name_prefix="llamacpp")
        self._slots = Slots(settings.parallel)
        self._running: dict[Generation, asyncio.Event] = {}
        self._idle = asyncio.Event()
        self._freed = asyncio.Event()
        self._died = asyncio.Event()
        self._dead: str | None = "the engine has not started"
        self._server: LlamaServer | None = None
        self._tokenizer: LlamaCppTokenizer | None = None

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tokenizer(self) -> LlamaCppTokenizer:
        assert self._tokenizer is not None, "start the engine first"
        return self._tokenizer

    @property
    def chat_template(self) -> str:
        return self.tokenizer.chat_template

    @property
    def died(self) -> asyncio.Event:
        return self._died

    @property
    def kv_cache_usage(self) -> None:
        return None

    async def start(self) -> None:
        """As ``Engine.start``. xllamacpp loads under the interpreter's lock: the event loop stands still meanwhile."""
        loop = asyncio.get_running_loop()
        self._wakeups = _Wakeups(loop)
        await loop.run_in_executor(self._threads, self._load)
        self._dead = None

    def _load(self) -> None:
        settings = self._settings
        # before the weights: a damaged file is refused by the stricter reader
        tokenizer = LlamaCppTokenizer(settings.model_path, lambda text: self._alive_server().tokenize(text))
        self._server = LlamaServer(
            settings.model_path,
            projector_path=settings.projector_path,
            context_window=settings.context_window,
            parallel=settings.parallel,
            threads=settings.threads,
        )
        self._tokenizer = tokenizer
        if settings.projector_path is not None:
            _check_texts(self._server, tokenizer)

    def _alive_server(self) -> LlamaServer:
        if self._server is None:
            raise EngineDead("the engine is closed")
        return self._server

    def count_tokens(self, prompt: MixedPrompt) -> int:
        server = self._alive_server()
        texts = enumerate(self._safe_texts(server, prompt))
        tokens = [len(server.tokenize(text, parse_special=True, as_prompt=index == 0)) for index, text in texts]
        return sum(tokens) + sum(self._count_image(server, image) for image in prompt.images)

    def _safe_texts(self, server: LlamaServer, prompt: MixedPrompt) -> tuple[str, ...]:
        return tuple(server.without_marker(self.tokenizer.spellable(text)) for text in prompt.texts)

    def _count_image(self, server: LlamaServer, image: bytes) -> int:
        size = image[:_PNG_HEAD_BYTES]  # all that the number depends on
        if size not in self._image_tokens:
            if len(self._image_tokens) == _COUNTED_SIZES:
                self._image_tokens.clear()
            self._image_tokens[size] = server.count_image(image)
        return self._image_tokens[size]

    async def generate(
        self, request_id: str, prompt: EnginePrompt, params: SamplingParams
    ) -> AsyncGenerator[Step, None]:
        self._raise_if_dead()
        server = self._alive_server()
        if isinstance(prompt, MixedPrompt):
            prompt = replace(prompt, texts=self._safe_texts(server, prompt))
        else:
            prompt = tuple(prompt)
        while not self._slots.has_free:  # who is cancelled twice leaves before llama.cpp has stopped working for it
            self._freed.clear()
            await self._progress(self._freed)
        slot = self._slots.take(cache_key(prompt), params.cache_salt)
        arrived = asyncio.Event()
        generation = Generation(
            server, self.tokenizer, slot, prompt, params, functools.partial(self._wakeups.put, arrived)
        )
        done = asyncio.get_running_loop().run_in_executor(self._threads, generation.run)
        self._running[generation] = arrived
        done.add_done_callback(functools.partial(self._ended, generation, slot))
        try:
            while not done.done():
                await self._progress(arrived)
                arrived.clear()
                if not done.done() and (step := generation.take()) is not None:
                    yield step
            stop = done.result()
            self._raise_if_dead()
            assert stop is not None, "only abort ends a generation without a reason"
            last = generation.take(stop)
            assert last is not None
            yield last
        finally:
            generation.abort()
            if self._dead is None:
                await asyncio.wait({done})

    async def _progress(self, arrived: asyncio.Event) -> None:
        """Return when ``arrived`` is set.

        Raises:
            EngineDead: the engine has died or is closing, perhaps because no generation has moved for too long.
        """
        while not arrived.is_set():
            try:
                async with asyncio.timeout(self._stall_timeout_s):
                    await arrived.wait()
            except TimeoutError:
                if time.monotonic() - self._wakeups.last_put >= self._stall_timeout_s:
                    self._die(f"llama.cpp has done nothing for {self._stall_timeout_s:.0f} s")
        self._raise_if_dead()

    def _ended(self, generation: Generation, slot: Slot, done: asyncio.Future[EngineStop | None]) -> None:
        """The thread of ``generation`` is through: its slot is free."""
        self._running.pop(generation).set()
        self._slots.give_back(slot)
        self._freed.set()
        if not self._running:
            self._idle.set()
        if isinstance(error := done.exception(), EngineDead):
            self._die(str(error))

    def _die(self, reason: str) -> None:
        self._dead = self._dead or reason
        self._died.set()
        self._freed.set()
        for arrived in self._running.values():
            arrived.set()

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise EngineDead(self._dead)

    async def close(self) -> None:
        """As ``Engine.close``. If llama.cpp hangs it is left as it is: the process must end."""
        self._die("the engine is closed")
        for generation in self._running:
            generation.abort()
        self._threads.shutdown(wait=False)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                while self._running:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.error("llama.cpp does not stop", extra={"generations": len(self._running)})
            return
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.close)


def _check_texts(server: LlamaServer, tokenizer: LlamaCppTokenizer) -> None:
    """Check that llama.cpp's way from text to tokens, which prompts with images take, is the one that we know.

    Raises:
        EngineDead: it puts more around a text than BOS; or it takes for control tokens what the file says is text, as
            it does with some well-known names: content could spell them.
    """
    if server.tokenize("", as_prompt=True) != ([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]):
        raise EngineDead("llama.cpp puts more around the model's texts than BOS")
    tags = "\n".join(tokenizer.tags)
    parsed = set(server.tokenize(tags, parse_special=True)).difference(server.tokenize(tags))
    if forgeable := parsed.difference(tokenizer.markers.values()):
        raise EngineDead(f"the model file has the wrong type for control tokens: {sorted(forgeable)}")


class _Wakeups:
    """Sets events from other threads: one wake-up of the event loop for all that were set since the last one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[asyncio.Event] = deque()
        self._scheduled = False
        self.last_put = time.monotonic()

    def put(self, event: asyncio.Event) -> None:
        """Set ``event`` soon. From any thread."""
        self.last_put = time.monotonic()
        self._events.append(event)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._set_all)

    def _set_all(self) -> None:
        self._scheduled = False  # first: what is put from now on needs a wake-up of its own
        while self._events:
            self._events.popleft().set()
