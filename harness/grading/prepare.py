"""sympy made ready before any answer is read: what it imports or builds late is there, and its way back to text is cut.

sympy writes and executes code in two places that an answer can reach. Polynomials in n generators build their
monomial functions with ``exec``, from n alone: they are built here for every n within the limit, and never again. And
``nsimplify``, which ``radsimp`` calls, guesses a closed form with ``mpmath.identify`` and sympifies that string:
it gives back its argument here, and ``radsimp`` goes its ordinary way. After ``prepare`` nothing has to be compiled
any more, so ``isolation`` can refuse all of it and a test can make every evaluator raise.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, NoReturn

import sympy
from sympy.polys.monomials import MonomialOps

from harness.grading.limits import MAX_GENERATORS, LimitExceeded

_IMPORTED_LATE = (
    "sympy.assumptions.ask_generated sympy.assumptions.refine sympy.assumptions.wrapper sympy.calculus.util "
    "sympy.physics.units sympy.sets.handlers.intersection sympy.sets.handlers.union sympy.sets.setexpr "
    "sympy.solvers.inequalities sympy.solvers.solveset"
)
"""By simplify, expand and the sets, on the first expression of some kind; physics.units sympifies strings."""


@functools.cache
def prepare() -> None:
    """Do all of it, once in a process; free from then on."""
    sys.set_int_max_str_digits(0)  # the limits bound the digits; Python's own bound would look like a parse error
    for name in _IMPORTED_LATE.split():
        importlib.import_module(name)
    for generators in range(1, MAX_GENERATORS + 1):
        monomials = MonomialOps(generators)
        for build in ("mul", "pow", "mulpow", "ldiv", "div", "lcm", "gcd"):
            getattr(monomials, build)()
    MonomialOps._build = _beyond_the_limit
    # by name: ``sympy.simplify.simplify`` as an attribute is the function that hides this module
    importlib.import_module("sympy.simplify.simplify").__dict__["nsimplify"] = _as_it_is


def _beyond_the_limit(monomials: MonomialOps, *_: str) -> NoReturn:
    raise LimitExceeded(f"a polynomial in {monomials.ngens} generators; at most {MAX_GENERATORS} are read")


def _as_it_is(expression: Any, *_: Any, **__: Any) -> Any:
    return sympy.sympify(expression, strict=True)  # strict: a string is refused, never parsed
