"""llama.cpp's server, in this process: the only file that imports xllamacpp and knows its JSON.

Generations run through ``handle_completions``, which calls back in the thread that waits for it. What that function
cannot do goes over the server's own HTTP port: ``/tokenize``, and ``/completion`` to learn the id of a token that is
only a part of a character. With a projector loaded all generations do: that function then takes nothing but strings.
The port is on loopback, chosen by the system, and guarded by a random key, so that no other local process can use the
model.
"""

import base64
import http
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

from inference.engines.base import EngineDead, EngineError, MixedPrompt

VERSION = version("xllamacpp")

_HTTP_TIMEOUT_S = 120
_IMAGE_TIMEOUT_S = 600
"""For streams: a processor may look at one image of a large model for minutes, and llama.cpp says nothing meanwhile."""
_FORCE = 1e6
"""A logit bias that no other token can beat."""
_COUNT_ONLY = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""The chat template for counting the tokens of images. Prompts come rendered; and a model's own template that llama.cpp
cannot parse would keep it from loading."""
_EVENT = b"data: "
_LOG_ERRORS = 1
"""llama.cpp's verbosity: 0 nothing, 1 errors, 2 warnings, 3 one line per request and more."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token, with what llama.cpp says beside it."""

    token_id: int
    text: bytes
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

    def __init__(
        self, model_path: Path, *, projector_path: Path | None = None, context_window: int, parallel: int, threads: int
    ) -> None:
        """Load the model. Holds the interpreter's lock until it is loaded: nothing else runs in this process.

        Raises:
            EngineDead: it cannot be loaded.
        """
        api_key = secrets.token_urlsafe(32)
        params = xllamacpp.CommonParams()
        params.model.path = str(model_path)
        if projector_path is not None:
            params.mmproj.path = str(projector_path)
            params.mmproj_use_gpu = False
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
        params.chat_template = _COUNT_ONLY
        params.verbosity = _LOG_ERRORS
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise EngineDead(f"llama.cpp cannot load {model_path}: {error}") from error
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._host = urlsplit(self._server.listening_address).netloc
        self._connections: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()
        self._marker: str | None = None
        if projector_path is not None:
            properties = self._call("GET", "/props")
            if not properties["modalities"]["vision"]:
                raise EngineDead(f"{projector_path} is for no images")
            self._marker = properties["media_marker"]
            """Stands for an image in a prompt; drawn at random at start."""

    def without_marker(self, text: str) -> str:
        """``text`` with an invisible character in what llama.cpp would take for an image."""
        if self._marker is None:
            return text
        return text.replace(self._marker, f"{self._marker[0]}\N{ZERO WIDTH SPACE}{self._marker[1:]}")

    def with_images(self, prompt: MixedPrompt) -> dict[str, Any]:
        """``prompt``, whose texts are without markers, as llama.cpp takes it.

        Raises:
            EngineError: it ends with an image, at which llama.cpp would end the process; or no projector is loaded.
        """
        if self._marker is None or not prompt.texts[-1]:
            raise EngineError("the model takes no images, or none at the end of a prompt")
        images = [base64.b64encode(image).decode() for image in prompt.images]
        return {"prompt_string": self._marker.join(prompt.texts), "multimodal_data": images}

    def count_image(self, image: bytes) -> int:
        """Tokens that ``image`` takes, with those around it. Looks at no more than its size.

        Raises:
            EngineError: llama.cpp refused it.
        """
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}]
        counted = self._call(
            "POST", "/v1/chat/completions/input_tokens", {"messages": [{"role": "user", "content": content}]}
        )
        return int(counted["input_tokens"]) - len(self.tokenize("", as_prompt=True))

    def prefill(self, slot: int, prompt: Sequence[int], *, reuse: bool) -> int:
        """Put ``prompt`` into the slot's KV cache; ``reuse`` says whether what it holds may stay.

        Returns the number of tokens that were there before. The last token is always evaluated anew.

        Raises:
            EngineError: llama.cpp refused it.
        """
        request = {"prompt": prompt, "id_slot": slot, "n_predict": 0, "cache_prompt": reuse, "temperature": 0.0}
        if self._marker is None:
            result = _checked(self._server.handle_completions(request))
        else:
            result = self._call("POST", "/completion", request)
        return int(result["timings"]["cache_n"])

    def stream(
        self,
        request: Mapping[str, Any],
        on_token: Callable[[Token], bool],
        on_progress: Callable[[int], bool] = lambda _: False,
    ) -> str | None:
        """Generate; ``on_token`` is called for each token that completes its text, and ends it by returning True.

        So does ``on_progress``, which is called for each batch of a prompt, with the number of its tokens that were in
        the slot before; only with a projector loaded.

        Returns ``stop`` if llama.cpp's end-of-generation token came (it was passed to ``on_token``, with an empty
        text), ``length`` if ``n_predict`` were generated, None if a callback ended it.

        Raises:
            EngineError: llama.cpp refused it. EngineDead: its HTTP server is gone. Whatever the callbacks raise.
        """
        n_probs = max(1, request.get("n_probs", 0))  # no token ids otherwise
        request = {**request, "n_probs": n_probs, "stream": True, "timings_per_token": True}
        if self._marker is not None:
            return self._stream_over_http(request | {"return_progress": True}, on_token, on_progress)
        finish_reason: str | None = None
        failure: BaseException | None = None

        def on_chunk(chunk: dict[str, Any]) -> bool:
            nonlocal finish_reason, failure
            try:
                choice = _checked(chunk)["choices"][0]
                finish_reason = choice["finish_reason"]
                if choice["logprobs"] is None:
                    return False
                return on_token(_token(choice["logprobs"]["content"][0], choice["text"].encode(), chunk["timings"]))
            except BaseException as error:  # xllamacpp would drop it
                failure = error
                return True

        self._server.handle_completions(request, on_chunk)
        if failure is not None:
            raise failure
        return finish_reason

    def _stream_over_http(
        self, request: Mapping[str, Any], on_token: Callable[[Token], bool], on_progress: Callable[[int], bool]
    ) -> str | None:
        """As ``stream``. A connection each: closing it is what ends the generation in llama.cpp too."""
        connection = http.client.HTTPConnection(self._host, timeout=_IMAGE_TIMEOUT_S)
        try:
            connection.request("POST", "/completion", json.dumps(request), self._headers)
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                _checked(json.loads(response.read()))
            for line in response:
                if not line.startswith(_EVENT):
                    continue
                chunk = _checked(json.loads(line.removeprefix(_EVENT)))
                if chunk["stop"]:
                    return "stop" if chunk["stop_type"] == "eos" else "length"
                probabilities = chunk.get("completion_probabilities")
                if probabilities:
                    ended = on_token(_token(probabilities[0], bytes(probabilities[0]["bytes"]), chunk["timings"]))
                else:
                    ended = on_progress(chunk["timings"]["cache_n"])
                if ended:
                    return None
        except (OSError, http.client.HTTPException) as error:
            raise EngineDead(f"llama.cpp's server does not answer: {error!r}") from error
        finally:
            connection.close()
        raise EngineError("llama.cpp's stream ended without a reason")

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
        result = self._call(
            "POST", "/completion", {**request, "n_predict": 1, "return_tokens": True, "response_fields": fields}
        )
        token_id = result["tokens"][0]
        probabilities = result.get("completion_probabilities") or [
            {"id": token_id, "logprob": float("nan"), "top_logprobs": []}
        ]
        return _token(probabilities[0], b"", result["timings"]), result["stop_type"] == "eos"

    def tokenize(self, text: str, *, parse_special: bool = False, as_prompt: bool = False) -> list[int]:
        """Token ids of ``text``; control tokens stay text unless ``parse_special``, other added tokens never do.

        Args:
            as_prompt: Put before and after it what llama.cpp puts around a prompt.

        Raises:
            EngineDead: the HTTP server is gone.
        """
        body = {"content": text, "add_special": as_prompt, "parse_special": parse_special}
        return list(self._call("POST", "/tokenize", body)["tokens"])

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Over a kept-alive connection; a fresh one if the server has closed it meanwhile."""
        payload = None if body is None else json.dumps(body)
        while True:
            try:
                connection, fresh = self._connections.get_nowait(), False
            except queue.Empty:
                connection, fresh = http.client.HTTPConnection(self._host, timeout=_HTTP_TIMEOUT_S), True
            try:
                connection.request(method, path, payload, self._headers)
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


def _token(probability: dict[str, Any], text: bytes, timings: dict[str, Any]) -> Token:
    return Token(
        token_id=probability["id"],
        text=text,
        logprob=probability["logprob"],
        top=tuple((top["id"], top["logprob"]) for top in probability["top_logprobs"]),
        cached_tokens=timings["cache_n"],
        position=timings["predicted_n"],
    )
