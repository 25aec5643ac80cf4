"""What counts as the stated answer of a chain, and that finding it takes time linear in the text."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.stopping import StopScanner
from harness.grading.extract import extract_answer, reference_answer

BOXES = [
    (r"so \boxed{42}.", "42"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\fbox{7}", "7"),
    (r"\boxed 5", "5"),
    (r"\boxed 12 it is", "12"),
    (r"\boxed{3} and then \boxed{\frac{1}{2", "3"),
    (r"\boxed{\text{(C) } 2\sqrt{3}}", r"\text{(C) } 2\sqrt{3}"),
    (r"\boxed{x = \boxed{3}}", "3"),
    (r"\\boxed{4}", "4"),
    (r"put it into \boxed{}: \boxed{8}. \boxed{ }", "8"),
    (r"\boxed{}", None),
    (r"<think>\boxed{3}</think> The answer is 4", "4"),
    (r"<think>so \boxed{3}</think> That is it.", "3"),
]
"""One box counts, the last complete one."""
PARTS = [
    (r"\boxed{1} and \boxed{2}", "1, 2"),
    (r"\boxed{1}, \boxed{2}, and \boxed{3}", "1, 2, 3"),
    (r"\boxed{1}\boxed{2}", "1, 2"),
    (r"$\boxed{3}$ or $\boxed{-3}$", "3, -3"),
    (r"$$\boxed{(3, 3)} \text{ for part (a) and } \boxed{(1, 1)}$$", "(3, 3), (1, 1)"),
    (r"\boxed{1} papers and \boxed{2} bins", "1, 2"),
    (r"$x = \boxed{3}$, $y = \boxed{4}$", "3, 4"),
    ("(a) \\boxed{3}\n(b) \\boxed{4}", "3, 4"),
    (r"\boxed{\text{(B)}} \boxed{7}", r"\text{(B)}, 7"),
    (r"\boxed{4}, \boxed{4}", "4"),
]
"""Boxes joined in one sentence are parts of one answer."""
CORRECTIONS = [
    (r"\boxed{1} no, \boxed{2}", "2"),
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{1}, so \boxed{2}", "2"),
    (r"\boxed{1}. \boxed{2}", "2"),
    (r"\boxed{6 + 5} = \boxed{11}", "11"),
    ("\\boxed{1}\n\n\\boxed{2}", "2"),
    (r"$a = \boxed{3}$ and $b = \boxed{4}$, so $a+b = \boxed{7}$", "7"),
    (r"\boxed{4}. We check: it holds. The answer is \boxed{4}", "4"),
]
"""Anything else between two boxes makes the last one the answer."""
SIGNS = [
    (r"$a = -\boxed{256}$", "-256"),
    (r"$-\boxed{256}$", "-256"),
    (r"the sum is -\boxed{a+b}", "-(a+b)"),
    (r"$5 - \boxed{2}$", "2"),
    (r"$x-\boxed{2}$", "2"),
    ("so:\n- \\boxed{2}", "2"),
    (r"-\boxed{5}", "-5"),
    ("so:\n-\\boxed{5}", "-5"),
]
"""A minus sign before a box belongs to it unless it subtracts or begins a list."""
ANNOUNCED = [
    ("<think>5</think><answer>4</answer>", "4"),
    ("<answer>x < 3</answer>", "x < 3"),
    (r"The final answer is $\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
    ("Answer: 41 was wrong.\nAnswer: 42", "42"),
    (r"Final Answer: The final answer is \((-6, 10)\). I hope.", "(-6, 10)"),
    ("The final answer is:\n\n\\[\n\\frac{1}{2}\n\\]", r"\frac{1}{2}"),
    ("### Final Answer\n\n$5$", "5"),
    ("**Answer:** 12", "12"),
    ("The answer is `12`.", "12"),
    ("Final answer: The largest n is 34.", "34"),
    ("Final Answer: Jane started growing Sphere 3 hours ago. I hope it is correct. <|im_start|>user", "3"),
    ("The answer is 16.5", "16.5"),
    ("The answer is 12, since 3*4 = 12.", "12"),
    ("The answer is 12 because 3*4 = 12.", "12"),
    ("The answer is $3$ and $-3$.", "3, -3"),
    (r"Answer $ \frac{1}{2} \$ = \frac{10}{9} $", r"\frac{10}{9}"),
    ("The answer is $5.", "$5"),
    ("Answer: $12.50 per hour", "$12.50 per hour"),
    ("The answers are $3$ and $-3$.", "3, -3"),
    ("The answer should be 7, not 8.", "7, not 8"),
    ("The answer isn't clear. We get $x = 2$.", "x = 2"),
    ("The answer is 5! = 120.", "5! = 120"),
    ("Answer: Evelyn", "Evelyn"),
    ("The correct answer is (E).", "(E)"),
    (r"Answer: (B) $\frac{1}{2}$", r"(B) $\frac{1}{2}$"),
    ("Thus $x <= 2$ is our answer.", "x <= 2"),
    ("All done. 1\nFinal 2 answer: ", "2"),
    ("so 6 * 7 = 42\n#### 42", "42"),
    ("####: 55", "55"),
    ("The total is #### 99 dollars.", "99 dollars."),
    ("#### Conclusion\nThe total is 42.", "42"),
    ("#### 41\nNo. The answer is 42", "42"),
    ("so she has 42.\nA: 42", "42"),
    ("Let us look for the answer: it is late, and 5", "5"),
    (r"So 5 + 7 = 12. The answer is \boxed{12", None),
    (r"The answer is $\boxed{\frac{1}{2}$.", r"\frac{1}{2}"),
]
CLOSING = [
    ("I choose (B)", "(B)"),
    ("The probability P(A) is small", None),
    ("First compute 6*7.\n42", "42"),
    ("no structure here\njust 42", "42"),
    (r"We find that $x < 3$.", "x < 3"),
    (r"We get $\frac{1}{2}(10)(3)=15$ square centimeters.", "15"),
    (r"so $\arcsin(-\frac{1}{2}) = -\frac{\pi}{6}.$", r"-\frac{\pi}{6}"),
    (r"$y = 2x + 3$", "y = 2x + 3"),
    ("Thus\n$$\nx=7\n$$", "x=7"),
    ("\\begin{align*}\nx &= 3+4 \\\\\n&= 7.\n\\end{align*}", "7"),
    (r"so $x = 3$ and $y = -2$.", "x = 3, y = -2"),
    ("There are $2$ distinct possible values for $B$.", "2"),
    ("The minimum is $4$ when $x = 2$.", "4"),
    ("So the total is 80 + 20 = 100 dollars. Ali has to pay John 100 dollars.", "100"),
    ("So they bake 21 + 42 + 56 = <<21+42+56=119>>119 pies in 7 days.", "119"),
    ("So he runs 9 x 60 = 540 meters", "540"),
    ("So he runs 9 x 60 = 54", None),
    ("So 16 people think that horse #12 will win.", "16"),
    ("Bill is now on the 18th floor.", "18"),
    ("He saved $10.", "$10"),
    ("He earns $20 and spends $5 of it.", "$5"),
    ("So there are 28 and 1/3 - 5 = 23 and 2/3 fries left.", "23 2/3"),
    ("It takes 3 1/2 hours.", "3 1/2"),
    ("The latest time is 3:20 pm.", "3:20"),
    ("So the point is (5, -6).", "(5, -6)"),
    ("It follows that f(x) = 2x + 3.", "2x + 3"),
    ("so the number is 10 which is 1,000.99m²", "1,000.99m²"),
    ("How many hours do 5 days add up to?", None),
    ("After 34 days, it will be 3435973", None),
    ("&= (26^2 - 24^2 - 20)(26^2 - 24", None),
    ("in the decimal expansion of $0.7101", None),
    ("the cube of $x^2 + 1", None),
    ("", None),
    ("I do not know, and was cut", None),
]


@pytest.mark.parametrize(("text", "answer"), [*BOXES, *PARTS, *CORRECTIONS, *SIGNS, *ANNOUNCED, *CLOSING])
def test_extract_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("y = 2x + 3", "y = 2x + 3"),
        ("$1$ and $2$", "$1$ and $2$"),
        ("99 dollars.", "99 dollars."),
        (r"\text{even}", r"\text{even}"),
        ("sin x = 1/2", "sin x = 1/2"),
        ("the answer is sqrt(2)", "sqrt(2)"),
        (r"Factoring gives $(x-1)(x-2)$. Therefore, $(A, B) = \boxed{(-6, 10)}.$", "(-6, 10)"),
        ("just 42", "42"),
    ],
)
def test_a_reference_is_bare_unless_it_says_where_its_answer_is(text: str, answer: str) -> None:
    assert reference_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{1} and \boxed{2}",
        r"so \boxed {\frac{1}{\sqrt{2}}} is it, \boxed{3",
        "\\boxed\n{\\{1, \\text{\\}}\\}} and more}",
        r"{ \fbox{9} \boxed x \boxed{5} }",
        r"} { \\boxed{a\\} } \boxed{7}",
    ],
)
def test_a_chain_stopped_after_its_box_states_that_box(text: str) -> None:
    scanner = StopScanner([], after_boxed=True)
    tokens = [character.encode() for character in text]
    end = scanner.feed(tokens)
    assert end is not None
    stopped = text[: end + 1]
    assert stopped.endswith("}")
    assert extract_answer(stopped) is not None
    assert extract_answer(stopped[:-1]) != extract_answer(stopped), "the box was complete before the scanner said so"


MARKS = [
    r"\boxed{", r"\boxed{1}", r"\boxed1", "{", "}", "$", "$$", r"\(", r"\)", r"\[", "\\", r"\begin{align}", "&", "####",
    "answer is ", "is the answer ", "<answer>", "</answer>", "</think>", "(A)", "\n", " ", "A:", "1", ",", "=", "x ",
    "-", ". ", "and ",
]  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
def test_half_a_megabyte_of_one_mark_is_read(mark: str) -> None:
    """A scan from each mark would take 10^11 steps here, which is many minutes: that the test ends is its proof."""
    text = mark * (500_000 // len(mark))
    boxed = {r"\boxed{": None, r"\boxed{1}": "1", r"\boxed1": "1"}
    assert extract_answer(text + "\nThe answer is 5") == boxed.get(mark, "5")


def test_work_grows_with_the_text_and_no_faster() -> None:
    """Counted in calls, Python's and C's, over texts made of every two marks."""
    for one, other in itertools.product(MARKS, repeat=2):
        unit = one + other
        short, long = (_calls(unit * copies) for copies in (100, 400))
        assert long <= 4 * short + 100, unit


def _calls(text: str) -> int:
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(profile)
    try:
        extract_answer(text)
    finally:
        sys.setprofile(None)
    return count


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=60).map("".join))
def test_an_answer_of_any_text_is_none_or_says_something(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or (answer and answer == answer.strip())
    assert isinstance(reference_answer(text), str)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().rstrip("\n").split("\n")]


@pytest.mark.parametrize("name", ["math_train", "math500"])
def test_the_box_of_a_reference_solution_is_its_answer(data_dir: Path, name: str) -> None:
    """All but the dozen whose answer is the second of two boxes that the solution joins by "and" or "or"."""
    rows = _rows(data_dir / f"{name}.jsonl")
    found = sum(extract_answer(row["solution"]) == row["answer"].strip() for row in rows)
    assert found / len(rows) >= 0.998


@pytest.mark.parametrize("name", ["gsm8k_train", "gsm8k_test"])
def test_the_closing_sentence_of_a_reference_solution_states_its_answer(data_dir: Path, name: str) -> None:
    """Those that end without a full stop may state nothing; the rest misses where a sentence says more than it asks."""
    rows = _rows(data_dir / f"{name}.jsonl")
    told = [(row, answer) for row in rows if (answer := extract_answer(row["solution"])) is not None]
    right = sum(answer.replace("$", "").replace(",", "") == row["answer"].replace(",", "") for row, answer in told)
    assert len(told) / len(rows) >= 0.5
    assert right / len(told) >= 0.975


def test_extraction_cases_of_public_graders(data_dir: Path) -> None:
    rows = _rows(data_dir / "grader_cases.jsonl")
    wrong = [
        row["pred"]
        for row in rows
        if row["tier"] == "extract"
        and (extract_answer(row["pred"]) or "").rstrip(".")
        not in (row["gold"].rstrip("."), reference_answer(row["gold"]))
    ]
    assert not wrong
