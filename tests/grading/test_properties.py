"""What holds for every answer: equality is reflexive and symmetric, one class is one value, and both paths agree.

The answers are random; what each is worth is computed beside it by floating point, with none of the grader's code.
"""

from __future__ import annotations

import cmath
import dataclasses

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.grading.canonical import canonical
from harness.grading.compare import class_id, compare, matches
from harness.grading.fast import fast_form
from harness.grading.limits import LimitExceeded, Unparsable
from harness.grading.normalise import normalise
from harness.grading.policy import Policy
from harness.grading.quick import quick

DEFAULT = Policy()
EXACT = Policy(percent_as_fraction=False, rounded_digits=0, ratio_as_quotient=False, natural_log=False)
AT = {"x": 1.37, "y": -0.61, "n": 2.23}
"""Where expressions with unknowns are evaluated."""


@dataclasses.dataclass(frozen=True, slots=True)
class Expression:
    """``text`` is LaTeX; ``value`` what it comes to at ``AT``, by floating point and none of the grader's code."""

    text: str
    value: complex


def _leaf(text: str, value: complex) -> Expression:
    return Expression(text, value)


INTEGERS = st.integers(0, 60).map(lambda n: _leaf(str(n), n))
DECIMALS = st.tuples(st.integers(0, 30), st.integers(0, 99)).map(
    lambda p: _leaf(f"{p[0]}.{p[1]:02d}", p[0] + p[1] / 100)
)
ROOTS = st.integers(0, 200).map(lambda n: _leaf(rf"\sqrt{{{n}}}", n**0.5))
SYMBOLS = st.sampled_from([_leaf(name, value) for name, value in AT.items()])
CONSTANTS = st.sampled_from([_leaf(r"\pi ", cmath.pi), _leaf("i", 1j)])
LEAVES = st.one_of(INTEGERS, DECIMALS, ROOTS, SYMBOLS, CONSTANTS)


def _sum(parts: tuple[Expression, Expression], sign: str) -> Expression:
    one, other = parts
    return Expression(f"({one.text}{sign}{other.text})", one.value + (other.value if sign == "+" else -other.value))


def _product(parts: tuple[Expression, Expression], sign: str) -> Expression:
    one, other = parts
    return Expression(f"{one.text}{sign}{other.text}", one.value * other.value)


def _bracketed(part: Expression) -> Expression:
    return Expression(f"({part.text})", part.value)


def _quotient(parts: tuple[Expression, int]) -> Expression:
    above, below = parts
    return Expression(rf"\frac{{{above.text}}}{{{below}}}", above.value / below)


def _power(parts: tuple[Expression, int]) -> Expression:
    base, exponent = parts
    return Expression(f"({base.text})^{{{exponent}}}", base.value**exponent)


def _negative(part: Expression) -> Expression:
    return Expression(f"(-{part.text})", -part.value)


def _extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    bracketed = inner.map(_bracketed)
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: _sum(p, "+")),
        st.tuples(inner, bracketed).map(lambda p: _sum(p, "-")),
        st.tuples(bracketed, bracketed).map(lambda p: _product(p, "")),
        st.tuples(bracketed, bracketed).map(lambda p: _product(p, r"\cdot ")),
        st.tuples(inner, st.integers(1, 12)).map(_quotient),
        st.tuples(inner, st.integers(1, 3)).map(_power),
        bracketed.map(_negative),
    )


EXPRESSIONS = st.recursive(LEAVES, _extend, max_leaves=5)
"""Polynomials in three unknowns with radicals, pi and i."""
NUMBERS = st.recursive(st.one_of(INTEGERS, DECIMALS, ROOTS), _extend, max_leaves=4)
SHAPES = st.sampled_from(["{0}", "({0},{1})", "[{0},{1})", "({0}, {1}, {0})", r"\{{{0},{1}\}}", "{0}, {1}", "x={0}"])
ANSWERS = st.tuples(SHAPES, EXPRESSIONS, EXPRESSIONS).map(lambda p: p[0].format(p[1].text, p[2].text))
PIECES = (
    r"\frac \sqrt { } 1 2 3 x ( ) , \pi \text{ \cup \infty = \pm ^ _ \le - \% ^\circ cm \left \{ \} & \\ \log ! $ ; : ."
)
TEXTS = st.one_of(
    ANSWERS,
    st.text(alphabet=st.sampled_from(list("0123456789xyzabei+-*/^_(){}[].,:;=<>|!%$\\ ")), max_size=25),
    st.lists(st.sampled_from([*PIECES.split(), " "]), max_size=12).map("".join),
)
"""Answers, and text that is almost one."""
SMALL = st.integers(0, 60)
COMMON = st.one_of(
    st.integers(-60, 60).map(str),
    st.integers(10**5, 10**40).map(str),
    st.tuples(st.integers(-60, 60), st.integers(0, 400)).map(lambda p: f"{p[0]}/{p[1]}"),
    st.tuples(st.integers(-60, 60), st.integers(-40, 40)).map(lambda p: rf"-\dfrac{{{p[0]}.5}}{{{p[1]}}}"),
    st.tuples(SMALL, st.integers(1, 8), st.integers(9, 40)).map(lambda p: rf"{p[0]}\frac{{{p[1]}}}{{{p[2]}}}"),
    st.tuples(SMALL, st.integers(0, 999)).map(lambda p: rf"{p[0]}.1\overline{{{p[1]}}}"),
    st.tuples(SMALL, st.integers(0, 400), SMALL).map(lambda p: rf"\frac{{-{p[0]}\sqrt{{{p[1]}}}}}{{{p[2]}}}"),
    st.sampled_from([r"\infty", r"-\infty", "+7", ".5", "12.", "101_2", "x_1", "2x_{12}+1", r"3\pi", r"\alpha\beta"]),
)
COMMON_SHAPES = st.sampled_from(
    ["{0}", "({0},{1})", "[{0},{1})", r"\{{{0},{1}\}}", "{0}, {1}", r"\left({0}\right)", "x = {0}", "x={0}, y={1}"]
)
STRUCTURES = st.tuples(COMMON_SHAPES, COMMON, COMMON).map(lambda p: p[0].format(p[1], p[2]))
EQUATIONS = st.tuples(EXPRESSIONS, EXPRESSIONS).map(lambda p: f"{p[0].text} = {p[1].text}")


@settings(max_examples=120, deadline=None)
@given(st.one_of(STRUCTURES, ANSWERS, EQUATIONS, TEXTS))
def test_fast_and_sympy_agree_on_random_answers(text: str) -> None:
    normal = normalise(text, DEFAULT)
    fast = fast_form(normal, DEFAULT)
    if fast is None:
        return
    slow = canonical(normal, DEFAULT)
    assert (slow.class_id, slow.also) == (fast.class_id, fast.also)


@settings(max_examples=80, deadline=None)
@given(st.one_of(STRUCTURES, ANSWERS), st.one_of(STRUCTURES, ANSWERS))
def test_a_quick_verdict_is_the_one_a_worker_would_give(gold: str, answer: str) -> None:
    for pair in ((gold, answer), (gold, gold)):
        outcome = quick(*pair, DEFAULT)
        assert outcome in (None, compare(*pair, DEFAULT)), pair


@settings(max_examples=60, deadline=None)
@given(STRUCTURES)
def test_common_answers_are_decided_here(text: str) -> None:
    normal = normalise(text, DEFAULT)
    if fast_form(normal, DEFAULT) is None:
        with pytest.raises((Unparsable, LimitExceeded)):  # division by zero and the like: left to the other path
            canonical(normal, DEFAULT)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_every_answer_equals_itself(text: str) -> None:
    assume(normalise(text, DEFAULT).text)
    outcome = compare(text, text, DEFAULT)
    assert outcome.status in ("correct", "limit")
    assert class_id(text) == outcome.class_id


@settings(max_examples=80, deadline=None)
@given(TEXTS, TEXTS)
def test_exact_equality_is_symmetric(one: str, other: str) -> None:
    assert matches(one, other, EXACT) == matches(other, one, EXACT)


@settings(max_examples=80, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_one_class_is_one_value(one: Expression, other: Expression) -> None:
    same = class_id(one.text) == class_id(other.text)
    assert not same or cmath.isclose(one.value, other.value, rel_tol=1e-9, abs_tol=1e-7)


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_rearranging_keeps_the_class(one: Expression, other: Expression) -> None:
    a, b = one.text, other.text
    assert class_id(f"({a})+({b})") == class_id(f"({b})+({a})")
    assert class_id(f"({a})({b})") == class_id(f"({b})({a})")
    assert class_id(f"({a})^{{2}}-({b})^{{2}}") == class_id(f"({a}-({b}))({a}+({b}))")


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS, st.integers(1, 10**6))
def test_another_value_is_another_class_and_no_match(part: Expression, by: int) -> None:
    other = rf"{part.text}+\frac{{1}}{{{by}}}"
    assert class_id(part.text) != class_id(other)
    assert not matches(part.text, other)
