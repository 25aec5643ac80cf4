"""The limits an answer must stay within, each a constant with its unit, and the cheap screen on its text.

An answer beyond a limit is ``limit``: unscored, never called incorrect. The screen runs in linear
time before anything else looks at the text; the limits on values are checked while a value is
built (``evaluate.py``), before it is computed.
"""

from __future__ import annotations

import re

MAX_ANSWER_CHARS = 5_000
MAX_NESTING_LEVELS = 30
"""Brackets inside brackets, and powers of powers."""
MAX_NUMBER_DIGITS = 4_000
MAX_ITEMS = 200
"""Commas and semicolons in a list, tuple, interval or set, those inside it included."""
MAX_MATRIX_CELLS = 100
MAX_EXPONENT_DIGITS = 9
"""Of an exponent written as a number. Whether its power can be computed is for the next limits to say."""
MAX_RESULT_DIGITS = 20_000
"""Digits of any integer a power, factorial or binomial may produce."""
MAX_SYMBOLIC_EXPONENT = 100
"""Power to which a sum may be raised, since it is expanded."""
MAX_DEGREE = 10_000
"""Power to which one unknown may be raised."""
MAX_TERMS = 5_000
"""Terms that a product of sums may have once it is expanded."""
MAX_FACTORIAL_ARGUMENT = 5_000
MAX_GENERATORS = 32
"""Unknowns, roots and functions in one polynomial."""
MAX_CLASS_CHARS = 200
"""A class string longer than this is replaced by its sha256."""

_DIGITS = re.compile(r"\d+")
_EXPONENT = re.compile(r"(?:\^|\*\*)[\s{(+-]*(\d+)")


class LimitExceeded(Exception):
    """The answer is beyond a limit named in this file."""


class Unparsable(Exception):
    """The text is no mathematics this grader can read; it is compared as text."""


def screen(text: str) -> None:
    """Raise LimitExceeded where the text alone is beyond a limit."""
    if len(text) > MAX_ANSWER_CHARS:
        raise LimitExceeded(f"{len(text)} characters; at most {MAX_ANSWER_CHARS} are read")
    depth = 0
    for char in text:
        if char in "([{":
            depth += 1
            if depth > MAX_NESTING_LEVELS:
                raise LimitExceeded(f"brackets nest deeper than {MAX_NESTING_LEVELS}")
        elif char in ")]}" and depth:
            depth -= 1
    items = text.count(",") + text.count(";") + 1
    if items > MAX_ITEMS:
        raise LimitExceeded(f"{items} items; at most {MAX_ITEMS} are read")
    cells = text.count("&") + text.count("\\\\") + 1
    if cells > MAX_MATRIX_CELLS:
        raise LimitExceeded(f"a matrix of {cells} cells; at most {MAX_MATRIX_CELLS} are read")
    _screen_runs(text)


def _screen_runs(text: str) -> None:
    longest = max(map(len, _DIGITS.findall(text)), default=0)
    if longest > MAX_NUMBER_DIGITS:
        raise LimitExceeded(f"a number of {longest} digits; at most {MAX_NUMBER_DIGITS} are read")
    exponent = max(map(len, _EXPONENT.findall(text)), default=0)
    if exponent > MAX_EXPONENT_DIGITS:
        raise LimitExceeded(f"an exponent of {exponent} digits; at most {MAX_EXPONENT_DIGITS} are read")
