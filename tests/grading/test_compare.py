"""Equality as mathematics: tables of equal and unequal answers, statuses, classes and the self-test."""

from __future__ import annotations

import dataclasses

import pytest

from harness.grading.compare import class_id, compare, matches
from harness.grading.policy import Policy
from harness.grading.quick import quick
from harness.records import InputError

DEFAULT = Policy()

EQUAL = [
    ("1/2", "0.5"),
    (r"\frac{1}{2}", r"\frac{12}{24}"),
    ("1/2", "50/100"),
    (r"\frac43", r"\dfrac{4}{3}"),
    (r"1\frac{4}{5}", "9/5"),
    (r"137 \frac{1}{2}", "137.5"),
    (".0000672", "6.72e-5"),
    (r"1.5 \times 10^3", "1500"),
    (r"\frac13", r"0.\overline{3}"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\sqrt{3}}{3}", r"1/\sqrt{3}"),
    (r"\sqrt{2+\sqrt{3}}", r"\frac{\sqrt{6}+\sqrt{2}}{2}"),
    (r"\sqrt[3]{\frac{5}{12}}", r"(\frac{5}{12})^{\frac{1}{3}}"),
    (r"2(3)", "6"),
    ("10", r"10\%"),
    ("18.90", r"\$18.90"),
    ("90", r"90^\circ"),
    ("864", r"864 \mbox{ inches}^2"),
    ("5.4", r"5.4 \text{ cents}"),
    ("12", r"12 \text{ m}"),
    ("10", "10 cm"),
    ("10080", r"10,\!080"),
    ("1000", "1,000"),
    ("1000", "1{,}000"),
    ("12345678", r"12\,345\,678"),
    (r"x^2+2x+1", "(x+1)^2"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"\sin^2 x + \cos^2 x", "1"),
    ("6-5i", "-5i+6"),
    (r"\frac{1}{1+i}", r"\frac{1-i}{2}"),
    (r"e^{i\pi}", "-1"),
    (r"\log_2 8", "3"),
    (r"\binom{5}{2}", "10"),
    (r"\frac{n!}{k!(n-k)!}", r"\frac{(n-1)!}{k!}\frac{n}{(n-k)!}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    ("(1,3]", r"1 < \lambda \le 3"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"x \le 5", r"5 \ge x"),
    ("x < 1", "-x > -1"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1,-2", "-2, 1"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"3, 5 \text{ and } 7", "3,5,7"),
    ("x=5", "5"),
    ("5", "5 = x"),
    ("y = 2x+3", "2x+3"),
    ("x = y + 2", "x - (y+2) = 0"),
    ("34x+45y-20z+100=0", "-34x-45y+20z-100=0"),
    ("(p,q,r)=(3,2,7)", "(3,2,7)"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\text{(C)}", "C"),
    (r"2\sqrt{3}", r"\text{(C) } 2\sqrt{3}"),
    (r"11\sqrt2", r"11\\sqrt{2}"),
    (r"4343_6", "4343_{6}"),
    (str(10**3000 + 1), str(10**3000 + 1) + ".0"),
]
UNEQUAL = [
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    ("1/2^{99}", "1/2^{98}"),
    ("4", "4t"),
    ("11", "11_2"),
    ("2516_8", "2516_9"),
    ("1/3", "0.3333333333"),
    ("(2,3)", "[2,3)"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", r"\{1,2\}"),
    (r"(0,9) \cup (9,36)", r"(-\infty,-9) \cup (9,36)"),
    (r"3\sqrt{13}", "313"),
    (r"1\frac{4}{5}", r"145^\circ"),
    ("-3", "3"),
    ("x+2n+1", "x+1"),
    ("2x+z=1", "1"),
    ("x > 5", "x < 5"),
    (r"\pm 2021", "2021"),
    ("odd", "even"),
    ("B", "A"),
    ("12", r"\{1,2\}"),
    ("2:30", "1:15"),
    (str(10**3000 + 1), str(10**3000)),
    ("1", "1.0001"),
    (r"\int_0^1 x dx", r"\int_0^1 y^2 dy"),
    ("he began 3 hours ago", "he begun 3 hours ago"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str) -> None:
    assert compare(gold, answer, DEFAULT).status == "correct"
    assert compare(answer, gold, DEFAULT).status == "correct"


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_unequal(gold: str, answer: str) -> None:
    assert not compare(gold, answer, DEFAULT).correct
    assert not compare(answer, gold, DEFAULT).correct


@pytest.mark.parametrize(
    "answers",
    [
        ["1/2", "0.5", r"\frac{12}{24}", "50/100", "x = 1/2", r"\frac12"],
        [r"2\sqrt{3}", r"\sqrt{12}", r"\frac{6}{\sqrt{3}}", r"\text{(C) } 2\sqrt{3}"],
        ["(x+1)^2", "x^2+2x+1", "1 + x(x+2)"],
        ["y = 2x+3", "2x - y + 3 = 0"],
    ],
)
def test_one_class_whatever_the_gold(answers: list[str]) -> None:
    classes = {compare(gold, answer, DEFAULT).class_id for answer in answers for gold in ("7", answers[0])}
    assert len(classes) == 1


def test_answers_that_vote_together_are_judged_together() -> None:
    for gold in ("2x+3", "y = 2x+3", "-y+2x+3=0"):
        assert compare(gold, "y=2x+3", DEFAULT).correct == compare(gold, "2x-y+3=0", DEFAULT).correct


@pytest.mark.parametrize(
    ("gold", "answer", "status", "voted"),
    [
        ("1", r"\int_0^1 x dx", "parse_error", True),
        (r"\int_0^1 x dx", r"\int_0^1 x\,dx", "correct", True),
        ("1", "!!!invalid!!!", "parse_error", True),
        ("1", "1/0", "parse_error", True),
        ("1", "2^{3", "parse_error", True),
        ("1", "west", "incorrect", True),
        ("1", "9" * 4_001, "limit", False),
        ("1", "x" * 5_001, "limit", False),
        ("1", "(" * 40 + "1" + ")" * 40, "limit", False),
        ("1", "10^{10^{10^{10}}}", "limit", False),
        ("1", "2^{100000}", "limit", False),
        ("1", "99999999!", "limit", False),
        ("1", "(x+1)^{1000}", "limit", False),
        ("1", r"\binom{10^{9}}{5}", "limit", False),
    ],
)
def test_status(gold: str, answer: str, status: str, voted: bool) -> None:
    outcome = compare(gold, answer, DEFAULT)
    assert (outcome.status, outcome.class_id is not None) == (status, voted)


@pytest.mark.parametrize(
    ("field", "gold", "answer"),
    [
        ("missing_units", "10", "10 cm"),
        ("missing_percent", "10", r"10\%"),
        ("missing_currency", "10", r"\$10"),
        ("missing_degrees", "10", r"10^\circ"),
        ("thousands_commas", "1000", "1,000"),
        ("value_after_choice", "10", r"(C) 10"),
        ("drop_assignment", "10", "x = 10"),
        ("unordered_lists", "4, 10, -2", "10, 4, -2"),
        ("percent_as_fraction", "0.335", r"33.5\%"),
        ("rounded_digits", r"\frac{1}{12}", "0.0833333333333333"),
        ("ratio_as_quotient", "7:32", r"\frac{7}{32}"),
        ("natural_log", r"\log x", r"\ln x"),
    ],
)
def test_each_policy_field_matters(field: str, gold: str, answer: str) -> None:
    assert matches(gold, answer)
    assert not matches(gold, answer, dataclasses.replace(DEFAULT, **{field: False}))


def test_every_policy_field_is_held_here() -> None:
    marks = [mark for mark in test_each_policy_field_matters.pytestmark if mark.name == "parametrize"]
    assert {row[0] for row in marks[0].args[1]} == set(Policy.__dataclass_fields__)


@pytest.mark.parametrize("digits", [1, 3, 101, -1])
def test_a_rounding_that_would_check_nothing_is_refused(digits: int) -> None:
    with pytest.raises(InputError, match="rounded_digits"):
        Policy(rounded_digits=digits)


@pytest.mark.parametrize(
    ("digits", "gold", "answer", "equal"),
    [
        (12, r"\sqrt{17}", "4.123105625617661", True),
        (12, r"\sqrt{17}", "4.12310562561", False),
        (12, r"\sqrt{17}", "4.123105625617662", True),
        (12, r"\sqrt{17}", "4.123105625717661", False),
        (12, r"\frac{1}{3}", "0." + "3" * 40, False),
        (12, "(1/3, 2)", "(0.333333333333333, 2)", True),
        (12, "x = 1/3", "x = 0.333333333333333", True),
        (12, "0.123456789012", "0.1234567890123", False),
        (12, r"\frac{1}{2^{99}}", "0.0000000000000000", False),
        (12, r"\frac{\pi}{2}", "1.570796326795", True),
        (12, r"\frac{\pi}{2}", "1.570796326796", False),
        (4, r"\sqrt{2}", "1.4142", True),
        (4, r"\frac{2}{3}", "0.667", False),
        (4, r"\frac{2}{3}", "0.6667", True),
    ],
)
def test_rounded_decimals(digits: int, gold: str, answer: str, equal: bool) -> None:
    policy = Policy(rounded_digits=digits)
    assert matches(gold, answer, policy) == equal
    assert matches(answer, gold, policy) == equal


def test_tolerance_never_joins_classes() -> None:
    for one, other in ((r"\frac{1}{12}", "0.0833333333333333"), (r"33.5\%", "0.335"), ("7:32", "7/32")):
        assert matches(one, other)
        assert class_id(one) != class_id(other)


@pytest.mark.parametrize(
    "answers",
    [
        ["5", "x = 5", "x=5.0", "5 = x", r"\text{(B) }5", "5 cm", r"5\%", r"5^\circ", r"\$5"],
        ["(1,2)", "x=1, y=2", "(x,y) = (1,2)", "y=2, x=1"],
        ["-2, 1", r"\{1,-2\}", "1 and -2", "x = 1, x = -2"],
        [r"[3,\infty)", r"x \ge 3", r"3 \le x", r"x \in [3,\infty)"],
    ],
)
def test_surface_forms_do_not_split_the_vote(answers: list[str]) -> None:
    assert len({class_id(answer) for answer in answers}) == 1


def test_classes_of_what_is_no_mathematics() -> None:
    assert class_id(r"\int_0^1 x\,dx") == class_id(r"$\int_0^1 x dx$") != class_id(r"\int_0^2 x dx")
    assert class_id("9" * 4_001) is None


@pytest.mark.parametrize("answer", ["5\x01cm\x02", "\x01halves\x02", "5\\text{ a\x02b}", "1\x012"])
def test_control_characters_are_no_marks(answer: str) -> None:
    assert quick("5", answer, DEFAULT) in (None, compare("5", answer, DEFAULT))
    assert compare(answer, answer, DEFAULT).correct
