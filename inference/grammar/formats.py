"""The values of ``format`` that are enforced; all others are annotations, as JSON Schema has them.

Each is generated in the form that validators agree on, which may be narrower than its standard: times have a zone, URIs
are of the web.
"""

from collections.abc import Mapping

from inference.grammar.automaton import Automaton
from inference.grammar.pattern import compiled_pattern

_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_HOUR = "(?:[01][0-9]|2[0-3])"
_TIME = f"{_HOUR}:[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR}:[0-5][0-9])"
_IN_DAY = "(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S)"
_DAYS = "[0-9]{1,4}D"
_MONTHS = f"[0-9]{{1,4}}M(?:{_DAYS})?"
_LABEL = "[A-Za-z0-9]{1,20}(?:-[A-Za-z0-9]{1,20}){0,2}"
_ATOM = "[A-Za-z0-9_+-]{1,20}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP = "[0-9a-fA-F]{1,4}"
_URI_CHAR = "[A-Za-z0-9._~!$&'()*+,;=:@/?-]"

_PATTERNS: Mapping[str, str] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:(?:{_DAYS}|{_MONTHS}|[0-9]{{1,4}}Y(?:{_MONTHS})?)(?:T{_IN_DAY})?|T{_IN_DAY}|[0-9]{{1,4}}W)",
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "email": f"{_ATOM}(?:\\.{_ATOM}){{0,2}}@(?:{_LABEL}\\.){{1,3}}[A-Za-z]{{2,10}}",
    "hostname": f"{_LABEL}(?:\\.{_LABEL}){{0,3}}",
    "ipv4": f"(?:{_OCTET}\\.){{3}}{_OCTET}",
    "ipv6": "|".join(
        [f"(?:{_GROUP}:){{7}}{_GROUP}", f"::(?:{_GROUP}(?::{_GROUP}){{0,6}})?"]
        + [f"{_GROUP}(?::{_GROUP}){{{n - 1}}}::(?:{_GROUP}(?::{_GROUP}){{0,{6 - n}}})?" for n in range(1, 7)]
        + [f"(?:{_GROUP}:){{7}}:"]
    ),
    "uri": f"https?://{_LABEL}(?:\\.{_LABEL}){{0,3}}(?::[1-9][0-9]{{0,3}})?(?:/{_URI_CHAR}{{0,200}})?",
}


def compiled_format(name: str) -> Automaton | None:
    """The texts of a format; None if the name is an annotation."""
    pattern = _PATTERNS.get(name)
    return None if pattern is None else compiled_pattern(f"^(?:{pattern})$")
