"""Sets of numbers: intervals, finite sets, what inequalities bound, and unions, intersections and differences."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from harness.grading.limits import Unparsable
from harness.grading.relations import Relation, interval_of_relation
from harness.grading.render import set_string
from harness.grading.scalars import expression_string, scalar
from harness.grading.structure import Node


def as_set(node: Node) -> sympy.Set:
    """The set a node describes; raises Unparsable where it is not one of real intervals and listed numbers."""
    if node.kind == "sets":
        result = as_set(node.children[0])
        for operator, child in zip(node.marks, node.children[1:], strict=True):
            other = as_set(child)
            if operator == "\\cup":
                result = sympy.Union(result, other)
            elif operator == "\\cap":
                result = sympy.Intersection(result, other)
            else:
                result = sympy.Complement(result, other)
        return result
    if node.kind == "interval" and all(child.kind == "leaf" for child in node.children):
        low, high = (scalar(child.text) for child in node.children)
        if not (low.is_extended_real and high.is_extended_real):
            raise Unparsable("an interval between what is not real")
        return sympy.Interval(low, high, node.marks[0] == "(", node.marks[1] == ")")
    if node.kind == "set" and all(child.kind == "leaf" for child in node.children):
        return sympy.FiniteSet(*(scalar(child.text) for child in node.children))
    if node.kind == "relation" and all(child.kind == "leaf" for child in node.children):
        return interval_of_relation(Relation(tuple(scalar(child.text) for child in node.children), node.marks))
    if node.kind == "reals":
        return sympy.Reals
    raise Unparsable("a union of what is no interval or set")


def bounds(relations: Sequence[Relation]) -> sympy.Set:
    """The set that inequalities in one unknown describe together: where no number meets them all, those that
    meet one (``x < -1, x > 1`` can only mean "or")."""
    unknowns = {symbol for relation in relations for side in relation.sides for symbol in side.free_symbols}
    if len(unknowns) != 1:
        raise Unparsable("more than one unknown")
    sets = [interval_of_relation(relation) for relation in relations]
    both = sympy.Intersection(*sets)
    return sympy.Union(*sets) if both is sympy.S.EmptySet and len(sets) > 1 else both


def set_class(value: sympy.Set) -> str:
    """The class string of a set of real numbers."""
    if isinstance(value, sympy.Union):
        return "U".join(sorted(set_class(piece) for piece in value.args))
    if value is sympy.S.Reals:
        return "(-oo,oo)"
    if isinstance(value, sympy.FiniteSet):
        return set_string([expression_string(item) for item in value.args])
    if isinstance(value, sympy.Interval):
        left, right = ("(" if value.left_open else "["), (")" if value.right_open else "]")
        return f"{left}{expression_string(value.start)},{expression_string(value.end)}{right}"
    if value is sympy.S.EmptySet:
        return "{}"
    raise Unparsable(f"a set of kind {type(value).__name__}")
