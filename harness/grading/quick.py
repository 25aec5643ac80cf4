"""The verdicts the parent process reaches without sympy and without a worker: equal text and common forms.

None means that a worker must decide. What is decided here comes out as the worker would decide it.
"""

from __future__ import annotations

import dataclasses

from harness.grading.fast import fast_class
from harness.grading.limits import LimitExceeded, screen
from harness.grading.normalise import normalise
from harness.grading.policy import Policy
from harness.grading.render import bounded
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
        screen(answer)
        screen(gold)
    except LimitExceeded:
        return Outcome("limit", None)
    class_id = fast_class(normalise(answer, policy), policy)
    if class_id is None:
        return None
    gold_class = fast_class(normalise(gold, policy), policy)
    if gold_class is None:
        return None
    return Outcome("correct" if class_id == gold_class else "incorrect", bounded(class_id))
