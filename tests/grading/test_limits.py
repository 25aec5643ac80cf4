"""Each limit on the text is held at both of its sides, and beyond it nothing is called incorrect."""

from __future__ import annotations

import pytest

from harness.grading import limits
from harness.grading.compare import compare
from harness.grading.limits import LimitExceeded, screen
from harness.grading.policy import Policy
from harness.grading.quick import quick

AT_THE_LIMIT = {
    "MAX_ANSWER_CHARS": lambda n: "a" * n,
    "MAX_NESTING_LEVELS": lambda n: "(" * n + "1" + ")" * n,
    "MAX_NUMBER_DIGITS": lambda n: "9" * n,
    "MAX_ITEMS": lambda n: "1," * (n - 1) + "1",
    "MAX_MATRIX_CELLS": lambda n: r"\begin{pmatrix}" + "1&" * (n - 1) + r"1\end{pmatrix}",
    "MAX_EXPONENT_DIGITS": lambda n: "1^{-" + "9" * n + "}",
}
VALUES = {
    # the digits of a power are estimated from above
    "MAX_RESULT_DIGITS": lambda n: (f"10^{{{4 * n // 5}}}", f"10^{{{n}}}"),
    "MAX_FACTORIAL_ARGUMENT": lambda n: (f"{n}!", f"{n + 1}!"),
    "MAX_SYMBOLIC_EXPONENT": lambda n: (f"(x+1)^{{{n}}}", f"(x+1)^{{{n + 1}}}"),
    "MAX_DEGREE": lambda n: (f"x^{{{n}}}", f"x^{{{n + 1}}}"),
    "MAX_TERMS": lambda n: (f"(x+1)^{{49}}(x-1)^{{{n // 50 - 1}}}", f"(x+1)^{{50}}(x-1)^{{{n // 50 - 1}}}"),
    "MAX_GENERATORS": lambda n: ("+".join(NAMES[:n]), "+".join(NAMES[: n + 1])),
}
NAMES = [*"abcdfghjklmnopqrstuvwxyz", *"ABCDFGHJKLMNOP"]


@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_text_at_the_limit_is_read_and_beyond_it_is_not(name: str) -> None:
    limit = getattr(limits, name)
    screen(AT_THE_LIMIT[name](limit))
    beyond = AT_THE_LIMIT[name](limit + 1)
    with pytest.raises(LimitExceeded):
        screen(beyond)
    assert quick("1", beyond, Policy()) == compare("1", beyond, Policy())
    assert compare("1", beyond, Policy()).status == "limit"
    assert compare(beyond, "1", Policy()).status == "limit"


@pytest.mark.parametrize("name", VALUES)
def test_values_at_the_limit_are_computed_and_beyond_it_are_not(name: str) -> None:
    within, beyond = VALUES[name](getattr(limits, name))
    assert compare("1", within, Policy()).status == "incorrect"
    assert compare("1", beyond, Policy()).status == "limit"


def test_closing_brackets_hide_no_nesting() -> None:
    with pytest.raises(LimitExceeded):
        screen(")" * 100 + "(" * 100)


def test_both_sides_of_every_limit_are_held() -> None:
    named = {name for name in vars(limits) if name.startswith("MAX_")}
    elsewhere = {"MAX_CLASS_CHARS"}  # bounds no answer, only how its class is written: test_compare.py
    assert set(AT_THE_LIMIT) | set(VALUES) | elsewhere == named
