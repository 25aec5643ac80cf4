"""The canonical exact value of one expression, and the string that stands for it in a class.

Short sums of radicals, names and powers print through ``terms.py``, as the path without sympy prints them.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import sympy
from sympy.functions.elementary.trigonometric import InverseTrigonometricFunction, TrigonometricFunction

from harness.grading import terms
from harness.grading.evaluate import evaluate
from harness.grading.latex import parse_expression
from harness.grading.limits import Unparsable
from harness.grading.sums import read_sum

MAX_ARC_MULTIPLE = 8
"""``sin(n arctan x)`` is a polynomial of degree n in sine and cosine."""
_RATIOS = (
    (sympy.tan, lambda x: sympy.sin(x) / sympy.cos(x)),
    (sympy.cot, lambda x: sympy.cos(x) / sympy.sin(x)),
    (sympy.sec, lambda x: 1 / sympy.cos(x)),
    (sympy.csc, lambda x: 1 / sympy.sin(x)),
)


@functools.lru_cache(64)
def scalar(text: str) -> sympy.Expr:
    """The canonical exact value of one expression; may be an infinity, never undefined."""
    total = read_sum(text, scalar) if text.startswith("\\sum") else None
    if total is not None:
        return total
    value = evaluate(*parse_expression(text))
    if value.has(sympy.oo, -sympy.oo):
        if value in (sympy.oo, -sympy.oo):
            return value
        raise Unparsable("an infinity inside an expression")
    if value.is_Rational:
        return value
    return _number_form(value) if value.is_number else _symbolic_form(value)


def expression_string(value: sympy.Expr) -> str:
    """The class string of a canonical value."""
    if value.is_Rational:
        return terms.fraction_string(Fraction(int(value.p), int(value.q)))
    try:
        return terms.terms_string(terms_of(value))
    except terms.TooComplex:
        return str(sympy.sstr(value)).replace(" ", "")


def terms_of(value: sympy.Expr) -> terms.Terms:
    """``value`` as a short sum; raises terms.TooComplex where it is none."""
    total: terms.Terms = {}
    for summand in sympy.Add.make_args(sympy.expand(value)):
        product = terms.rational(Fraction(1))
        for factor in sympy.Mul.make_args(summand):
            product = terms.multiply(product, _factor(factor))
        total = terms.add(total, product)
    return total


def _factor(factor: sympy.Expr) -> terms.Terms:
    if isinstance(factor, sympy.Rational):
        return terms.checked(terms.rational(Fraction(int(factor.p), int(factor.q))))
    if factor is sympy.I:
        return terms.imaginary()
    base, exponent = factor.as_base_exp()
    if exponent == sympy.Rational(1, 2) and base.is_Integer and base > 0:
        return terms.root(Fraction(int(base)))
    if exponent.is_Integer and exponent > 0:
        if base is sympy.pi:
            return terms.power(terms.name("pi"), int(exponent))
        if isinstance(base, sympy.Symbol):
            return terms.power(terms.name(base.name), int(exponent))
    raise terms.TooComplex


def _number_form(value: sympy.Expr) -> sympy.Expr:
    if value.has(TrigonometricFunction) and value.has(InverseTrigonometricFunction):
        value = _of_arcs(value)
    if value.has(sympy.log):
        value = sympy.expand_log(value)
    value = sympy.expand(value)
    if value.has(sympy.I):
        value = sympy.expand(value, complex=True)
    if value.is_Rational:
        return value
    if any(isinstance(power.exp, sympy.Rational) for power in value.atoms(sympy.Pow)):
        value = sympy.expand(sympy.radsimp(sympy.sqrtdenest(value)))
    return value


def _of_arcs(value: sympy.Expr) -> sympy.Expr:
    """Functions of sums of arcs by the addition rules: ``tan(2 arctan(1/5) - pi/4)`` is rational."""
    multiples = [
        term.as_coeff_Mul()[0]
        for function in value.atoms(TrigonometricFunction)
        for term in sympy.Add.make_args(function.args[0])
    ]
    if max(map(abs, multiples)) > MAX_ARC_MULTIPLE:
        return value
    return sympy.expand_trig(sympy.expand_trig(value))  # sums first, then the multiples in them


def _symbolic_form(value: sympy.Expr) -> sympy.Expr:
    for function, ratio in _RATIOS:
        value = value.replace(function, ratio)
    if value.has(sympy.factorial, sympy.binomial):
        value = sympy.gammasimp(value.rewrite(sympy.gamma))
    try:
        return sympy.cancel(sympy.together(sympy.expand(value)))
    except (sympy.PolynomialError, NotImplementedError):
        return sympy.expand(value)
