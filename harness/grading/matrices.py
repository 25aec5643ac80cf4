"""Products of a scalar and matrices, and determinants, computed exactly; a lone matrix needs no computing."""

from __future__ import annotations

import sympy

from harness.grading.limits import LimitExceeded, Unparsable
from harness.grading.scalars import scalar
from harness.grading.structure import Node

MAX_DETERMINANT_ROWS = 4
"""Rows of a matrix whose determinant is expanded."""


def product(node: Node) -> sympy.Expr | sympy.ImmutableMatrix:
    """What a ``product`` node, or a ``vmatrix``, comes to; raises Unparsable where the sizes do not fit."""
    value: sympy.Expr | sympy.ImmutableMatrix = sympy.Integer(1)
    for child in node.children if node.kind == "product" else (node,):
        factor = _value(child)
        both = isinstance(value, sympy.MatrixBase) and isinstance(factor, sympy.MatrixBase)
        if both and value.cols != factor.rows:
            raise Unparsable("a product of matrices that do not fit")
        value = value * factor
    if isinstance(value, sympy.MatrixBase):
        return value.applyfunc(lambda cell: sympy.cancel(sympy.expand(cell)))
    return sympy.cancel(sympy.expand(value))


def _value(node: Node) -> sympy.Expr | sympy.ImmutableMatrix:
    if node.kind == "leaf":
        return scalar(node.text)
    if node.kind != "matrix":
        raise Unparsable("a factor that is no number or matrix")
    widths = {len(row.children) for row in node.children}
    cells = [cell for row in node.children for cell in row.children]
    if len(widths) != 1 or any(cell.kind != "leaf" for cell in cells):
        raise Unparsable("a matrix with ragged rows or cells that are no numbers")
    matrix = sympy.ImmutableMatrix([[scalar(cell.text) for cell in row.children] for row in node.children])
    if not node.marks:
        return matrix
    if matrix.rows != matrix.cols:
        raise Unparsable("the determinant of what is not square")
    if matrix.rows > MAX_DETERMINANT_ROWS:
        raise LimitExceeded(f"a determinant of {matrix.rows} rows; at most {MAX_DETERMINANT_ROWS} are expanded")
    return matrix.det(method="berkowitz")
