"""Whether two exact values are one: a number at high precision may refute it, only sympy's exact algebra confirms it.

Algebraic numbers, sines of rational angles among them, are equal where their difference has the minimal polynomial x;
for all else sympy has to simplify the difference to 0. What is neither refuted nor proved is not equal.
"""

from __future__ import annotations

import sympy
from sympy.functions.elementary.trigonometric import InverseTrigonometricFunction

_DIGITS = 30
"""Decimal digits at which two values must agree before a proof is tried."""
MAX_ALGEBRAIC_OPERATIONS = 40
"""In a number whose minimal polynomial is computed."""
MAX_ARCS = 8
"""Arcs, each as often as it is taken, in a sum whose sine is computed."""
_X = sympy.Symbol("x")
_POINTS = (sympy.Rational(7, 5), sympy.Rational(17, 11), sympy.Rational(23, 7))


def same_value(one: sympy.Expr, other: sympy.Expr) -> bool:
    """Whether ``one`` and ``other`` are the same value, whatever their symbols stand for."""
    if one == other:
        return True
    if one.is_Rational and other.is_Rational:
        return False
    if one in (sympy.oo, -sympy.oo) or other in (sympy.oo, -sympy.oo):
        return False
    if one.free_symbols != other.free_symbols and one.is_polynomial() and other.is_polynomial():
        return False  # canonical polynomials in different unknowns
    difference = one - other
    if not all(_vanishes(difference, shift) for shift in range(2 if difference.free_symbols else 1)):
        return False
    if difference.has(InverseTrigonometricFunction):
        difference = _sine(difference)
    if _is_algebraic(difference) and sympy.count_ops(difference) <= MAX_ALGEBRAIC_OPERATIONS:
        try:
            return bool(sympy.minimal_polynomial(difference, _X) == _X)
        except (NotImplementedError, sympy.polys.polyerrors.BasePolynomialError):
            return False
    return bool(sympy.simplify(difference) == 0)


def _sine(difference: sympy.Expr) -> sympy.Expr:
    """What is 0 where ``difference`` is, which is near 0: its sine, computed where it is a sum of a few arcs."""
    multiples = [term.as_coeff_Mul()[0] for term in sympy.Add.make_args(difference)]
    if difference.free_symbols or sum(map(abs, multiples)) > MAX_ARCS:
        return difference
    sine = sympy.expand_trig(sympy.expand_trig(sympy.sin(difference)))
    return sine if _is_algebraic(sine) else difference


def _is_algebraic(value: sympy.Expr) -> bool:
    """Whether ``value`` is built of rationals by roots, i, and sines of rational multiples of pi."""
    if value.is_Rational or value is sympy.I:
        return True
    if isinstance(value, sympy.Add | sympy.Mul):
        return all(map(_is_algebraic, value.args))
    if isinstance(value, sympy.Pow):
        return bool(value.exp.is_Rational) and _is_algebraic(value.base)
    if isinstance(value, sympy.sin | sympy.cos | sympy.tan):
        return bool((value.args[0] / sympy.pi).is_Rational)
    return False


def _vanishes(difference: sympy.Expr, shift: int) -> bool:
    """Whether the difference is zero to ``_DIGITS`` at one point: cheap, and settles all but equal values."""
    symbols = sorted(difference.free_symbols, key=str)
    at = {symbol: _POINTS[(i + shift) % len(_POINTS)] + i for i, symbol in enumerate(symbols)}
    try:
        value = difference.subs(at).evalf(_DIGITS)
        return bool(abs(value) < sympy.Rational(1, 10 ** (_DIGITS // 2)))
    except (TypeError, ValueError, ArithmeticError):
        return False
