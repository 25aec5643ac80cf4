"""The brackets of an answer: tuples, intervals, sets, lists, unions, matrices, relations, and the expressions in them.

Structure is read here and never by the LaTeX parser, which takes ``(1,2)`` for an open interval. Brackets
stay in the class, so ``[2,3)`` and ``(2,3)`` differ; ``(1,2)`` is an ordered pair; a list without brackets has no
order and equals the set of its items; ``a \\pm b`` is the two of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Literal

from harness.grading.brackets import OPEN, spans, split, split_any
from harness.grading.limits import Unparsable
from harness.grading.names import is_name
from harness.grading.policy import Policy
from harness.grading.spelling import is_one_group

Kind = Literal[
    "leaf", "tuple", "interval", "list", "set", "sets", "bounds", "matrix", "product", "ratio", "relation", "reals"
]
MAX_PLUS_MINUS = 4
"""Signs in one item; more would mean 2^n answers, and nobody means that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """``text`` is a leaf's expression; ``marks`` are brackets, or the operators of a relation or of ``sets``.

    ``sets`` is a chain of unions, intersections and differences, from left to right; ``bounds`` a list of
    inequalities; ``product`` an optional scalar and matrices; a set marked ``bare`` had no braces; ``solution`` marks
    the tuple that ``x = 1, y = 2`` is.
    """

    kind: Kind
    text: str = ""
    children: tuple[Node, ...] = ()
    marks: tuple[str, ...] = ()
    solution: bool = False


_SET_OPERATORS = ("\\cup", "\\cap", "\\setminus")
_OPERATORS = ("\\approx", "\\neq", "\\le", "\\ge", "=", "<", ">")
_INEQUALITIES = frozenset(("\\neq", "\\le", "\\ge", "<", ">"))
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|array)\}(?:\{[clr|]*\})?(.*?)\\end\{\1\}", re.DOTALL)
_EMPTY = ("\\emptyset", "\\varnothing", "\\{\\}")
_REALS = ("\\mathbb{R}", "\\mathbbR", "\\R")


def is_inequality(node: Node) -> bool:
    """Whether a relation orders or parts its sides anywhere."""
    return not _INEQUALITIES.isdisjoint(node.marks)


def parse(text: str, policy: Policy) -> Node:
    """The tree of a normalised answer; raises Unparsable where brackets or items make no sense."""
    if not text:
        raise Unparsable("nothing left to read")
    pieces = split_any(text, ",;")[0::2]
    if len(pieces) == 1:
        return _item(text, policy)
    if policy.drop_assignment:
        solved = _solutions(pieces, policy)
        if solved is not None:
            return solved
    items = split(text, ",")
    if len(items) == 1:
        items = pieces
    if policy.drop_assignment:
        name, _, first = items[0].partition("=")
        if is_name(name) and first and not any(op in item for item in items[1:] for op in _OPERATORS):
            items[0] = first  # a = 4, -8, -10
    children = [child for item in items for child in _expanded(item, policy)]
    if all(child.kind == "relation" and is_inequality(child) for child in children):
        return Node("bounds", children=tuple(children))
    if not policy.unordered_lists:
        return Node("list", children=tuple(children))
    return Node("set", children=tuple(children), marks=("bare",))


def _solutions(items: list[str], policy: Policy) -> Node | None:
    """``x = 1, y = 2`` as the tuple by name, ``x = 1, x = 2`` as a set, and x, y, x, y as a set of tuples."""
    pairs = [item.split("=") for item in items]
    if not all(len(pair) == 2 and is_name(pair[0]) and pair[1] for pair in pairs):
        return None
    names = [pair[0] for pair in pairs]
    values = [_expanded(pair[1], policy) for pair in pairs]
    width = len(set(names))
    if width == 1 or any(len(value) != 1 for value in values):
        return _set([child for value in values for child in value])
    if len(names) % width or any(names[i] != names[i % width] for i in range(len(names))):
        raise Unparsable("unknowns that do not repeat in turn")
    order = sorted(range(width), key=lambda i: names[i])
    tuples = [_tuple([values[at + i][0] for i in order]) for at in range(0, len(names), width)]
    return dataclasses.replace(tuples[0], solution=True) if len(tuples) == 1 else _set(tuples)


def _expanded(item: str, policy: Policy) -> list[Node]:
    """The item, or the two of it where it holds a plus-minus."""
    if "\\pm" not in item:
        return [_item(item, policy)]
    if item.count("\\pm") + item.count("\\mp") > MAX_PLUS_MINUS:
        raise Unparsable("too many plus-minus signs")
    name, eq, value = item.rpartition("=")
    body = value if eq and is_name(name) and policy.drop_assignment else item
    plus = re.sub(r"\\pm ?", "+", re.sub(r"\\mp ?", "-", body))
    minus = re.sub(r"\\pm ?", "-", re.sub(r"\\mp ?", "+", body))
    return [_item(plus.removeprefix("+"), policy), _item(minus, policy)]


def _set(children: list[Node]) -> Node:
    return Node("set", children=tuple(children))


def _tuple(children: list[Node], brackets: tuple[str, str] = ("(", ")")) -> Node:
    return Node("interval" if len(children) == 2 else "tuple", children=tuple(children), marks=brackets)


def _item(text: str, policy: Policy) -> Node:
    while is_one_group(text) and "," not in text:
        text = text[1:-1].strip()  # braces around a value only group
    if not text:
        raise Unparsable("an item is missing")
    relation = _relation(text, policy)
    if relation is not None:
        return relation
    if policy.drop_assignment and "\\in" in text:
        parts = split(text, "\\in")
        if len(parts) == 2 and is_name(parts[0]):
            text = parts[1].strip()
    if not text:
        raise Unparsable("a set is missing")
    if any(operator in text for operator in _SET_OPERATORS):
        parts = split_any(text, _SET_OPERATORS)
        if len(parts) > 1:
            children = tuple(_operand(part.strip(), policy) for part in parts[0::2])
            return Node("sets", children=children, marks=tuple(parts[1::2]))
    if "\\pm" in text and text[0] not in OPEN and not text.startswith("\\{"):
        return _set(_expanded(text, policy))
    bracketed = _bracketed(text, policy)
    if bracketed is not None:
        return bracketed
    if ":" in text:
        ratio = split(text, ":")
        if len(ratio) > 1:
            return Node("ratio", children=tuple(_item(part, policy) for part in ratio))
    return Node("leaf", text)


def _operand(text: str, policy: Policy) -> Node:
    """A side of a union; braces without a backslash can only mean a set there."""
    if text.startswith("{") and spans(text):
        return _braces(text[1:-1], policy)
    return _item(text, policy)


def _relation(text: str, policy: Policy) -> Node | None:
    if not any(operator in text for operator in _OPERATORS):
        return None
    pieces = split_any(text, _OPERATORS)
    if len(pieces) == 1:
        return None
    sides = [side.strip() for side in pieces[0::2]]
    if not all(sides):
        raise Unparsable("a side of a relation is missing")
    children = tuple(_side(side, policy) for side in sides)
    return Node("relation", text, children, tuple(pieces[1::2]))


def _side(text: str, policy: Policy) -> Node:
    return Node("leaf", text) if is_name(text) else _item(text, policy)


def _bracketed(text: str, policy: Policy) -> Node | None:
    if text in _EMPTY:
        return _set([])
    if text in _REALS:
        return Node("reals")
    matrices = _matrices(text, policy) if "\\begin" in text else None
    if matrices is not None:
        return matrices
    if text.startswith("\\{") and text.endswith("\\}"):
        return _braces(text[2:-2], policy)
    if text[0] not in "([" or text[-1] not in ")]" or not spans(text):
        return None
    items = split(text[1:-1], ",")
    if len(items) == 1:
        items = split(text[1:-1], ";")
    if len(items) == 1:
        return _item(items[0], policy) if text[0] + text[-1] in ("()", "[]") else None
    if len(items) > 2 and text[0] + text[-1] not in ("()", "[]"):
        raise Unparsable("mixed brackets around more than two items")
    return _tuple([_item(item, policy) for item in items], (text[0], text[-1]))


def _matrices(text: str, policy: Policy) -> Node | None:
    """One matrix, or the product of a scalar and matrices."""
    found = list(_MATRIX.finditer(text))
    if not found or found[-1].end() != len(text):
        return None
    gaps = [text[one.end() : two.start()].strip() for one, two in itertools.pairwise(found)]
    if any(gap not in ("", "\\cdot", "\\times") for gap in gaps):
        return None
    matrices = [_matrix(match[1], match[2], policy) for match in found]
    scalar = text[: found[0].start()].strip().removesuffix("\\cdot").strip()
    if not scalar and len(matrices) == 1 and not matrices[0].marks:
        return matrices[0]
    prefix = [_item("-1" if scalar == "-" else scalar, policy)] if scalar else []
    return Node("product", children=(*prefix, *matrices))


def _matrix(environment: str, body: str, policy: Policy) -> Node:
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", body.replace("\\hline", "")) if row.strip()]
    cells = tuple(Node("list", children=tuple(_item(cell.strip(), policy) for cell in split(row, "&"))) for row in rows)
    return Node("matrix", children=cells, marks=("determinant",) if environment == "vmatrix" else ())


def _braces(inner: str, policy: Policy) -> Node:
    for bar in ("\\mid", "|", ":"):
        parts = split(inner, bar) if bar in inner else []
        if len(parts) == 2 and policy.drop_assignment and is_name(re.split(r"\\in(?![a-z])", parts[0])[0]):
            return _item(parts[1].strip(), policy)
    items = split(inner, ",")
    return _set([child for item in items for child in _expanded(item, policy)])
