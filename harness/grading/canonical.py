"""The canonical form of an answer alone, by sympy: its class string, and its values for a closer comparison.

The class never sees the gold, so equality of classes is transitive and votes cannot leak the reference.
Numbers are exact; a polynomial or rational function is cancelled; an equation is its primitive difference
of sides; inequalities that bound one variable are intervals, whatever the variable is called.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import sympy

from harness.grading.evaluate import evaluate
from harness.grading.latex import parse_expression
from harness.grading.limits import LimitExceeded, Unparsable
from harness.grading.normalise import Normal, text_class
from harness.grading.policy import Policy
from harness.grading.relations import Relation, interval_of_relation, is_inequality
from harness.grading.render import render, set_string
from harness.grading.structure import Node, is_name, parse

_BASED = re.compile(r"(-?[0-9A-Z]+)_(?:\{(\d+)\}|(\d+))")

_RATIOS = (
    (sympy.tan, lambda x: sympy.sin(x) / sympy.cos(x)),
    (sympy.cot, lambda x: sympy.cos(x) / sympy.sin(x)),
    (sympy.sec, lambda x: 1 / sympy.cos(x)),
    (sympy.csc, lambda x: 1 / sympy.sin(x)),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """``class_id`` is the whole answer; ``values`` are its scalars in reading order, ``shape`` what surrounds them
    (empty where the values alone do not say what the answer is: relations and unions).

    ``right_sides`` holds the classes an equation gives for each unknown that stands alone in it: a
    function of the class, so that ``y = 2x+3`` and ``2x-y+3 = 0``, one class, are judged alike.
    """

    class_id: str
    shape: str = ""
    values: tuple[sympy.Expr, ...] = ()
    right_sides: tuple[str, ...] = ()


def canonical(normal: Normal, policy: Policy) -> Form:
    """The form of an answer; raises Unparsable (compare it as text) or LimitExceeded (leave it unscored)."""
    if normal.is_word:
        return Form(text_class(normal))
    based = _BASED.fullmatch(normal.text)
    if based and based[1][-1].isdigit():
        return Form(f"{based[1]}_{based[2] or based[3]}")
    values: list[sympy.Expr] = []
    right_sides: list[str] = []
    top = parse(normal.text, policy)

    def leaf(node: Node) -> str:
        if node.kind == "leaf":
            value = scalar(node.text)
            values.append(value)
            return expression_string(value)
        if node.kind == "union":
            return _set_string(sympy.Union(*map(_as_set, node.children)))
        if node.kind == "relation":
            text, sides = _relation(node, policy, leaf)
            if node is top:
                right_sides.extend(sides)
            return text
        raise AssertionError(node.kind)

    try:
        class_id = render(top, leaf)
        shape = "" if _kinds(top) & {"relation", "union"} else render(top, lambda node: "?")
    except RecursionError as error:
        raise LimitExceeded("nests too deeply to compute") from error
    return Form(class_id, shape, tuple(values), tuple(right_sides))


def scalar(text: str) -> sympy.Expr:
    """The canonical exact value of one expression; may be an infinity, never undefined."""
    value = evaluate(parse_expression(text))
    if value.has(sympy.oo, -sympy.oo):
        if value in (sympy.oo, -sympy.oo):
            return value
        raise Unparsable("an infinity inside an expression")
    if value.is_Rational:
        return value
    return _number_form(value) if value.is_number else _symbolic_form(value)


def expression_string(value: sympy.Expr) -> str:
    return sympy.sstr(value).replace(" ", "")


def _number_form(value: sympy.Expr) -> sympy.Expr:
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


def _symbolic_form(value: sympy.Expr) -> sympy.Expr:
    for function, ratio in _RATIOS:
        value = value.replace(function, ratio)
    if value.has(sympy.factorial, sympy.binomial):
        value = sympy.gammasimp(value.rewrite(sympy.gamma))
    try:
        return sympy.cancel(sympy.together(sympy.expand(value)))
    except (sympy.PolynomialError, NotImplementedError):
        return sympy.expand(value)


def _kinds(node: Node) -> set[str]:
    return {node.kind}.union(*map(_kinds, node.children)) if node.children else {node.kind}


def _as_set(node: Node) -> sympy.Set:
    if node.kind == "interval" and all(child.kind == "leaf" for child in node.children):
        low, high = (scalar(child.text) for child in node.children)
        if not (low.is_extended_real and high.is_extended_real):
            raise Unparsable("an interval between what is not real")
        return sympy.Interval(low, high, node.marks[0] == "(", node.marks[1] == ")")
    if node.kind == "set" and all(child.kind == "leaf" for child in node.children):
        return sympy.FiniteSet(*(scalar(child.text) for child in node.children))
    if node.kind == "relation":
        return interval_of_relation(_read_relation(node))
    if node.kind == "reals":
        return sympy.Reals
    raise Unparsable("a union of what is no interval or set")


def _set_string(value: sympy.Set) -> str:
    if isinstance(value, sympy.Union):
        return "U".join(sorted(_set_string(piece) for piece in value.args))
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


def _read_relation(node: Node) -> Relation:
    sides: list[sympy.Expr] = []
    for side in node.children:
        if side.kind != "leaf":
            raise Unparsable("a relation between what is no number")
        # a name such as f(x) or |AB| in an inequality is one unknown
        opaque = is_name(side.text) and not side.text.isalpha()
        sides.append(sympy.Symbol(side.text) if opaque else scalar(side.text))
    return Relation(tuple(sides), node.marks)


def _relation(node: Node, policy: Policy, leaf: Callable[[Node], str]) -> tuple[str, tuple[str, ...]]:
    """The class of a relation, and the classes of right sides it may stand for."""
    if is_inequality(node.marks):
        relation = _read_relation(node)
        try:
            return _set_string(interval_of_relation(relation)), ()
        except Unparsable:
            return relation.inequality_string(), ()
    sides = list(node.children)
    if "\\approx" in node.marks:  # x = 1/3 \approx 0.33: the exact value stands before the sign
        at = node.marks.index("\\approx")
        sides = sides[: at + 1] if at or not _names(sides[0]) else [sides[0], sides[-1]]
    if len(sides) == 1:
        return render(sides[0], leaf), ()
    first, last = sides[0], sides[-1]
    if policy.drop_assignment:
        if _names(last) and not _names(first):
            first, last = last, first
        if len(sides) > 2 or _is_assignment(first, last):
            return render(last, leaf), ()
    equation = _read_relation(Node("relation", "", (first, last), ("=",)))
    return equation.equation_string(), tuple(map(expression_string, equation.right_sides()))


def _is_assignment(first: Node, last: Node) -> bool:
    """Whether an equation only says what its last side is: a value, a structure, or f(x) of anything."""
    if last.kind != "leaf":
        return _names(first)
    if _names(first) and not re.fullmatch(r"\\?[a-zA-Z]+(?:_.*)?", first.text):
        return True  # f(x) = ..., |AB| = ...
    value = scalar(last.text)
    if not value.is_number:
        return False
    if _names(first) or first.kind != "leaf":
        return True
    try:
        return scalar(first.text).is_number  # \binom{5}{2} = 10
    except Unparsable:
        return True  # \lim ... = 1: the value is what was asked for


def _names(node: Node) -> bool:
    return node.kind == "leaf" and is_name(node.text)
