"""Common answers decided without sympy: integers, decimals, fractions, k sqrt(n), and tuples and lists of them.

The class strings are those the sympy path gives for the same value (a test holds the two together on
random answers); whatever this file does not know for certain, it leaves to that path by returning None.
It imports no sympy, so the parent process stays light.
"""

from __future__ import annotations

import re
from fractions import Fraction

from harness.grading.limits import MAX_NUMBER_DIGITS, Unparsable
from harness.grading.normalise import Normal, text_class
from harness.grading.policy import Policy
from harness.grading.render import render
from harness.grading.structure import Node, parse

MAX_RADICAND = 10**6
"""Below it trial division is instant and sympy's own factoring of radicals is complete."""

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_RATIONAL = re.compile(rf"([+-]?)({_NUMBER})(?:/(\d+))?")
_FRACTION = re.compile(rf"([+-]?)\\frac\{{([+-]?{_NUMBER})\}}\{{([+-]?{_NUMBER})\}}")
_MIXED = re.compile(r"([+-]?)(\d+)\\frac\{(\d+)\}\{(\d+)\}")
_SURD = re.compile(r"([+-]?)(\d*)\\sqrt\{(\d+)\}(?:/(\d+))?")
_SURD_OVER = re.compile(r"([+-]?)\\frac\{([+-]?)(\d*)\\sqrt\{(\d+)\}\}\{(\d+)\}")
_INFINITY = re.compile(r"([+-]?)\\infty")


class _NotFast(Exception):
    pass


def fast_class(normal: Normal, policy: Policy) -> str | None:
    """The class of a common answer, or None where the sympy path must decide."""
    if normal.is_word:
        return text_class(normal)
    try:
        return render(parse(normal.text, policy), _leaf)
    except (_NotFast, Unparsable):
        return None


def _leaf(node: Node) -> str:
    if node.kind != "leaf":
        raise _NotFast
    value = number(node.text)
    if value is not None:
        return rational_string(value)
    surd = _surd(node.text)
    if surd is not None:
        return surd
    infinity = _INFINITY.fullmatch(node.text)
    if infinity:
        return "-oo" if infinity[1] == "-" else "oo"
    raise _NotFast


def number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction or mixed number (1.5 is 3/2), or None."""
    match = _RATIONAL.fullmatch(text)
    if match:
        return _quotient(match[1], match[2], match[3] or "1")
    match = _FRACTION.fullmatch(text)
    if match:
        return _quotient(match[1], match[2], match[3])
    match = _MIXED.fullmatch(text)
    if match and 0 < int(match[3]) < int(match[4]):
        value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return -value if match[1] == "-" else value
    return None


def rational_string(value: Fraction) -> str:
    _check_size(value)
    return f"{value.numerator}" if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def _check_size(value: Fraction) -> None:
    """Python refuses to print integers of more than 4300 digits; the worker, which may, prints those."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 3 * MAX_NUMBER_DIGITS:
        raise _NotFast


def _quotient(sign: str, top: str, bottom: str) -> Fraction | None:
    below = Fraction(bottom)
    if below == 0:
        return None
    value = Fraction(top) / below
    return -value if sign == "-" else value


def _surd(text: str) -> str | None:
    match = _SURD.fullmatch(text)
    if match:
        sign, factor, radicand, below = match[1], match[2], match[3], match[4] or "1"
    else:
        match = _SURD_OVER.fullmatch(text)
        if match is None:
            return None
        sign = "-" if (match[1] == "-") != (match[2] == "-") else ""
        factor, radicand, below = match[3], match[4], match[5]
    if len(radicand) > 7 or int(radicand) > MAX_RADICAND or int(below) == 0:
        return None
    outside, inside = _square_part(int(radicand))
    value = Fraction(int(factor or "1") * outside, int(below))
    value = -value if sign == "-" else value
    if inside in (0, 1) or value == 0:
        return rational_string(value * inside)
    _check_size(value)
    top = {1: "", -1: "-"}.get(value.numerator, f"{value.numerator}*")
    return f"{top}sqrt({inside})" + ("" if value.denominator == 1 else f"/{value.denominator}")


def _square_part(n: int) -> tuple[int, int]:
    """(a, b) with n = a*a*b and b squarefree."""
    if n == 0:
        return 1, 0
    outside, divisor = 1, 2
    while divisor * divisor <= n:
        while n % (divisor * divisor) == 0:
            n //= divisor * divisor
            outside *= divisor
        divisor += 1
    return outside, n
