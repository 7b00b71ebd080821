"""W3C Trace Context: which trace a request belongs to. Passed on as it came, and logged; no spans are made."""

import re

TRACEPARENT = "traceparent"
"""HTTP header, and gRPC metadata."""

_SHAPE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")


def valid_traceparent(value: str | None) -> str | None:
    """``value`` if it is one; else None, as the rule is to ignore what is malformed (section 3.2, `traceparent`).

    Later versions than 00 may have more after the flags.
    """
    match = _SHAPE.fullmatch(value or "")
    if match is None or (match[1] is not None and match[0].startswith("00")):
        return None
    return match[0]
