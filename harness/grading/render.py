"""Class strings of structures: one spelling for every tuple, interval, set and matrix, given that of its parts.

Both paths (``fast.py`` without sympy, ``canonical.py`` with it) print through this file, so that they cannot
disagree about brackets. Parts that need mathematics (relations, unions, products of matrices) go to ``leaf``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from harness.grading.limits import MAX_CLASS_CHARS
from harness.grading.structure import Node


def render(node: Node, leaf: Callable[[Node], str]) -> str:
    """The class string of ``node``; ``leaf`` prints an expression, a relation, a union or a product."""
    if node.kind in ("tuple", "interval"):
        return node.marks[0] + ",".join(render(child, leaf) for child in node.children) + node.marks[1]
    if node.kind == "set":
        return set_string([render(child, leaf) for child in node.children])
    if node.kind == "list":
        return "list[" + ",".join(render(child, leaf) for child in node.children) + "]"
    if node.kind == "matrix" and not node.marks:
        return matrix_string([[render(cell, leaf) for cell in row.children] for row in node.children])
    if node.kind == "ratio":
        return ":".join(render(child, leaf) for child in node.children)
    if node.kind == "reals":
        return "(-oo,oo)"
    return leaf(node)


def alternative(top: Node, leaf: Callable[[Node], str]) -> Node:
    """The first item of a list without brackets whose items are all one value: ``15\\frac{39}{40}`` or ``639/40``."""
    if top.kind != "set" or not top.marks or len({render(child, leaf) for child in top.children}) > 1:
        return top
    return top.children[0]


def set_string(items: list[str]) -> str:
    return "{" + ",".join(sorted(set(items))) + "}"


def matrix_string(rows: Sequence[Sequence[str]]) -> str:
    return "matrix[" + ";".join(",".join(row) for row in rows) + "]"


def whole(text: str) -> str:
    """The class of an answer that ``text`` is all of: one letter alone is a word, since it may be a choice."""
    return f"text:{text.lower()}" if len(text) == 1 and text.isalpha() and text.isascii() else text


def bounded(class_id: str) -> str:
    """``class_id``, or its sha256 where it is longer than ``MAX_CLASS_CHARS``."""
    if len(class_id) <= MAX_CLASS_CHARS:
        return class_id
    return "sha256:" + hashlib.sha256(class_id.encode(errors="surrogatepass")).hexdigest()
