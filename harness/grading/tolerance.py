"""What ``matches`` accepts beyond exact equality, each by a named field of ``Policy``; no class depends on it.

Units that disagree are the other way round: they part answers whose values are the same. ``quick`` asks here
whether a verdict could turn on any of this before it gives one without sympy.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from harness.grading.normalise import Normal
from harness.grading.policy import Policy
from harness.grading.units import conversion

if TYPE_CHECKING:
    import sympy

MAX_DOUBLE_DIGITS = 17
"""Significant digits a double prints; a longer decimal was written out by hand and means itself."""
_DECIMAL = re.compile(r"-?(\d*)\.(\d+)")
_BARE_LOG = re.compile(r"\\log(?![a-zA-Z_])")


def may_apply(gold: Normal, answer: Normal, policy: Policy) -> bool:
    """Whether the verdict on two answers of different classes could turn on a tolerance."""
    return (
        conversion(gold.unit, answer.unit) != 1
        or (policy.percent_as_fraction and gold.percent != answer.percent)
        or (policy.ratio_as_quotient and (":" in gold.text) != (":" in answer.text))
        or bool(gold.choice or answer.choice)
        or has_rounded(gold, policy)
        or has_rounded(answer, policy)
    )


def has_rounded(normal: Normal, policy: Policy) -> bool:
    """Whether some number of the answer is long enough to be a rounded one."""
    if not policy.rounded_digits or "." not in normal.text:
        return False
    return any(_may_be_rounded(match[1] + match[2], policy) for match in _DECIMAL.finditer(normal.text))


def same_choice(gold: Normal, answer: Normal) -> bool:
    """Whether one is a choice letter and the other the same letter with its value."""
    one = gold.choice or (gold.text if gold.is_word else "")
    other = answer.choice or (answer.text if answer.is_word else "")
    return bool(gold.choice) != bool(answer.choice) and one == other


def natural(normal: Normal, policy: Policy) -> str | None:
    """The text with every log of no base as a natural one, or None where it has none or the policy forbids it."""
    if not policy.natural_log or not _BARE_LOG.search(normal.text):
        return None
    return _BARE_LOG.sub(r"\\ln", normal.text)


def percent_factor(gold: Normal, answer: Normal, policy: Policy) -> Fraction | None:
    """What the answer is multiplied by where one side alone is a percentage and is read as a fraction."""
    if not policy.percent_as_fraction or gold.percent == answer.percent:
        return None
    return Fraction(1, 100) if answer.percent else Fraction(100)


def same_rounded(text: str, value: sympy.Expr, policy: Policy) -> bool:
    """Whether ``text`` is a long decimal that rounds to the same as ``value``, which has no finite decimal itself."""
    match = _DECIMAL.fullmatch(text)
    if match is None or not _may_be_rounded(match[1] + match[2], policy):
        return False
    if not value.is_number or not value.is_extended_real or not value.is_finite or _terminates(value):
        return False
    written = Fraction(text)
    exact = Fraction(str(value.evalf(2 * policy.rounded_digits + 10)))
    own_digits = len((match[1] + match[2]).lstrip("0"))
    return any(_rounded(written, n) == _rounded(exact, n) for n in (policy.rounded_digits, own_digits))


def _may_be_rounded(digits: str, policy: Policy) -> bool:
    return 0 < policy.rounded_digits <= len(digits.lstrip("0")) <= max(MAX_DOUBLE_DIGITS, policy.rounded_digits)


def _terminates(value: sympy.Expr) -> bool:
    if not value.is_Rational:
        return False
    below = int(value.q)
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below == 1


def _rounded(value: Fraction, digits: int) -> Fraction:
    """``value`` to that many significant digits."""
    if not value:
        return value
    exponent = len(str(abs(value.numerator))) - len(str(value.denominator))  # floor(log10) or one more
    if abs(value) < Fraction(10) ** exponent:
        exponent -= 1
    unit = Fraction(10) ** (exponent - digits + 1)
    return round(value / unit) * unit
