"""Sums over a named index: added up where they are short sums of a polynomial, and else one symbol of their parts.

Two sums of the second kind are equal where their terms and bounds are; nothing is computed from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import sympy

from harness.grading.brackets import split_any
from harness.grading.limits import Unparsable

MAX_SUMMANDS = 1_000
MAX_SUMMAND_DEGREE = 20
_SUM = re.compile(r"\\sum_\{([a-zA-Z])=([^{}]*)\}\^(?:\{([^{}]*)\}|([0-9a-zA-Z]))(.+)", re.DOTALL)


def read_sum(text: str, scalar: Callable[[str], sympy.Expr]) -> sympy.Expr | None:
    """The value of a text that is one sum, or None where it is none. ``scalar`` reads its parts.

    Raises Unparsable where the index is i or e, or where it is not plain how far the sum reaches.
    """
    match = _SUM.fullmatch(text)
    if match is None:
        return None
    letter, body = match[1], match[5]
    if letter in "ieIE" or len(split_any(body, ("+", "-"))) > 1:
        raise Unparsable("a sum that can be read in two ways")
    index, first, last, term = sympy.Symbol(letter), scalar(match[2]), scalar(match[3] or match[4]), scalar(body)
    plain = not any(letter in symbol.name[1:] for symbol in term.free_symbols)  # k may stand in the name a_k
    short = first.is_Integer and last.is_Integer and last - first < MAX_SUMMANDS
    if short and plain and term.is_polynomial(index) and sympy.degree(term, index) <= MAX_SUMMAND_DEGREE:
        return sympy.expand(sympy.Add(*(term.subs(index, i) for i in range(int(first), int(last) + 1))))
    return sympy.Function("sum")(term, index, first, last)
