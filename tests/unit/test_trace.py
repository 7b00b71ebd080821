"""Which W3C trace contexts are taken in (https://www.w3.org/TR/trace-context/, section 3.2)."""

import pytest

from antiphon.trace import valid_traceparent

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "value",
    [
        f"00-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-ff",
        f"cc-{TRACE_ID}-{PARENT_ID}-01-what-comes-later",
    ],
)
def test_a_trace_is_passed_on_as_it_came(value: str) -> None:
    assert valid_traceparent(value) == value


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"00-{TRACE_ID[1:]}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-1",
        f"00-{TRACE_ID}-{PARENT_ID}-01-more",
        f"00-{TRACE_ID}-{PARENT_ID}-01 ",
        f"00-{TRACE_ID}-{PARENT_ID}-01\n",
        f"cc-{TRACE_ID}-{PARENT_ID}-01-{'x' * 300}",
    ],
)
def test_what_is_malformed_is_ignored(value: str | None) -> None:
    assert valid_traceparent(value) is None
