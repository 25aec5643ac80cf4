"""The verdicts the parent process reaches without sympy and without a worker: equal text and common forms.

None means that a worker must decide. What is decided here comes out as the worker would decide it.
"""

from __future__ import annotations

import dataclasses
import functools

from harness.grading.fast import FastForm, fast_form
from harness.grading.limits import LimitExceeded, screen
from harness.grading.normalise import Normal, normalise
from harness.grading.policy import Policy
from harness.grading.render import bounded
from harness.grading.tolerance import may_apply
from harness.grading.units import conversion
from harness.records import Status


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict without its trajectory; ``class_id`` is None where the answer has no vote."""

    status: Status
    class_id: str | None

    @property
    def correct(self) -> bool:
        return self.status == "correct"


def quick(gold: str, answer: str, policy: Policy) -> Outcome | None:
    """The outcome where both sides are common forms or the answer is beyond a limit, else None."""
    try:
        answer_text, form = _read(answer, policy)
        gold_text, gold_form = _read(gold, policy)
    except LimitExceeded:
        return Outcome("limit", None)
    if form is None or gold_form is None:
        return None
    class_id = bounded(form.class_id)
    factor = conversion(gold_text.unit, answer_text.unit)
    if factor == 1 and (
        form.class_id == gold_form.class_id or form.class_id in gold_form.also or gold_form.class_id in form.also
    ):
        return Outcome("correct", class_id)
    return None if may_apply(gold_text, answer_text, policy) else Outcome("incorrect", class_id)


@functools.lru_cache(2048)
def _read(text: str, policy: Policy) -> tuple[Normal, FastForm | None]:
    screen(text)
    normal = normalise(text, policy)
    return normal, fast_form(normal, policy)
