"""Which equations only say what an answer is: ``x = 5`` is 5, ``f(x) = 2x`` is 2x, ``\\binom{5}{2} = 10`` is 10.

Both paths read assignments here, before they print a class; each brings its own way to tell a number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from harness.grading.limits import Unparsable
from harness.grading.names import is_name, is_quotient, is_unknown
from harness.grading.policy import Policy
from harness.grading.structure import Node, is_inequality


def resolved(node: Node, policy: Policy, is_number: Callable[[str], bool]) -> Node:
    """``node`` with each assignment in it replaced by the side that states the value.

    ``is_number`` tells whether an expression is a number; it may raise Unparsable.
    """
    if node.kind in ("set", "list", "tuple", "interval"):
        children = tuple(resolved(child, policy, is_number) for child in node.children)
        return dataclasses.replace(node, children=children)
    if node.kind != "relation" or is_inequality(node):
        return node
    sides = list(node.children)
    if "\\approx" in node.marks:  # x = 1/3 \approx 0.33: the exact value stands before the sign
        at = node.marks.index("\\approx")
        sides = sides[: at + 1] if at or not names(sides[0]) else [sides[0], sides[-1]]
    if len(sides) == 1:
        return sides[0]
    first, last = sides[0], sides[-1]
    if policy.drop_assignment:
        if names(last) and not names(first):
            first, last = last, first
        if len(sides) > 2:
            return next((side for side in reversed(sides) if not names(side)), last)
        if _is_assignment(first, last, is_number):
            return last
    return Node("relation", node.text, (first, last), ("=",))


def names(node: Node) -> bool:
    """Whether the side of a relation can only be the name of something."""
    return node.kind in ("leaf", "ratio") and is_name(node.text)


def _is_assignment(first: Node, last: Node, is_number: Callable[[str], bool]) -> bool:
    """Whether an equation only says what its last side is: a value, a structure, or f(x) of anything."""
    if last.kind != "leaf":
        return names(first)
    if names(first) and not is_unknown(first.text):
        return True  # f(x) = ..., |AB| = ...
    if not is_number(last.text):
        return False
    if names(first) or first.kind != "leaf" or is_quotient(first.text):
        return True
    try:
        return is_number(first.text)  # \binom{5}{2} = 10
    except Unparsable:
        return True  # \lim ... = 1: the value is what was asked for
