"""Equations and inequalities between exact expressions, in forms that do not depend on how they were arranged.

An equation is the primitive numerator of the difference of its sides, sign fixed, so ``x = y+2`` and
``x-y-2 = 0`` are one class. Inequalities that bound one unknown linearly, or its distance from a number, become the
set it lies in.
"""

from __future__ import annotations

import dataclasses

import sympy

from harness.grading import terms
from harness.grading.limits import Unparsable
from harness.grading.scalars import terms_of

_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\neq": "\\neq"}


@dataclasses.dataclass(frozen=True, slots=True)
class Relation:
    """``sides[0] marks[0] sides[1] marks[1] ...``"""

    sides: tuple[sympy.Expr, ...]
    marks: tuple[str, ...]

    def equation_string(self) -> str:
        """The class of an equation of two sides."""
        numerator, _ = sympy.fraction(sympy.cancel(sympy.together(self.sides[0] - self.sides[-1])))
        try:
            return terms.equation_string(terms.polynomial(terms_of(numerator)))
        except terms.TooComplex:
            return "eq:" + _text(_signed(_primitive(numerator)))

    def right_sides(self) -> list[sympy.Expr]:
        """What the equation says each unknown is, for those that occur once and linearly."""
        difference = sympy.expand(self.sides[0] - self.sides[-1])
        found = []
        for unknown in sorted(difference.free_symbols, key=str):
            slope = sympy.diff(difference, unknown)
            if slope.is_number and slope != 0 and len(difference.free_symbols) > 1:
                found.append(sympy.cancel(sympy.expand(unknown - difference / slope)))
        return found

    def inequality_string(self) -> str:
        """The class of an inequality that no interval describes."""
        if len(self.marks) != 1:
            raise Unparsable("a chain of inequalities in more than one unknown")
        difference = _primitive(sympy.expand(self.sides[0] - self.sides[1]))
        signed = _signed(difference)
        mark = self.marks[0] if signed == difference else _FLIPPED[self.marks[0]]
        return f"ineq:{_text(signed)}{mark}0"


def interval_of_relation(relation: Relation) -> sympy.Set:
    """The set of reals the one unknown lies in; raises Unparsable where that is not plain."""
    result: sympy.Set = sympy.Reals
    for left, mark, right in zip(relation.sides, relation.marks, relation.sides[1:], strict=False):
        result = sympy.Intersection(result, _half_line(left, mark, right))
    if len({symbol for side in relation.sides for symbol in side.free_symbols}) != 1:
        raise Unparsable("more than one unknown")
    return result


def _half_line(left: sympy.Expr, mark: str, right: sympy.Expr) -> sympy.Set:
    difference = sympy.expand(left - right)
    unknowns = difference.free_symbols
    if len(unknowns) != 1 or mark not in _FLIPPED:
        raise Unparsable("no bound on one unknown")
    absolutes = difference.atoms(sympy.Abs)
    if absolutes and mark != "\\neq":
        return _around_zero(difference, mark, max(absolutes, key=sympy.count_ops))
    unknown = next(iter(unknowns))
    polynomial = sympy.Poly(difference, unknown) if difference.is_polynomial(unknown) else None
    if polynomial is None or polynomial.degree() != 1:
        raise Unparsable("no linear bound")
    slope, constant = polynomial.all_coeffs()
    bound = sympy.radsimp(-constant / slope)
    if not bound.is_real or not slope.is_real:
        raise Unparsable("a bound that is not real")
    if mark == "\\neq":
        return sympy.Union(sympy.Interval.open(-sympy.oo, bound), sympy.Interval.open(bound, sympy.oo))
    below = (mark in ("<", "\\le")) == bool(slope > 0)
    strict = mark in ("<", ">")
    if below:
        return sympy.Interval(-sympy.oo, bound, True, strict)
    return sympy.Interval(bound, sympy.oo, strict, True)


def _around_zero(difference: sympy.Expr, mark: str, absolute: sympy.Abs) -> sympy.Set:
    """Where ``difference`` meets ``mark`` 0: what bounds |u| bounds u on both sides (``|x-1| < 3`` is (-2, 4))."""
    size = sympy.Dummy()
    bound = _half_line(difference.subs(absolute, size), mark, sympy.Integer(0))
    if bound.start is -sympy.oo:
        mark, end, join = "<" if bound.right_open else "\\le", bound.end, sympy.Intersection
    else:
        mark, end, join = ">" if bound.left_open else "\\ge", bound.start, sympy.Union
    return join(*(_half_line(side, mark, end) for side in (absolute.args[0], -absolute.args[0])))


def _primitive(expression: sympy.Expr) -> sympy.Expr:
    expanded = sympy.expand(expression)
    _, primitive = expanded.as_content_primitive()
    return sympy.expand(primitive)


def _signed(expression: sympy.Expr) -> sympy.Expr:
    """``expression`` or its negative: of the two the one whose leading term is positive, so both give one."""
    negative = sympy.expand(-expression)
    one, other = _text(expression), _text(negative)
    return expression if (one.startswith("-"), one) < (other.startswith("-"), other) else negative


def _text(expression: sympy.Expr) -> str:
    return str(sympy.sstr(expression)).replace(" ", "")
