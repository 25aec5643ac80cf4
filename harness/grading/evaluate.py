"""An unevaluated tree to an exact value, node by node, each checked against its limit before it is computed.

Only node types named here are ever evaluated: integrals and limits are not, and an answer that holds one is compared
as text (sums: ``sums.py``, matrices: ``matrices.py``). ``i`` is the imaginary unit and ``e`` Euler's number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from harness.grading.limits import (
    MAX_DEGREE,
    MAX_FACTORIAL_ARGUMENT,
    MAX_RESULT_DIGITS,
    MAX_SYMBOLIC_EXPONENT,
    MAX_TERMS,
    LimitExceeded,
    Unparsable,
)

_CONSTANTS = {"i": sympy.I, "I": sympy.I, "e": sympy.E}
_FUNCTIONS: tuple[type, ...] = (
    *(sympy.sin, sympy.cos, sympy.tan, sympy.cot, sympy.sec, sympy.csc, sympy.asin, sympy.acos, sympy.atan),
    *(sympy.sinh, sympy.cosh, sympy.tanh, sympy.exp, sympy.Abs, sympy.floor, sympy.ceiling, sympy.log),
)
FUNCTION_NAMES = frozenset("fghFGHPQWT")
"""Letters that name a function in ``f(x)``; before any other letter brackets multiply, as in ``a(b+c)``."""


def evaluate(tree: sympy.Basic, names: Mapping[str, str]) -> sympy.Expr:
    """The exact value of ``tree``, whose letters in ``names`` stand for longer names.

    Raises LimitExceeded, or Unparsable where it is undefined or not a scalar.
    """
    if isinstance(tree, sympy.Symbol):
        return _symbol(tree.name, names)
    if isinstance(tree, sympy.Pow | sympy.factorial) and _multiplies(tree.args[0]):
        # x(b)^2 is x times b^2, where the grammar sees the power of a function
        factor, exponent = tree.args[0], tree.args[1:]
        power = _build(tree, [evaluate(arg, names) for arg in (factor.args[0], *exponent)], names)
        return _symbol(str(factor.func), names) * power
    if isinstance(tree, sympy.Float) or not isinstance(tree, sympy.Expr):
        raise Unparsable(f"{type(tree).__name__} is not an exact scalar")
    value = _build(tree, [evaluate(arg, names) for arg in tree.args], names) if tree.args else tree
    if value.has(sympy.zoo, sympy.nan):
        raise Unparsable("undefined")
    return value


def _symbol(letter: str, names: Mapping[str, str]) -> sympy.Expr:
    return sympy.Symbol(names[letter]) if letter in names else _CONSTANTS.get(letter, sympy.Symbol(letter))


def _build(tree: Any, args: list[sympy.Expr], names: Mapping[str, str]) -> sympy.Expr:
    function = tree.func
    if isinstance(tree, sympy.Pow):
        return _power(*args)
    if isinstance(tree, sympy.Add | sympy.Mul):
        if sum(_digits(arg) for arg in args) > 2 * MAX_RESULT_DIGITS:
            raise LimitExceeded("a product of more digits than are computed")
        value = function(*args)
        if _terms(value) > MAX_TERMS:
            raise LimitExceeded(f"a product of more than {MAX_TERMS} terms")
        return value
    special = _SPECIAL.get(type(tree))
    if special is not None:
        return special(*args)
    if _multiplies(tree):
        return _symbol(str(function), names) * args[0]
    if isinstance(tree, AppliedUndef):
        return sympy.Function(str(function))(*args)
    if isinstance(tree, _FUNCTIONS):
        return function(*args)
    raise Unparsable(f"{type(tree).__name__} is not evaluated")


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    if exponent.is_Rational and abs(exponent) > 1:
        if base.is_number:
            digits = max(_digits(part) for part in (base, *base.atoms(sympy.Rational)))
            if base not in (0, 1, -1) and digits * abs(exponent) > MAX_RESULT_DIGITS:
                raise LimitExceeded(f"a power of about {float(min(digits * abs(exponent), 10**9)):.0f} digits")
        elif abs(exponent) > MAX_DEGREE:
            raise LimitExceeded(f"an unknown to the power {exponent}; at most {MAX_DEGREE}")
        if not base.is_Atom and abs(exponent) > MAX_SYMBOLIC_EXPONENT and base.has(sympy.Add):
            raise LimitExceeded(f"a sum to the power {exponent}; at most {MAX_SYMBOLIC_EXPONENT}")
        if exponent.is_Integer and _terms_of_power(_terms(base), abs(int(exponent))) > MAX_TERMS:
            raise LimitExceeded(f"a power of more than {MAX_TERMS} terms")
    elif exponent.is_number and not exponent.is_Rational and _digits(exponent) > 30:
        raise LimitExceeded("an exponent of more than 30 digits")
    if base.is_Rational and base < 0 and exponent.is_Rational and exponent.q > 1 and exponent.q % 2:
        return (-1) ** exponent.p * sympy.Pow(-base, exponent)  # the real root, as school mathematics has it
    return sympy.Pow(base, exponent)


def _terms(value: sympy.Expr) -> int:
    """At most how many terms ``value`` has once it is expanded."""
    if isinstance(value, sympy.Add):
        return sum(map(_terms, value.args))
    if isinstance(value, sympy.Mul):
        return math.prod(map(_terms, value.args))
    if isinstance(value, sympy.Pow) and value.exp.is_Integer:
        return _terms_of_power(_terms(value.base), abs(int(value.exp)))
    return 1


def _terms_of_power(terms: int, exponent: int) -> int:
    """Ways to choose ``exponent`` of ``terms`` with repetition; one term stays one."""
    return 1 if terms <= 1 else math.comb(min(terms, 2 * MAX_TERMS) + exponent - 1, exponent)


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


def _multiplies(tree: sympy.Basic) -> bool:
    """Whether what the grammar takes for a function of one argument is a letter times a bracket."""
    if not isinstance(tree, AppliedUndef) or len(tree.args) != 1:
        return False
    name = str(tree.func)
    return len(name) == 1 and name not in FUNCTION_NAMES


_SPECIAL: dict[type, Callable[..., sympy.Expr]] = {
    sympy.factorial: _factorial,
    sympy.binomial: _binomial,
    sympy.UnevaluatedExpr: lambda inner: inner,
}
