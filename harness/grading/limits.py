"""The limits an answer must stay within, each a constant with its unit, and the cheap screen on its text.

An answer beyond a limit is ``limit``: unscored, never called incorrect. The screen runs in linear
time before anything else looks at the text; the limits on values are checked while a value is
built (``evaluate.py``), before it is computed.
"""

from __future__ import annotations

import re

MAX_ANSWER_CHARS = 5_000
MAX_NESTING_LEVELS = 30
MAX_NUMBER_DIGITS = 4_000
MAX_RESULT_DIGITS = 20_000
"""Digits of any integer a power, factorial or binomial may produce."""
MAX_SYMBOLIC_EXPONENT = 100
"""Power to which a sum may be raised, since it is expanded."""
MAX_FACTORIAL_ARGUMENT = 5_000
MAX_CLASS_CHARS = 200
"""A class string longer than this is replaced by its sha256."""

_DIGITS = re.compile(r"\d+")


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
        elif char in ")]}":
            depth -= 1
    longest = max((len(run) for run in _DIGITS.findall(text)), default=0)
    if longest > MAX_NUMBER_DIGITS:
        raise LimitExceeded(f"a number of {longest} digits; at most {MAX_NUMBER_DIGITS} are read")
