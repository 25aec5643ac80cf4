"""How numbers and expressions are spelled, in prompts, solutions and answers alike.

One spelling per value: fractions in lowest terms with the sign in front, no coefficient 1, no ``+-``.
The grader compares by value, but one spelling keeps the language small for a tiny model.
"""

from __future__ import annotations

from fractions import Fraction


def number(value: Fraction | int) -> str:
    r"""``-\frac{3}{4}``, or the plain integer."""
    value = Fraction(value)
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def signed(n: int) -> str:
    """``+5`` or ``-5``: the later term of a sum."""
    return f"+{n}" if n >= 0 else str(n)


def par(n: int) -> str:
    """``5`` or ``(-5)``: the later factor of a product."""
    return str(n) if n >= 0 else f"({n})"


def term(coefficient: int, symbol: str, first: bool = False) -> str:
    """``+3x``, ``-x``, ``x``; nothing for zero."""
    if coefficient == 0:
        return ""
    size = "" if abs(coefficient) == 1 else str(abs(coefficient))
    sign = "-" if coefficient < 0 else "" if first else "+"
    return f"{sign}{size}{symbol}"


def poly(coefficients: list[int], symbol: str = "x") -> str:
    """``3x^2-5x+7`` from ``[3, -5, 7]``, highest power first."""
    text = ""
    for i, c in enumerate(coefficients):
        power = len(coefficients) - 1 - i
        if power == 0:
            text += (signed(c) if text else str(c)) if c else ""
        else:
            text += term(c, symbol if power == 1 else f"{symbol}^{power}", first=not text)
    return text or "0"


def root(k: int, m: int) -> str:
    r"""``2\sqrt{3}`` for k=2, m=3; the plain integer for m=1."""
    return str(k) if m == 1 else term(k, f"\\sqrt{{{m}}}", first=True) or "0"


def surd(a: int, b: int, m: int) -> str:
    r"""``5-2\sqrt{3}`` for a=5, b=-2, m=3."""
    if m == 1:
        return str(a + b)
    return (str(a) if a else "") + term(b, f"\\sqrt{{{m}}}", first=not a) or "0"


def pair(x: Fraction | int, y: Fraction | int) -> str:
    return f"({number(x)},{number(y)})"
