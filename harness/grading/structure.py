"""The brackets of an answer: tuples, intervals, sets, lists, unions, matrices, relations, and the expressions in them.

Structure is read here and never by the LaTeX parser, which takes ``(1,2)`` for an open interval. Brackets
stay in the class, so ``[2,3)`` and ``(2,3)`` differ; ``(1,2)`` is an ordered pair; a list without brackets has no
order and equals the set of its items; ``a \\pm b`` is the two of them.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from harness.grading.limits import Unparsable
from harness.grading.policy import Policy

Kind = Literal["leaf", "tuple", "interval", "set", "union", "matrix", "ratio", "relation", "reals"]
MAX_PLUS_MINUS = 4
"""Signs in one item; more would mean 2^n answers, and nobody means that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """``text`` is a leaf's expression; ``marks`` are an interval's two brackets or a relation's operators."""

    kind: Kind
    text: str = ""
    children: tuple[Node, ...] = ()
    marks: tuple[str, ...] = ()


_OPEN, _CLOSE = "([{", ")]}"
_OPERATORS = ("\\approx", "\\neq", "\\le", "\\ge", "=", "<", ">")
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_NAME = re.compile(
    r"\\?[a-zA-Z]+'?(?:_(?:[a-zA-Z0-9]|\{[a-zA-Z0-9, ]*\}))?(?:\([a-zA-Z](?:,[a-zA-Z])*\))?"
    r"|[A-Z]{2,3}|\\frac\{[A-Z]{2}\}\{[A-Z]{2}\}|\|[a-zA-Z]+\||\\(?:angle|overline|triangle)[ {][a-zA-Z]+\}?"
)
_EMPTY = ("\\emptyset", "\\varnothing", "\\{\\}")


def is_name(text: str) -> bool:
    """Whether ``text`` can only name a quantity: ``x``, ``a_{n}``, ``f(x)``, ``|AB|``, ``(p,q)``."""
    inner = text[1:-1] if text.startswith("(") and text.endswith(")") and _spans(text) else text
    return all(_NAME.fullmatch(part) for part in split(inner, ",")) and text not in ("\\pi", "\\infty", "e", "i")


def parse(text: str, policy: Policy) -> Node:
    """The tree of a normalised answer; raises Unparsable where brackets or items make no sense."""
    if not text:
        raise Unparsable("nothing left to read")
    if policy.thousands_commas:
        text = _join_thousands(text)
    items = split(text, ",")
    if len(items) == 1:
        items = split(text, ";")
    if len(items) == 1:
        return _item(text, policy)
    if "=" in items[0] and policy.drop_assignment:
        name, _, first = items[0].partition("=")
        if is_name(name) and first and not any(op in item for item in items[1:] for op in _OPERATORS):
            items[0] = first  # a = 4, -8, -10
    return _set([child for item in items for child in _expanded(item, policy)])


def split(text: str, separator: str) -> list[str]:
    """Pieces between separators outside all brackets; mixed pairs such as ``[2,3)`` count as brackets."""
    pieces, depth, start, i = [], 0, 0, 0
    while i < len(text):
        char = text[i]
        if depth == 0 and text.startswith(separator, i) and not _continues(text, i, separator):
            pieces.append(text[start:i])
            i += len(separator)
            start = i
            continue
        if char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
            if depth < 0:
                raise Unparsable("a bracket closes that never opened")
        i += 1
    if depth:
        raise Unparsable("a bracket never closes")
    return [*pieces, text[start:]]


def _continues(text: str, i: int, separator: str) -> bool:
    """Whether the command found at ``i`` is the beginning of a longer one (\\le in \\left, \\in in \\infty)."""
    end = i + len(separator)
    return separator[0] == "\\" and separator[-1].isalpha() and end < len(text) and text[end].isalpha()


def _join_thousands(text: str) -> str:
    depth, out = 0, []
    for piece in re.split(r"([(\[{)\]}])", text):
        depth += (piece in _OPEN) - (piece in _CLOSE) if len(piece) == 1 else 0
        out.append(piece if depth else _THOUSANDS.sub(lambda m: m[0].replace(",", ""), piece))
    return "".join(out)


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


def _item(text: str, policy: Policy) -> Node:
    if not text:
        raise Unparsable("an item is missing")
    relation = _relation(text, policy)
    if relation is not None:
        return relation
    if policy.drop_assignment:
        name, found, rest = _partition(text, "\\in")
        if found and is_name(name):
            text = rest
    if not text:
        raise Unparsable("a set is missing")
    parts = split(text, "\\cup")
    if len(parts) > 1:
        return Node("union", children=tuple(_item(part, policy) for part in parts))
    if "\\pm" in text and text[0] not in _OPEN and not text.startswith("\\{"):
        return _set(_expanded(text, policy))
    bracketed = _bracketed(text, policy)
    if bracketed is not None:
        return bracketed
    ratio = split(text, ":")
    if len(ratio) > 1:
        return Node("ratio", children=tuple(_item(part, policy) for part in ratio))
    return Node("leaf", text)


def _partition(text: str, separator: str) -> tuple[str, bool, str]:
    parts = split(text, separator)
    return (parts[0], True, parts[1].strip()) if len(parts) == 2 else (text, False, "")


def _relation(text: str, policy: Policy) -> Node | None:
    marks: list[str] = []
    pieces = [text]
    for operator in _OPERATORS:
        if operator in text:
            pieces = [part for piece in pieces for part in _with_marks(piece, operator)]
    marks = pieces[1::2]
    if not marks:
        return None
    sides = [side.strip() for side in pieces[0::2]]
    if not all(sides):
        raise Unparsable("a side of a relation is missing")
    children = tuple(_side(side, policy) for side in sides)
    return Node("relation", text, children, tuple(marks))


def _with_marks(piece: str, operator: str) -> list[str]:
    if piece in _OPERATORS:
        return [piece]
    parts = split(piece, operator)
    return [x for part in parts for x in (part, operator)][:-1]


def _side(text: str, policy: Policy) -> Node:
    return Node("leaf", text) if is_name(text) else _item(text, policy)


def _bracketed(text: str, policy: Policy) -> Node | None:
    if text in _EMPTY:
        return _set([])
    if text in ("\\mathbb{R}", "\\mathbbR", "\\R"):
        return Node("reals")
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", matrix[2].replace("\\hline", "")) if row.strip()]
        cells = tuple(
            Node("set", children=tuple(_item(cell.strip(), policy) for cell in split(row, "&"))) for row in rows
        )
        return Node("matrix", children=cells)
    if text.startswith("\\{") and text.endswith("\\}"):
        return _braces(text[2:-2], policy)
    if text[0] not in "([" or text[-1] not in ")]" or not _spans(text):
        return None
    items = split(text[1:-1], ",")
    if len(items) == 1:
        items = split(text[1:-1], ";")
    if len(items) == 1:
        return _item(items[0], policy) if text[0] + text[-1] in ("()", "[]") else None
    children = tuple(_item(item, policy) for item in items)
    if len(items) == 2:
        return Node("interval", children=children, marks=(text[0], text[-1]))
    if text[0] + text[-1] not in ("()", "[]"):
        raise Unparsable("mixed brackets around more than two items")
    return Node("tuple", children=children, marks=(text[0], text[-1]))


def _braces(inner: str, policy: Policy) -> Node:
    for bar in ("\\mid", "|", ":"):
        name, found, condition = _partition(inner, bar)
        if found and policy.drop_assignment and is_name(re.split(r"\\in(?![a-z])", name)[0]):
            return _item(condition, policy)
    items = split(inner, ",")
    return _set([child for item in items for child in _expanded(item, policy)])


def _spans(text: str) -> bool:
    """Whether the first bracket closes with the last character."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char in _OPEN) - (char in _CLOSE)
        if depth == 0:
            return i == len(text) - 1
    return False
