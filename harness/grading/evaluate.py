"""An unevaluated tree to an exact value, node by node, each checked against its limit before it is computed.

Only node types named here are ever evaluated: sums over ranges, integrals, limits and matrices are not, and
an answer that holds one is compared as text. ``i`` is the imaginary unit and ``e`` Euler's number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from harness.grading.limits import (
    MAX_FACTORIAL_ARGUMENT,
    MAX_RESULT_DIGITS,
    MAX_SYMBOLIC_EXPONENT,
    LimitExceeded,
    Unparsable,
)

_CONSTANTS = {"i": sympy.I, "E": sympy.E, "e": sympy.E}
_FUNCTIONS: tuple[type, ...] = (
    *(sympy.sin, sympy.cos, sympy.tan, sympy.cot, sympy.sec, sympy.csc, sympy.asin, sympy.acos, sympy.atan),
    *(sympy.sinh, sympy.cosh, sympy.tanh, sympy.exp, sympy.Abs, sympy.floor, sympy.ceiling, sympy.log),
)
_FUNCTION_NAMES = frozenset("fghFGHPQWT")
"""Letters that name a function in ``f(x)``; before any other letter brackets multiply, as in ``a(b+c)``."""


def evaluate(tree: sympy.Basic) -> sympy.Expr:
    """The exact value of ``tree``; raises LimitExceeded, or Unparsable where it is undefined or not a scalar."""
    if isinstance(tree, sympy.Symbol):
        return _CONSTANTS.get(tree.name, tree)
    if isinstance(tree, sympy.Float) or not isinstance(tree, sympy.Expr):
        raise Unparsable(f"{type(tree).__name__} is not an exact scalar")
    value = _build(tree, [evaluate(arg) for arg in tree.args]) if tree.args else tree
    if value.has(sympy.zoo, sympy.nan):
        raise Unparsable("undefined")
    return value


def _build(tree: Any, args: list[sympy.Expr]) -> sympy.Expr:
    function = tree.func
    if isinstance(tree, sympy.Pow):
        return _power(*args)
    if isinstance(tree, sympy.Add | sympy.Mul):
        if sum(_digits(arg) for arg in args) > 2 * MAX_RESULT_DIGITS:
            raise LimitExceeded("a product of more digits than are computed")
        return function(*args)
    special = _SPECIAL.get(type(tree))
    if special is not None:
        return special(*args)
    if isinstance(tree, AppliedUndef):
        return _applied(str(function), args)
    if isinstance(tree, _FUNCTIONS):
        return function(*args)
    raise Unparsable(f"{type(tree).__name__} is not evaluated")


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    if exponent.is_Rational and abs(exponent) > 1:
        if base.is_number:
            digits = max(_digits(part) for part in (base, *base.atoms(sympy.Rational)))
            if base not in (0, 1, -1) and digits * abs(exponent) > MAX_RESULT_DIGITS:
                raise LimitExceeded(f"a power of about {float(min(digits * abs(exponent), 10**9)):.0f} digits")
        if not base.is_Atom and abs(exponent) > MAX_SYMBOLIC_EXPONENT and base.has(sympy.Add):
            raise LimitExceeded(f"a sum to the power {exponent}; at most {MAX_SYMBOLIC_EXPONENT}")
    elif exponent.is_number and not exponent.is_Rational and _digits(exponent) > 30:
        raise LimitExceeded("an exponent of more than 30 digits")
    return sympy.Pow(base, exponent)


def _digits(value: sympy.Expr) -> float:
    """Decimal digits of the larger half of a rational (at least 0.1, so that 1.01^n still counts)."""
    if not isinstance(value, sympy.Rational):
        return 1.0
    return max(0.1, max(abs(value.p), value.q).bit_length() * math.log10(2))


def _factorial(n: sympy.Expr) -> sympy.Expr:
    if n.is_number:
        if not n.is_Integer or n < 0:
            raise Unparsable("the factorial of what is no natural number")
        if n > MAX_FACTORIAL_ARGUMENT:
            raise LimitExceeded(f"a factorial beyond {MAX_FACTORIAL_ARGUMENT}!")
    return sympy.factorial(n)


def _binomial(n: sympy.Expr, k: sympy.Expr) -> sympy.Expr:
    if any(arg.is_number and (not arg.is_Integer or abs(arg) > MAX_FACTORIAL_ARGUMENT) for arg in (n, k)):
        raise LimitExceeded(f"a binomial coefficient beyond {MAX_FACTORIAL_ARGUMENT}")
    return sympy.binomial(n, k)


def _applied(name: str, args: list[sympy.Expr]) -> sympy.Expr:
    if len(args) == 1 and len(name) == 1 and name not in _FUNCTION_NAMES:
        return _CONSTANTS.get(name, sympy.Symbol(name)) * args[0]
    return sympy.Function(name)(*args)


_SPECIAL: dict[type, Callable[..., sympy.Expr]] = {
    sympy.factorial: _factorial,
    sympy.binomial: _binomial,
    sympy.UnevaluatedExpr: lambda inner: inner,
}
