"""Ranges of numbers -> automata over their digits: exact, without floating point."""

import math
from dataclasses import dataclass
from decimal import Decimal

from inference.grammar.automaton import NOTHING, Automaton
from inference.grammar.regular import EMPTY, Choice, Expression, Repeated, Sequenced, compiled, one_of, text

INTEGER_DIGITS = 18
"""Of integers without a limit of their own: they fit into 64 bits."""
FRACTION_DIGITS = 17
MAX_DIGITS = 60
"""Of a limit."""

_DIGIT = one_of("0123456789")


@dataclass(frozen=True, slots=True)
class Limit:
    """One end of a range."""

    value: Decimal
    is_inside: bool
    """Whether the value itself is in the range."""


def compiled_integers(low: Limit | None, high: Limit | None) -> Automaton:
    """The automaton of the integers in a range, without exponents and needless zeros."""
    most = 10 ** max([INTEGER_DIGITS] + [len(str(int(limit.value))) for limit in (low, high) if limit is not None]) - 1
    first = -most if low is None else _next_integer(low)
    last = most if high is None else -_next_integer(Limit(-high.value, high.is_inside))
    choices: list[Expression] = []
    if last >= 0 and first <= last:
        choices.append(_naturals(max(first, 0), last))
    if first < 0 and first <= last:
        choices.append(Sequenced((text("-"), _naturals(max(-last, 1), -first))))
    return compiled(Choice(tuple(choices)))


def compiled_decimals(low: Limit | None, high: Limit | None) -> Automaton:
    """The automaton of the numbers in a range, without exponents, needless zeros before the point, and minus zero."""
    digits = max([INTEGER_DIGITS] + [len(str(abs(int(limit.value)))) for limit in (low, high) if limit is not None])
    places = max([FRACTION_DIGITS] + [_places(limit.value) for limit in (low, high) if limit is not None])
    fraction = Repeated(Sequenced((text("."), Repeated(_DIGIT, 1, places))), 0, 1)
    natural = _naturals(0, 10**digits - 1)
    zero = Limit(Decimal(0), False)
    positive = compiled(Sequenced((natural, fraction)))
    negative = compiled(Sequenced((text("-"), natural, fraction))) & compiled(_negated(_above(zero)))
    if low is not None:
        if low.value >= 0:
            positive &= compiled(_above(low))
            negative = NOTHING
        else:
            negative &= compiled(_negated(_below(Limit(-low.value, low.is_inside))))
    if high is not None:
        if high.value < 0:
            negative &= compiled(_negated(_above(Limit(-high.value, high.is_inside))))
            positive = NOTHING
        else:
            positive &= compiled(_below(high))
    return compiled(Choice((positive, negative)))


def _next_integer(limit: Limit) -> int:
    """The first integer of a range that begins with ``limit``."""
    first = math.ceil(limit.value)
    return first if limit.is_inside or first != limit.value else first + 1


def _places(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def _naturals(low: int, high: int) -> Expression:
    """Integers from ``low`` to ``high``, both at least 0, without leading zeros."""
    choices: list[Expression] = []
    while low <= high:  # all of one length at a time
        top = min(high, 10 ** len(str(low)) - 1)
        choices.append(_same_length(str(low), str(top)))
        low = top + 1
    return Choice(tuple(choices))


def _same_length(low: str, high: str) -> Expression:
    """Digits from ``low`` to ``high``, as many as both have."""
    if not low:
        return EMPTY
    if set(low) == {"0"} and set(high) == {"9"}:
        return Repeated(_DIGIT, len(low), len(low))
    if low[0] == high[0]:
        return Sequenced((text(low[0]), _same_length(low[1:], high[1:])))
    rest = len(low) - 1
    choices: list[Expression] = [
        Sequenced((text(low[0]), _same_length(low[1:], "9" * rest))),
        Sequenced((text(high[0]), _same_length("0" * rest, high[1:]))),
    ]
    if between := _digits(int(low[0]) + 1, int(high[0]) - 1):
        choices.append(Sequenced((one_of(between), Repeated(_DIGIT, rest, rest))))
    return Choice(tuple(choices))


def _digits(low: int, high: int) -> str:
    return "".join(str(digit) for digit in range(low, high + 1))


_DIGITS = Repeated(_DIGIT, 0, None)
_NONZERO = Sequenced((_DIGITS, one_of("123456789"), _DIGITS))
_ANY_FRACTION = Repeated(Sequenced((text("."), _DIGITS)), 0, 1)


def _split(value: Decimal) -> tuple[int, str]:
    """The integer part of a value that is not negative, and the digits of its fraction without zeros at the end."""
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _above(limit: Limit) -> Expression:
    """Numbers that are not negative and not below ``limit``; shape is not checked beyond that."""
    whole, fraction = _split(limit.value)
    longer = 10 ** (len(str(whole)) + 1)
    bigger = Choice(
        (
            _naturals(whole + 1, longer - 1),
            Sequenced((one_of("123456789"), Repeated(_DIGIT, len(str(longer)) - 1, None))),
        )
    )
    return Choice(
        (
            Sequenced((bigger, _ANY_FRACTION)),
            Sequenced((text(str(whole)), _fraction_above(fraction, is_inside=limit.is_inside))),
        )
    )


def _below(limit: Limit) -> Expression:
    """Numbers that are not negative and not above ``limit``; shape is not checked beyond that."""
    whole, fraction = _split(limit.value)
    return Choice(
        (
            Sequenced((_naturals(0, whole - 1), _ANY_FRACTION)),
            Sequenced((text(str(whole)), _fraction_below(fraction, is_inside=limit.is_inside))),
        )
    )


def _fraction_above(fraction: str, *, is_inside: bool) -> Expression:
    """What follows the integer part in numbers whose fraction is at least ``fraction``, or more than that."""
    if not fraction:
        return _ANY_FRACTION if is_inside else Sequenced((text("."), _NONZERO))
    choices: list[Expression] = [Sequenced((text("." + fraction), _DIGITS if is_inside else _NONZERO))]
    for place, digit in enumerate(fraction):
        if higher := _digits(int(digit) + 1, 9):
            choices.append(Sequenced((text("." + fraction[:place]), one_of(higher), _DIGITS)))
    return Choice(tuple(choices))


def _fraction_below(fraction: str, *, is_inside: bool) -> Expression:
    """What follows the integer part in numbers whose fraction is at most ``fraction``, or less than that."""
    zeros = Repeated(text("0"), 0, None)
    choices: list[Expression] = []
    if fraction or is_inside:
        choices.append(EMPTY)
    if is_inside:
        choices.append(Sequenced((text("." + fraction), zeros)))
    for place, digit in enumerate(fraction):
        if place:
            choices.append(text("." + fraction[:place]))
        if lower := _digits(0, int(digit) - 1):
            choices.append(Sequenced((text("." + fraction[:place]), one_of(lower), _DIGITS)))
    return Choice(tuple(choices))


def _negated(magnitude: Expression) -> Expression:
    return Sequenced((text("-"), magnitude))
