"""Whether an answer equals its gold: first as text, then by class, then by proof that two values agree.

The verdict is a function of (gold, class of the answer) wherever classes exist, so answers that vote
together are judged together. Runs inside the worker; ``grader.py`` calls ``quick`` alone in the parent.
"""

from __future__ import annotations

import dataclasses

import sympy

from harness.grading.canonical import Form, canonical
from harness.grading.limits import LimitExceeded, Unparsable, screen
from harness.grading.normalise import Normal, normalise, text_class
from harness.grading.policy import Policy
from harness.grading.quick import Outcome
from harness.grading.render import bounded

_DIGITS = 30
"""Decimal digits at which two values must agree before a proof is tried."""
_POINTS = (sympy.Rational(7, 5), sympy.Rational(17, 11), sympy.Rational(23, 7))


def compare(gold: str, answer: str, policy: Policy) -> Outcome:
    """The outcome for one answer. Raises nothing for any text; may take long for some (so: in a worker)."""
    try:
        screen(answer)
        screen(gold)
    except LimitExceeded:
        return Outcome("limit", None)
    gold_text, answer_text = normalise(gold, policy), normalise(answer, policy)
    same_text = text_class(gold_text) == text_class(answer_text)
    try:
        form = _form(answer_text, policy)
    except LimitExceeded:
        return Outcome("correct", text_class(answer_text)) if same_text else Outcome("limit", None)
    class_id = bounded(form.class_id if form else text_class(answer_text))
    if same_text:
        return Outcome("correct", class_id)
    try:
        gold_form = _form(gold_text, policy)
    except LimitExceeded:
        return Outcome("limit", None)
    if form is None or gold_form is None:
        return Outcome("parse_error", class_id)
    return Outcome("correct" if _equal(gold_form, form) else "incorrect", class_id)


def _form(normal: Normal, policy: Policy) -> Form | None:
    try:
        return canonical(normal, policy)
    except Unparsable:
        return None
    except (RecursionError, MemoryError, OverflowError) as error:
        raise LimitExceeded(f"beyond what can be computed: {type(error).__name__}") from error
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError, sympy.PolynomialError):
        return None  # sympy refuses some forms with whatever error is at hand; the answer is then text


def _equal(gold: Form, answer: Form) -> bool:
    if gold.class_id == answer.class_id:
        return True
    if answer.class_id in gold.right_sides or gold.class_id in answer.right_sides:
        return True
    if not gold.shape or gold.shape != answer.shape or len(gold.values) != len(answer.values):
        return False
    if gold.shape.startswith("{"):
        return _equal_unordered(gold.values, answer.values) if set(gold.shape) <= set("{},?") else False
    return all(_same_value(a, b) for a, b in zip(gold.values, answer.values, strict=True))


def _equal_unordered(one: tuple[sympy.Expr, ...], other: tuple[sympy.Expr, ...]) -> bool:
    left = list(other)
    for value in one:
        match = next((i for i, candidate in enumerate(left) if _same_value(value, candidate)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_value(one: sympy.Expr, other: sympy.Expr) -> bool:
    if one == other:
        return True
    if one.is_Rational and other.is_Rational:
        return False
    if one in (sympy.oo, -sympy.oo) or other in (sympy.oo, -sympy.oo):
        return False
    difference = one - other
    if not all(_vanishes(difference, shift) for shift in range(2 if difference.free_symbols else 1)):
        return False
    return bool(sympy.simplify(difference) == 0)


def _vanishes(difference: sympy.Expr, shift: int) -> bool:
    """Whether the difference is zero to ``_DIGITS`` at one point: cheap, and settles all but equal values."""
    symbols = sorted(difference.free_symbols, key=str)
    at = {symbol: _POINTS[(i + shift) % len(_POINTS)] + i for i, symbol in enumerate(symbols)}
    try:
        value = difference.subs(at).evalf(_DIGITS)
        return bool(abs(value) < sympy.Rational(1, 10 ** (_DIGITS // 2)))
    except (TypeError, ValueError, ArithmeticError):
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class _SelfTest:
    gold: str
    answer: str
    status: str


SELF_TEST = (
    _SelfTest("\\frac{1}{2}", "0.5", "correct"),
    _SelfTest("2\\sqrt{3}", "\\sqrt{12}", "correct"),
    _SelfTest("(x+1)^2", "x^2+2x+1", "correct"),
    _SelfTest("(2,3)", "[2,3)", "incorrect"),
    _SelfTest("\\frac{1}{3}", "0.333", "incorrect"),
    _SelfTest("11", "11_2", "incorrect"),
)


def self_test() -> str | None:
    """None, or what known answer the installed parser gets wrong (a missing runtime makes all of them fail)."""
    for case in SELF_TEST:
        outcome = compare(case.gold, case.answer, Policy())
        if outcome.status != case.status:
            return f"{case.answer!r} against {case.gold!r} came out {outcome.status}, not {case.status}"
    return None
