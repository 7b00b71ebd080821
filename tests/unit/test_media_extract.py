"""Text out of hostile files: whatever happens in the child process is a clean refusal here."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.media.extractor import ExtractLimits, Extractor
from tests.support.media import pdf
from tests.support.processes import wait_until

LIMITS = ExtractLimits(max_chars=10_000)
TITLE = "Title: A File"
BOMB = pdf(content=b"BT /F1 12 Tf (x) Tj ET " * 1_500_000)
"""Minutes of work, and more memory than most, in a few kilobytes."""


async def refused(kind: str, data: bytes, limits: ExtractLimits = LIMITS) -> str:
    """The message of an extraction that must fail."""
    with pytest.raises(ApiError) as refusal:
        await Extractor(limits).extract(kind, data)  # type: ignore[arg-type]
    assert refusal.value.reason == ErrorReason.ERROR_REASON_INVALID_MEDIA
    return refusal.value.message


def children() -> list[str]:
    """Process ids of this process's children."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


async def test_a_pdf_without_a_cross_reference_table_is_read() -> None:
    assert await Extractor(LIMITS).extract("pdf", pdf(TITLE)) == TITLE


async def test_a_pdf_without_its_end_is_read() -> None:
    assert await Extractor(LIMITS).extract("pdf", pdf(TITLE).removesuffix(b"%%EOF")) == TITLE


async def test_text_in_any_script_survives_the_pipe() -> None:
    page = "<p>Grüße, 世界 &amp; 🌍 &#xD800;</p>"
    assert await Extractor(LIMITS).extract("html", page.encode()) == "Grüße, 世界 & 🌍 \ufffd"


async def test_a_page_is_what_it_shows() -> None:
    page = """<!DOCTYPE html><html><head><title>T</title><style>p {color: red}</style></head>
    <body><script>alert("x")</script><h1>One  <b>two</b></h1><p>Three<br>four<table><tr><td>5<td>6</tr></table>
    <template>hidden</template></noscript>end</body></html>"""
    assert await Extractor(LIMITS).extract("html", page.encode()) == "T\nOne two\nThree\nfour\n5 6\nend"


async def test_an_endless_page_of_drawing_meets_the_cpu_limit() -> None:
    assert len(BOMB) < 100_000
    limits = LIMITS._replace(max_cpu_s=1, max_memory_bytes=2**32)
    assert "damaged, or too complex" in await refused("pdf", BOMB, limits)


async def test_a_page_that_unpacks_to_much_meets_the_memory_limit() -> None:
    limits = LIMITS._replace(max_memory_bytes=80 * 2**20, max_cpu_s=60, timeout_s=60)
    assert await Extractor(limits).extract("pdf", pdf(TITLE)) == TITLE
    assert "damaged, or too complex" in await refused("pdf", BOMB, limits)


async def test_a_process_that_takes_too_long_is_killed() -> None:
    before = children()
    limits = LIMITS._replace(timeout_s=0.5, max_memory_bytes=2**32)
    assert "too long" in await refused("pdf", BOMB, limits)
    assert children() == before


async def test_a_cancelled_extraction_leaves_no_process() -> None:
    before = children()
    extractor = Extractor(LIMITS._replace(max_memory_bytes=2**32))
    extracting = asyncio.ensure_future(extractor.extract("pdf", BOMB))
    await asyncio.to_thread(wait_until, lambda: children() != before, timeout_s=20, what="a child process")
    extracting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await extracting
    assert children() == before
    assert await extractor.extract("pdf", pdf(TITLE)) == TITLE


@pytest.mark.parametrize("kind", ["pdf", "html"])
async def test_more_text_than_the_limit_is_refused(kind: str) -> None:
    data = pdf("x" * 20) if kind == "pdf" else b"x" * 20
    assert "more than 10 characters" in await refused(kind, data, LIMITS._replace(max_chars=10))


async def test_a_file_without_text_is_refused() -> None:
    assert "no text" in await refused("pdf", pdf(""))
    assert "no text" in await refused("html", b"<p> <script>x</script>")


async def test_an_encrypted_file_is_refused() -> None:
    assert "encrypted" in await refused("pdf", pdf(TITLE, encrypted=True))


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7",
        b"%PDF-1.7\nnonsense\n%%EOF",
        b"%PDF-1.7\n" + b"<<" * 100_000 + b"\n%%EOF",
        b"%PDF-1.7\n" + b"[" * 100_000 + b"\ntrailer << /Root 1 0 R >>\nstartxref\n9\n%%EOF",
        b"%PDF-1.7\n1 0 obj << /Type /Catalog /Pages 1 0 R /Kids [1 0 R] >> endobj\ntrailer << /Root 1 0 R >>\n%%EOF",
        b"%PDF-1.7\n1 0 obj 1 0 R endobj\ntrailer << /Root 1 0 R >>\nstartxref\n" + b"9" * 5000 + b"\n%%EOF",
        bytes(range(256)) * 100,
    ],
)
async def test_a_broken_pdf_is_refused(data: bytes) -> None:
    await refused("pdf", data)


@settings(max_examples=6)
@given(st.lists(st.binary(max_size=300), min_size=4, max_size=4), st.integers(0, 900))
def test_garbage_is_refused_or_read_but_never_worse(garbage: list[bytes], at: int) -> None:
    whole = pdf(TITLE)
    files = [garbage[0], b"%PDF-1.4\n" + garbage[1], whole[:at] + garbage[2] + whole[at:], whole[:at] + garbage[3]]

    async def extract_all() -> list[str | BaseException]:
        extractor = Extractor(LIMITS)
        return await asyncio.gather(*(extractor.extract("pdf", file) for file in files), return_exceptions=True)

    for outcome in asyncio.run(extract_all()):
        if isinstance(outcome, ApiError):
            assert outcome.reason == ErrorReason.ERROR_REASON_INVALID_MEDIA
        else:
            assert isinstance(outcome, str)
            assert outcome


async def test_extractions_beyond_the_places_wait_or_are_refused() -> None:
    extractor = Extractor(LIMITS._replace(at_once=1))
    texts = await asyncio.gather(*(extractor.extract("pdf", pdf(f"Number {number}")) for number in range(3)))
    assert texts == ["Number 0", "Number 1", "Number 2"]
    with pytest.raises(ApiError) as overload:
        await Extractor(LIMITS._replace(at_once=0, timeout_s=0.1)).extract("pdf", b"")
    assert overload.value.reason == ErrorReason.ERROR_REASON_OVERLOADED


async def test_the_child_gets_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pypdf.py").write_text("raise SystemExit(0)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert await Extractor(LIMITS).extract("pdf", pdf(TITLE)) == TITLE
