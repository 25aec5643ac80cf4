"""Known answers that a fit grader gets right; one that does not must refuse to grade.

A missing parser runtime makes every answer wrong without an error anywhere, so the questions here need each part:
the reader of common forms, the LaTeX parser itself, exact evaluation, and text. They are asked in every new worker.
"""

from __future__ import annotations

from harness.grading.compare import compare
from harness.grading.policy import Policy

KNOWN = (
    (r"\frac{1}{2}", "0.5", "correct"),
    ("7", "8", "incorrect"),
    (r"2\sqrt{3}", r"\sqrt{12}", "correct"),
    ("(x+1)^2", "x^2+2x+1", "correct"),
    ("(x+1)^2", "x^2+2x-1", "incorrect"),
    ("(2,3)", "[2,3)", "incorrect"),
    ("11", "11_2", "incorrect"),
    (r"\text{even}", "odd", "incorrect"),
    # these two only the LaTeX parser reads: without its runtime both would come out parse_error
    ("10", r"\binom{5}{\lfloor 2.5 \rfloor}", "correct"),
    ("11", r"\binom{5}{\lfloor 2.5 \rfloor}", "incorrect"),
)
"""(gold, answer, status)"""


def self_test() -> str | None:
    """None, or the first known answer that the installed grader gets wrong."""
    for gold, answer, status in KNOWN:
        outcome = compare(gold, answer, Policy())
        if outcome.status != status:
            return f"{answer!r} against {gold!r} came out {outcome.status}, not {status}"
    return None
