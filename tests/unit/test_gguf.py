import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.gguf import GgufError, Value, read_metadata
from tests.support.gguf import header

SCALARS = st.one_of(st.booleans(), st.integers(0, 2**32 - 1), st.floats(width=32, allow_nan=False), st.text(max_size=9))
ARRAYS: st.SearchStrategy[list[Value]] = st.one_of(
    st.lists(st.integers(-(2**31), 2**31 - 1)), st.lists(st.text(max_size=9)), st.lists(st.booleans())
)
METADATA = st.dictionaries(
    st.text(max_size=9), SCALARS | ARRAYS | st.lists(ARRAYS.filter(bool), max_size=3), max_size=9
)
EXAMPLE = header({"a": 1, "words": ["one", "two"], "numbers": [1, 2, 3], "nested": [["x"], ["y", "z"]], "last": "é"})
in_one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_file
@given(metadata=METADATA, data=st.data())
def test_wanted_values_are_read_and_others_skipped(
    tmp_path: Path, metadata: dict[str, Value], data: st.DataObject
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(metadata))
    wanted = data.draw(st.sets(st.sampled_from(sorted(metadata)))) if metadata else set()
    assert read_metadata(path, wanted | {"absent key"}) == {key: metadata[key] for key in wanted}


@in_one_file
@given(size=st.integers(0, len(EXAMPLE) - 1))
def test_a_file_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(EXAMPLE[:size])
    with pytest.raises(GgufError, match=r"model\.gguf"):
        read_metadata(path, {"last"})


@in_one_file
@given(position=st.integers(0, len(EXAMPLE) - 8), value=st.integers(0, 2**64 - 1))
def test_a_damaged_file_gives_values_or_a_gguf_error(tmp_path: Path, position: int, value: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(EXAMPLE[:position] + struct.pack("<Q", value) + EXAMPLE[position + 8 :])
    with suppress(GgufError):
        assert read_metadata(path, {"a", "words", "numbers", "nested", "last"}) is not None


def test_a_length_beyond_the_file_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    huge_array = struct.pack("<QcIIQ", 1, b"a", 9, 4, 2**40)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + huge_array)
    tracemalloc.start()
    try:
        with pytest.raises(GgufError, match="1099511627776 items"):
            read_metadata(path, {"a"})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_arrays_nested_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    deep = struct.pack("<QcI", 1, b"a", 9) + struct.pack("<IQ", 9, 1) * 100_000
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + deep)
    for keys in ({"a"}, {"other"}):
        with pytest.raises(GgufError, match="nested"):
            read_metadata(path, keys)


@pytest.mark.parametrize(
    ("content", "message"), [(b"PK\x03\x04" * 9, "GGUF"), (header({}, version=1), "version"), (b"", "empty")]
)
def test_what_is_no_gguf_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(GgufError, match=message):
        read_metadata(path, set())
