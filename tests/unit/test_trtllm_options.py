"""The settings of the TensorRT-LLM engine: its file, and the variables beside it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference.engines.trtllm.options import Eagle3, NGram, Options, read_options
from inference.settings import read_settings
from tests.support.antiphon import ROOT

TRTLLM = {"INFERENCE_ENGINE": "trtllm", "INFERENCE_MODEL_PATH": "/models/m"}


def write(folder: Path, text: str) -> Path:
    path = folder / "trtllm.toml"
    path.write_text(text)
    return path


def test_without_a_file_there_are_defaults_that_enforce_grammars_and_abort_with_care() -> None:
    defaults = read_options(None)
    assert (defaults.guided_decoding_backend, defaults.abort_mode) == ("xgrammar", "after_first_token")
    assert defaults.enable_chunked_prefill


def test_a_file_says_how_the_engine_is_built(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        tensor_parallel_size = 2
        [kv_cache]
        dtype = "fp8"
        host_cache_size = 1_000_000_000
        [speculation]
        type = "ngram"
        max_draft_len = 4
        max_matching_ngram_size = 3
        """,
    )
    options = read_options(path)
    assert (options.tensor_parallel_size, options.kv_cache.dtype) == (2, "fp8")
    assert options.speculation == NGram(max_draft_len=4, max_matching_ngram_size=3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_token = 1", "max_token"),
        ("[kv_cache]\nsize = 1", "size"),
        ("tensor_parallel_size = 0", "tensor_parallel_size"),
        ("stream_interval = '4'", "stream_interval"),
        ("guided_decoding_backend = 'llguidance'", "llguidance"),
        ("sampler_type = 'TRTLLMSampler'", "TRTLLMSampler"),
        ("abort_mode = 'never'", "never"),
        ("[speculation]\ntype = 'medusa'", "medusa"),
        ("[speculation]\ntype = 'eagle3'\nmax_draft_len = 3\nspeculative_model_dir = '/d'", "eagle3 with guided"),
        ("[images]\nplaceholder = '<image>'", "tokens_per_image"),
        ("[images]\ntokens_per_image = 0", "tokens_per_image"),
        ("[images]\ntokens_per_image = 1\nplaceholder = ''", "placeholder"),
        ("x = ", "Invalid value"),
    ],
)
def test_what_a_file_may_not_say_is_refused_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_options(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing"):
        read_options(tmp_path / "nothing.toml")


def test_speculation_that_grammars_do_not_go_with_needs_them_off() -> None:
    draft = Eagle3(max_draft_len=3, speculative_model_dir="/draft")
    assert Options(speculation=draft, guided_decoding_backend="none").speculation is draft


def test_the_engine_has_no_min_p_and_refuses_one() -> None:
    assert read_settings(TRTLLM).min_p == 0
    assert read_settings({**TRTLLM, "INFERENCE_MIN_P": "0"}).min_p == 0


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"INFERENCE_MIN_P": "0.1"}, "INFERENCE_MIN_P"),
        ({"INFERENCE_THREADS": "4"}, "INFERENCE_THREADS"),
        ({"INFERENCE_MODEL_PATH": ""}, "INFERENCE_MODEL_PATH"),
        ({"INFERENCE_ENGINE": "scripted", "INFERENCE_ENGINE_SETTINGS": "/x"}, "INFERENCE_ENGINE_SETTINGS"),
    ],
)
def test_variables_that_the_engine_has_no_use_for_are_refused(changes: dict[str, str], variable: str) -> None:
    with pytest.raises(ValueError, match=variable):
        read_settings({**TRTLLM, **changes})


def _names(struct: Any) -> set[str]:
    return set(struct.__struct_fields__).union(
        *(
            _names(field.type)
            for field in msgspec.structs.fields(struct)
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        )
    )


def test_every_option_is_documented() -> None:
    page = (ROOT / "docs" / "tensorrt-llm.md").read_text()
    assert [name for name in sorted(_names(Options)) if f"`{name}`" not in page and f"`[{name}]`" not in page] == []
