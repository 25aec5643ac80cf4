"""Class strings of structures: one spelling for every tuple, interval, set and matrix, given that of its parts.

Both paths (``fast.py`` without sympy, ``canonical.py`` with it) print through this file, so that they cannot
disagree about brackets. Parts that need mathematics (relations, unions) go to ``leaf``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from harness.grading.limits import MAX_CLASS_CHARS
from harness.grading.structure import Node


def render(node: Node, leaf: Callable[[Node], str]) -> str:
    """The class string of ``node``; ``leaf`` prints an expression, a relation or a union."""
    if node.kind in ("tuple", "interval"):
        return node.marks[0] + ",".join(render(child, leaf) for child in node.children) + node.marks[1]
    if node.kind == "set":
        return set_string([render(child, leaf) for child in node.children])
    if node.kind == "matrix":
        rows = (",".join(render(cell, leaf) for cell in row.children) for row in node.children)
        return "matrix[" + ";".join(rows) + "]"
    if node.kind == "ratio":
        return ":".join(render(child, leaf) for child in node.children)
    if node.kind == "reals":
        return "(-oo,oo)"
    return leaf(node)


def set_string(items: list[str]) -> str:
    return "{" + ",".join(sorted(set(items))) + "}"


def bounded(class_id: str) -> str:
    """``class_id``, or its sha256 where it is longer than ``MAX_CLASS_CHARS``."""
    if len(class_id) <= MAX_CLASS_CHARS:
        return class_id
    return "sha256:" + hashlib.sha256(class_id.encode()).hexdigest()
