"""llama.cpp's server, in this process: the only file that imports xllamacpp and knows its JSON.

Generations run through ``handle_completions``, which calls back in the thread that waits for it. What that function
cannot do goes over the server's own HTTP port: ``/tokenize``, and ``/completion`` to learn the id of a token that is
only a part of a character. The port is on loopback, chosen by the system, and guarded by a random key, so that no
other local process can use the model.
"""

import http.client
import json
import queue
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xllamacpp

from inference.engines.base import EngineDead, EngineError

VERSION = version("xllamacpp")

_HTTP_TIMEOUT_S = 120
_FORCE = 1e6
"""A logit bias that no other token can beat."""
_LOG_ERRORS = 1
"""llama.cpp's verbosity: 0 nothing, 1 errors, 2 warnings, 3 one line per request and more."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token, with what llama.cpp says beside it."""

    token_id: int
    text: str
    """With the bytes of earlier tokens that were a part of the same character."""
    logprob: float
    top: tuple[tuple[int, float], ...]
    """As many as asked for (``n_probs``), likeliest first."""
    cached_tokens: int
    """Prompt tokens of this call that were in the slot before."""
    position: int
    """How many tokens this call had generated with this one."""


class LlamaServer:
    """A loaded model with ``parallel`` slots. Methods block and may be called from many threads at once.

    Nothing moves between slots: the prompt cache in RAM and the choice of a slot by similarity are off, so that a
    caller who names slots decides what is reused.
    """

    def __init__(self, model_path: Path, *, context_window: int, parallel: int, threads: int) -> None:
        """Load the model. Holds the interpreter's lock until it is loaded: nothing else runs in this process.

        Raises:
            EngineDead: it cannot be loaded.
        """
        api_key = secrets.token_urlsafe(32)
        params = xllamacpp.CommonParams()
        params.model.path = str(model_path)
        params.n_ctx = context_window * parallel  # divided evenly among the slots
        params.n_parallel = parallel
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.fit_params = False  # would shrink what we ask for
        params.cache_ram_mib = 0
        params.slot_prompt_similarity = 0.0
        params.ctx_shift = False
        params.api_keys = [api_key]
        params.endpoint_slots = False
        params.ui = False
        params.chat_template = "chatml"  # unused; a model's own that llama.cpp cannot parse would keep it from loading
        params.verbosity = _LOG_ERRORS
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise EngineDead(f"llama.cpp cannot load {model_path}: {error}") from error
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._host = urlsplit(self._server.listening_address).netloc
        self._connections: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()

    def prefill(self, slot: int, prompt: Sequence[int], *, reuse: bool) -> int:
        """Put ``prompt`` into the slot's KV cache; ``reuse`` says whether what it holds may stay.

        Returns the number of tokens that were there before. The last token is always evaluated anew.

        Raises:
            EngineError: llama.cpp refused it.
        """
        result = self._server.handle_completions(
            {"prompt": prompt, "id_slot": slot, "n_predict": 0, "cache_prompt": reuse, "temperature": 0.0}
        )
        return int(_checked(result)["timings"]["cache_n"])

    def stream(self, request: Mapping[str, Any], on_token: Callable[[Token], bool]) -> str | None:
        """Generate; ``on_token`` is called for each token that completes its text, and ends it by returning True.

        Returns ``stop`` if llama.cpp's end-of-generation token came (it was passed to ``on_token``, with an empty
        text), ``length`` if ``n_predict`` were generated, None if ``on_token`` ended it.

        Raises:
            EngineError: llama.cpp refused it. Whatever ``on_token`` raises.
        """
        finish_reason: str | None = None
        failure: BaseException | None = None

        def on_chunk(chunk: dict[str, Any]) -> bool:
            nonlocal finish_reason, failure
            try:
                choice = _checked(chunk)["choices"][0]
                finish_reason = choice["finish_reason"]
                if choice["logprobs"] is None:
                    return False
                return on_token(_token(choice["logprobs"]["content"][0], choice["text"], chunk["timings"]))
            except BaseException as error:  # xllamacpp would drop it
                failure = error
                return True

        n_probs = max(1, request.get("n_probs", 0))  # no token ids otherwise
        self._server.handle_completions(
            {**request, "n_probs": n_probs, "stream": True, "timings_per_token": True}, on_chunk
        )
        if failure is not None:
            raise failure
        return finish_reason

    def candidates(self, request: Mapping[str, Any], forced: int, count: int) -> tuple[tuple[int, float], ...]:
        """Ids and log probabilities of the ``count`` likeliest next tokens; ``forced`` is a token without text.

        Asked for beside a forced token, as llama.cpp says nothing beside one that is only a part of a character.

        Raises:
            EngineError: llama.cpp refused it.
        """
        found: list[Token] = []

        def on_token(token: Token) -> bool:
            found.append(token)
            return True

        bias = [[forced, _FORCE]]
        self.stream({**request, "n_predict": 1, "n_probs": count, "logit_bias": bias}, on_token)
        return found[0].top

    def step(self, request: Mapping[str, Any]) -> tuple[Token, bool]:
        """Generate one token, even one that is only a part of a character; True if it ends the generation.

        Logprob and top are absent (NaN, empty) if they were not asked for, or if the token is such a part.

        Raises:
            EngineError: llama.cpp refused it.
            EngineDead: its HTTP server is gone.
        """
        fields = ["tokens", "stop_type", "completion_probabilities", "timings"]
        result = self._post(
            "/completion", {**request, "n_predict": 1, "return_tokens": True, "response_fields": fields}
        )
        token_id = result["tokens"][0]
        probabilities = result.get("completion_probabilities") or [
            {"id": token_id, "logprob": float("nan"), "top_logprobs": []}
        ]
        return _token(probabilities[0], "", result["timings"]), result["stop_type"] == "eos"

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``; control tokens stay text, other added tokens do not.

        Raises:
            EngineDead: the HTTP server is gone.
        """
        result = self._post("/tokenize", {"content": text, "add_special": False, "parse_special": False})
        return list(result["tokens"])

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Over a kept-alive connection; a fresh one if the server has closed it meanwhile."""
        payload = json.dumps(body)
        while True:
            try:
                connection, fresh = self._connections.get_nowait(), False
            except queue.Empty:
                connection, fresh = http.client.HTTPConnection(self._host, timeout=_HTTP_TIMEOUT_S), True
            try:
                connection.request("POST", path, payload, self._headers)
                result = json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if fresh:
                    raise EngineDead(f"llama.cpp's server does not answer: {error!r}") from error
                continue
            self._connections.put(connection)
            return _checked(result)

    def close(self) -> None:
        """Unload the model. No call may be running: the interpreter's lock is held while llama.cpp's threads end."""
        while not self._connections.empty():
            self._connections.get_nowait().close()
        del self._server


def _checked(result: dict[str, Any]) -> dict[str, Any]:
    if "error" in result:
        raise EngineError(f"llama.cpp: {result['error'].get('message', result['error'])}")
    return result


def _token(probability: dict[str, Any], text: str, timings: dict[str, Any]) -> Token:
    return Token(
        token_id=probability["id"],
        text=text,
        logprob=probability["logprob"],
        top=tuple((top["id"], top["logprob"]) for top in probability["top_logprobs"]),
        cached_tokens=timings["cache_n"],
        position=timings["predicted_n"],
    )
