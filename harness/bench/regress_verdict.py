"""Whether a figure got worse: ``ok``, ``regressed`` or ``not measurable``, from two samples of it and a least effect.

Everything is a ratio, taken in logarithms. A side stands at its median, between its 20th and 80th percentile. It
regressed if the medians part by the least effect and the sides do not overlap; it is ok if even the worst
reading of both spreads stays below the least effect; in between nothing can be said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from harness.records import InputError

Word = Literal["ok", "regressed", "not measurable"]


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """``change``: head's median over base's, less 1; ``worst`` and ``best``: the least and most favourable ratio of
    the spreads, less 1; None where no side was measured twice."""

    word: Word
    change: float
    worst: float | None
    best: float | None


def decide(base: Sequence[float], head: Sequence[float], least: float, higher_is_better: bool = True) -> Verdict:
    """Of positive figures measured once or more a side; ``least`` 0.03 is 3 %.

    A side measured once is given the other's spread: they ran alike. InputError for what cannot be compared.
    """
    if not 0 < least < 1:
        raise InputError(f"--min-effect {least:g}: must lie between 0 and 1; 0.03 is 3 %")
    if not base or not head or min(*base, *head) <= 0:
        raise InputError("a figure was not measured on both sides, or is not above 0; nothing to compare")
    sign = 1.0 if higher_is_better else -1.0
    base_low, base_middle, base_high = _spread(sign * np.log(base))
    head_low, head_middle, head_high = _spread(sign * np.log(head))
    change = math.expm1(sign * (head_middle - base_middle))
    if len(base) == len(head) == 1:
        return Verdict("not measurable", change, None, None)
    if len(base) == 1:
        base_low, base_high = base_middle + head_low - head_middle, base_middle + head_high - head_middle
    if len(head) == 1:
        head_low, head_high = head_middle + base_low - base_middle, head_middle + base_high - base_middle
    effect = math.log1p(least)
    worst_loss, least_loss = base_high - head_low, base_low - head_high
    if base_middle - head_middle >= effect and least_loss > 0:
        word: Word = "regressed"
    else:
        word = "ok" if worst_loss < effect else "not measurable"
    return Verdict(word, change, math.expm1(-sign * worst_loss), math.expm1(-sign * least_loss))


def _spread(logs: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.percentile(logs, (20, 50, 80))
    return float(low), float(middle), float(high)
