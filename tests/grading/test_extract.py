"""What counts as the stated answer of a chain."""

from __future__ import annotations

import time

import pytest

from harness.grading.extract import extract_answer

TABLE = [
    (r"so \boxed{42}.", "42"),
    (r"\boxed{1} no, \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\fbox{7}", "7"),
    (r"\boxed 5", "5"),
    (r"\boxed{3} and then \boxed{\frac{1}{2", "3"),
    (r"\boxed{\text{(C) } 2\sqrt{3}}", r"\text{(C) } 2\sqrt{3}"),
    (r"\boxed{x = \boxed{3}}", "3"),
    ("<think>5</think><answer>4</answer>", "4"),
    (r"The final answer is $\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
    ("Answer: 41 was wrong.\nAnswer: 42", "42"),
    (r"Final Answer: The final answer is \((-6, 10)\). I hope.", "(-6, 10)"),
    ("Final answer: The largest n is 34.", "34"),
    ("The answer is 16.5", "16.5"),
    ("so 6 * 7 = 42\n#### 42", "42"),
    ("so she has 42.\nA: 42", "42"),
    ("I choose (B)", "(B)"),
    ("The probability P(A) is small", None),
    ("First compute 6*7.\n42", "42"),
    (r"We find that $x < 3$.", "x < 3"),
    (r"\boxed{}", None),
    ("", None),
    ("I do not know, and was cut", None),
]


@pytest.mark.parametrize(("text", "answer"), TABLE)
def test_extract_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text", [r"\boxed{" * 20_000, "{" * 200_000, "answer is " * 20_000, "$" * 100_001, "\\" * 200_000, "(A" * 100_000]
)
def test_extraction_is_linear_in_hostile_text(text: str) -> None:
    start = time.process_time()
    extract_answer(text)
    assert time.process_time() - start < 2.0
