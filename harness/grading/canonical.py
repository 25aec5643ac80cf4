"""The canonical form of an answer alone, by sympy: its class string, and its values for a closer comparison.

The class never sees the gold, so equality of classes is transitive and votes cannot leak the reference.
Numbers are exact; a polynomial or rational function is cancelled; an equation is its primitive difference
of sides; inequalities that bound one variable are intervals, whatever the variable is called.
"""

from __future__ import annotations

import dataclasses

import sympy

from harness.grading.assignment import resolved
from harness.grading.fast import based_class
from harness.grading.limits import LimitExceeded, Unparsable
from harness.grading.matrices import product
from harness.grading.names import is_opaque
from harness.grading.normalise import Normal, text_class
from harness.grading.policy import Policy
from harness.grading.relations import Relation
from harness.grading.render import alternative, matrix_string, render, set_string, whole
from harness.grading.scalars import expression_string, scalar
from harness.grading.sets import as_set, bounds, set_class
from harness.grading.structure import Node, is_inequality, parse


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """``class_id`` is the whole answer; ``values`` are its scalars in reading order, ``texts`` what they were
    written as, ``shape`` what surrounds them (empty where the values alone do not say what the answer is:
    relations, unions and products of matrices).

    ``also`` holds the classes this answer may stand for as well: the right side for each unknown that stands
    alone in an equation, and the bare values of ``x = 1, y = 2``. It is a function of the class, so that
    ``y = 2x+3`` and ``2x-y+3 = 0``, one class, are judged alike.
    """

    class_id: str
    shape: str = ""
    values: tuple[sympy.Expr, ...] = ()
    texts: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


def canonical(normal: Normal, policy: Policy) -> Form:
    """The form of an answer; raises Unparsable (compare it as text) or LimitExceeded (leave it unscored)."""
    if normal.is_word:
        return Form(text_class(normal))
    based = based_class(normal.text)
    if based is not None:
        return Form(based)
    try:
        return _Reading(policy).form(parse(normal.text, policy))
    except RecursionError as error:
        raise LimitExceeded("nests too deeply to compute") from error


class _Reading:
    """One pass over the tree of one answer."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._values: list[sympy.Expr] = []
        self._texts: list[str] = []
        self._also: list[str] = []

    def form(self, top: Node) -> Form:
        top = resolved(top, self._policy, lambda text: bool(scalar(text).is_number))
        top = alternative(top, self._leaf)
        self._values.clear()
        self._texts.clear()
        class_id = whole(render(top, self._leaf))
        if top.kind == "relation":
            self._solve(top)
        if _kinds(top) & {"relation", "bounds", "sets", "product"}:
            return Form(class_id, also=tuple(self._also))
        if top.solution:
            values = iter(map(expression_string, tuple(self._values)))
            self._also.append(set_string([render(child, lambda node: next(values)) for child in top.children]))
        shape = render(top, lambda node: "?")
        return Form(class_id, shape, tuple(self._values), tuple(self._texts), tuple(self._also))

    def _leaf(self, node: Node) -> str:
        if node.kind == "leaf":
            value = scalar(node.text)
            self._values.append(value)
            self._texts.append(node.text)
            return expression_string(value)
        if node.kind == "sets":
            return set_class(as_set(node))
        if node.kind == "bounds":
            return set_class(bounds([_read_relation(child) for child in node.children]))
        if node.kind == "relation":
            return _relation(node)
        if node.kind in ("product", "matrix"):
            value = product(node)
            if isinstance(value, sympy.MatrixBase):
                return matrix_string([[expression_string(cell) for cell in row] for row in value.tolist()])
            return expression_string(value)
        raise AssertionError(node.kind)

    def _solve(self, node: Node) -> None:
        if not is_inequality(node):
            self._also += map(expression_string, _read_relation(node).right_sides())


def _relation(node: Node) -> str:
    relation = _read_relation(node)
    if not is_inequality(node):
        return relation.equation_string()
    try:
        return set_class(bounds([relation]))
    except Unparsable:
        return relation.inequality_string()


def _read_relation(node: Node) -> Relation:
    sides: list[sympy.Expr] = []
    for side in node.children:
        if side.kind != "leaf":
            raise Unparsable("a relation between what is no number")
        sides.append(sympy.Symbol(side.text) if is_opaque(side.text) else scalar(side.text))
    return Relation(tuple(sides), node.marks)


def _kinds(node: Node) -> set[str]:
    own = "product" if node.kind == "matrix" and node.marks else node.kind
    return {own}.union(*map(_kinds, node.children)) if node.children else {own}
