"""Whether an answer matches its gold, and the class it votes in: two relations, kept apart.

``class_id`` is the exact canonical form of the answer alone, so equality of classes is transitive. ``matches``
is exact equality, by class or by proof, and then the tolerances that ``Policy`` names. Runs inside
the worker, since it may take long for some text; ``grader.py`` calls ``quick`` alone in the parent.
"""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction

import sympy

from harness.grading import tolerance
from harness.grading.canonical import Form, canonical
from harness.grading.limits import LimitExceeded, Unparsable, screen
from harness.grading.normalise import Normal, normalise, text_class
from harness.grading.policy import DEFAULT_POLICY, Policy
from harness.grading.prepare import prepare
from harness.grading.proof import same_value
from harness.grading.quick import Outcome
from harness.grading.render import bounded
from harness.grading.units import conversion


def matches(gold: str, answer: str, policy: Policy = DEFAULT_POLICY) -> bool:
    """Whether ``answer`` is right where ``gold`` is the reference; False too where a limit left it undecided."""
    return compare(gold, answer, policy).correct


def class_id(answer: str, policy: Policy = DEFAULT_POLICY) -> str | None:
    """The class ``answer`` votes in, or None where it is beyond a limit and has no vote."""
    return compare(answer, answer, policy).class_id


def compare(gold: str, answer: str, policy: Policy) -> Outcome:
    """The outcome for one answer. May take long for some text, and run out of memory (so: in a worker)."""
    prepare()
    try:
        screen(answer)
        screen(gold)
    except LimitExceeded:
        return Outcome("limit", None)
    gold_text, answer_text = normalise(gold, policy), normalise(answer, policy)
    factor = conversion(gold_text.unit, answer_text.unit)
    same_text = factor == 1 and text_class(gold_text) == text_class(answer_text)
    try:
        form = _form(answer_text, policy)
    except LimitExceeded:
        return Outcome("correct", text_class(answer_text)) if same_text else Outcome("limit", None)
    answer_class = bounded(form.class_id if form else text_class(answer_text))
    if same_text or (factor is not None and tolerance.same_choice(gold_text, answer_text)):
        return Outcome("correct", answer_class)
    try:
        gold_form = _form(gold_text, policy)
        if form is None or gold_form is None:
            return Outcome("parse_error", answer_class)
        correct = factor is not None and (
            _equal(gold_form, form, factor)
            or _tolerated(gold_text, answer_text, gold_form, form, policy)
            or _equal_in_natural_logs(gold_text, answer_text, policy)
        )
    except LimitExceeded:
        return Outcome("limit", None)
    return Outcome("correct" if correct else "incorrect", answer_class)


@functools.lru_cache(64)
def _form(normal: Normal, policy: Policy) -> Form | None:
    try:
        return canonical(normal, policy)
    except Unparsable:
        return None
    except (RecursionError, OverflowError) as error:
        raise LimitExceeded(f"beyond what can be computed: {type(error).__name__}") from error
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError, sympy.PolynomialError):
        return None  # sympy refuses some forms with whatever error is at hand; the answer is then text


def _equal(gold: Form, answer: Form, factor: Fraction = Fraction(1)) -> bool:
    """Exact equality, the answer's value times ``factor``."""
    if factor != 1:
        scaled = _scaled(answer, factor)
        return scaled is not None and gold.shape == "?" and same_value(gold.values[0], scaled)
    if gold.class_id == answer.class_id:
        return True
    if answer.class_id in gold.also or gold.class_id in answer.also:
        return True
    if not gold.shape or gold.shape != answer.shape or len(gold.values) != len(answer.values):
        return False
    if gold.shape.startswith("{"):
        return _equal_unordered(gold.values, answer.values) if set(gold.shape) <= set("{},?") else False
    return all(same_value(a, b) for a, b in zip(gold.values, answer.values, strict=True))


def _scaled(form: Form, factor: Fraction) -> sympy.Expr | None:
    if form.shape != "?":
        return None
    return form.values[0] * sympy.Rational(factor.numerator, factor.denominator)


def _equal_unordered(one: tuple[sympy.Expr, ...], other: tuple[sympy.Expr, ...]) -> bool:
    left = list(other)
    for value in one:
        match = next((i for i, candidate in enumerate(left) if same_value(value, candidate)), None)
        if match is None:
            return False
        del left[match]
    return True


def _tolerated(gold_text: Normal, answer_text: Normal, gold: Form, answer: Form, policy: Policy) -> bool:
    percent = tolerance.percent_factor(gold_text, answer_text, policy)
    if percent is not None and gold.shape == answer.shape == "?" and _equal(gold, answer, percent):
        return True
    if policy.ratio_as_quotient and {gold.shape, answer.shape} == {"?", "?:?"}:
        ratio, quotient = (gold, answer) if gold.shape == "?:?" else (answer, gold)
        return bool(ratio.values[1] != 0) and same_value(ratio.values[0] / ratio.values[1], quotient.values[0])
    if not gold.shape or gold.shape != answer.shape or gold.shape.startswith("{"):
        return False
    if not (tolerance.has_rounded(gold_text, policy) or tolerance.has_rounded(answer_text, policy)):
        return False
    return all(
        same_value(one, other)
        or tolerance.same_rounded(answer_leaf, one, policy)
        or tolerance.same_rounded(gold_leaf, other, policy)
        for one, other, gold_leaf, answer_leaf in zip(gold.values, answer.values, gold.texts, answer.texts, strict=True)
    )


def _equal_in_natural_logs(gold: Normal, answer: Normal, policy: Policy) -> bool:
    texts = tolerance.natural(gold, policy), tolerance.natural(answer, policy)
    if texts == (None, None):
        return False
    forms = [
        _form(dataclasses.replace(normal, text=text or normal.text), policy)
        for normal, text in zip((gold, answer), texts, strict=True)
    ]
    return forms[0] is not None and forms[1] is not None and _equal(forms[0], forms[1])
