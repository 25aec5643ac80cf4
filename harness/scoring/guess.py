"""What answers drawn blindly would cover: the floor under every coverage curve.

A guess is one reference answer of the task, drawn with replacement, the problem's own left out.
Many samples cover easy answers by luck, so coverage is only worth what it has above this line at
the model's own number of finished samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from harness.records import InputError
from harness.scoring.clock import finished
from harness.scoring.table import FloatArray, SampleTable


def guess_on_clock(table: SampleTable, grid_s: FloatArray, gold_class_ids: Mapping[str, str]) -> FloatArray:
    """(P, G) chance that as many guesses as the model had finished samples by t hold the gold."""
    return guess_chance(hit_rates(table.problem_ids, gold_class_ids)[:, None], finished(table, grid_s))


def guess_at_k(problem_ids: Sequence[str], ks: Sequence[int], gold_class_ids: Mapping[str, str]) -> FloatArray:
    """(P, K) chance that k guesses hold the gold."""
    return guess_chance(hit_rates(problem_ids, gold_class_ids)[:, None], np.asarray(ks)[None, :])


def hit_rates(problem_ids: Sequence[str], gold_class_ids: Mapping[str, str]) -> FloatArray:
    """(P,) f_i: the fraction of the **other** problems whose gold lies in problem i's class; 0 for a lone problem."""
    for problem_id in problem_ids:
        if problem_id not in gold_class_ids:
            raise InputError(f"gold_class_ids: no class for problem {problem_id!r}; give the gold's class of every one")
    golds = [gold_class_ids[problem_id] for problem_id in problem_ids]
    size = Counter(golds)
    return np.array([(size[gold] - 1) / max(len(golds) - 1, 1) for gold in golds])


def guess_chance(hit_rate: FloatArray, m: ArrayLike) -> FloatArray:
    """``P_i(m) = 1 - (1 - f_i)^m``; broadcasts."""
    return 1.0 - (1.0 - hit_rate) ** np.asarray(m)
