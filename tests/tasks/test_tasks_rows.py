"""From a row to a problem: answers out of worked solutions, numbers, and levels however they are written."""

import pytest

from harness.records import InputError
from harness.tasks.definition import FieldMap, TaskFile
from harness.tasks.rows import last_boxed, to_problem

FIELDS = FieldMap(prompt=("problem", "question"), answer=("answer",), solution=("solution",), level=("level",))


def convert(row: dict, answer_type: str = "math"):
    task = TaskFile(answer_type=answer_type, prompt_template="{prompt}", fields=FIELDS, licence="", file="x")
    return to_problem({"problem": "q", **row}, "row 7", 7, "made", task, FIELDS)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"thus $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"$\boxed{1}$, no: $\boxed{2}$", "2"),
        (r"$\boxed{\{1,2\}}$", r"\{1,2\}"),
        (r"$\boxed{\left\{ 1 \right.}$", r"\left\{ 1 \right."),
        (r"$\boxed 7$ apples", "7"),
        (r"\fbox{C}", "C"),
        (r"\boxed{ 3 }", "3"),
        (r"\boxed{", None),
        (r"\boxed{}", None),
        (r"\boxedish{3}", None),
        ("none", None),
    ],
)
def test_last_boxed(solution, answer):
    assert last_boxed(solution) == answer


@pytest.mark.parametrize(
    ("level", "expected"), [(3, 3), ("3", 3), ("Level 3", 3), ("level 5", 5), ("Level ?", None), (None, None)]
)
def test_levels(level, expected):
    assert convert({"answer": "1", "level": level}).level == expected


@pytest.mark.parametrize("level", [0, "Level 0", -1, 2.5, "hard", True])
def test_levels_that_are_none(level):
    with pytest.raises(InputError, match="row 7: level = "):
        convert({"answer": "1", "level": level})


@pytest.mark.parametrize(
    ("value", "answer"), [(142.0, "142"), (7, "7"), (0.5, "0.5"), (" x ", "x"), ("142.0", "142.0")]
)
def test_answers_become_text(value, answer):
    assert convert({"answer": value}).answer == answer


def test_an_answer_field_goes_before_the_solution():
    assert convert({"answer": "5", "solution": "\\boxed{6}"}).answer == "5"
    assert convert({"solution": "\\boxed{6}"}).answer == "6"
    with pytest.raises(InputError, match=r"row 7: the solution holds no \\boxed"):
        convert({"solution": "six"})


def test_integer_tasks_take_whole_numbers_only():
    assert convert({"answer": "1,080"}, "integer").answer == "1080"
    assert convert({"answer": -3}, "integer").answer == "-3"
    with pytest.raises(InputError, match="row 7: answer = '9 eggs'"):
        convert({"answer": "9 eggs"}, "integer")


@pytest.mark.parametrize("value", [True, None, {}, []])
def test_answers_that_are_none(value):
    with pytest.raises(InputError, match=r"row 7: (answer|solution)"):
        convert({"answer": value})


def test_later_field_names_stand_in_for_earlier_ones():
    assert convert({"problem": None, "question": "z", "answer": "1"}).prompt == "z"
