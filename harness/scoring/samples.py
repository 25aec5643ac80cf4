"""Metrics without a clock: pass@k and maj@k, from runs in which every started sample ended.

A run cut at its deadline holds too many short chains, so it gives bounds and not a point: what did
not finish is taken once for wrong and once for right. Unscored samples count as not solved and do
not vote. Values are per problem, shape (problems, ks). Estimator: Chen et al. 2021, arXiv 2107.03374.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import InputError
from harness.scoring.table import NO_VOTE, BoolArray, FloatArray, IntArray, SampleTable

SUBSETS = 200


@dataclass(frozen=True, eq=False)
class SampleMetric:
    """Per problem and k, (P, K): ``low`` and ``high`` are the same array where the run gives a point."""

    ks: tuple[int, ...]
    low: FloatArray
    high: FloatArray

    @property
    def is_point(self) -> bool:
        return self.low is self.high


def pass_at_k(table: SampleTable, ks: Sequence[int], drained: bool) -> SampleMetric:
    """``1 - C(n - c, k) / C(n, k)`` for each problem: n samples that ended (late and broken ones too), c correct.

    Not drained: n = started, with the unfinished all wrong (``low``) and all right (``high``).
    InputError for k above ``largest_k``, or for a run said to be drained whose log was cut.
    """
    ks = checked_ks(table, ks, drained)
    correct = np.bincount(table.row[table.finished & table.correct], minlength=table.n_problems)
    if drained:
        # A chain that broke solved nothing: it stays in the denominator.
        broken = np.bincount(table.row[table.finish == "error"], minlength=table.n_problems)
        point = 1.0 - failure_shares(table.n_finished + broken, correct, ks).T
        return SampleMetric(ks, point, point)
    missing = table.n_started - table.n_finished
    low = 1.0 - failure_shares(table.n_started, correct, ks).T
    high = 1.0 - failure_shares(table.n_started, correct + missing, ks).T
    return SampleMetric(ks, low, high)


def majority_at_k(
    table: SampleTable, ks: Sequence[int], drained: bool, subsets: int = SUBSETS, seed: int = 0
) -> SampleMetric:
    """Mean share of right classes among the leaders of ``subsets`` (at least 100) random k-subsets, seeded.

    One permutation gives the subsets of every k (its prefixes). Not drained: an unfinished sample
    in a subset adds its vote to the best wrong class (``low``) or to the best right one (``high``).
    """
    ks = checked_ks(table, ks, drained)
    if subsets < 100:
        raise InputError(f"subsets = {subsets}: must be at least 100")
    rng = np.random.default_rng(seed)
    right = table.right_classes(table.finished)
    low = np.zeros((table.n_problems, len(ks)))
    high = np.zeros((table.n_problems, len(ks)))
    for i in range(table.n_problems):
        first_code, end_code = table.class_start[i], table.class_start[i + 1]
        n_classes = end_code - first_code
        mine = slice(table.row_start[i], table.row_start[i + 1])
        code = table.class_code[mine][table.finished[mine]]
        # Labels: classes 0..C-1, then "no vote" C, then "unfinished" C + 1.
        label = np.where(code == NO_VOTE, n_classes, code - first_code)
        if not drained:
            label = np.append(label, np.full(table.n_started[i] - len(label), n_classes + 1))
        low[i], high[i] = _subset_shares(label, right[first_code:end_code], ks, subsets, rng)
    return SampleMetric(ks, low, low if drained else high)


def failure_shares(n: IntArray, c: IntArray, ks: Sequence[int]) -> FloatArray:
    """(K, ...) ``C(n - c, k) / C(n, k)`` as the product over j < k of (n - c - j) / (n - j); exact 0 and 1 at the ends.

    ``n`` and ``c`` of one shape, every k at most min(n).
    """
    share = np.ones(np.shape(n))
    shares = {}
    wanted = set(ks)
    for j in range(max(ks)):
        share = share * (np.maximum(n - c - j, 0) / (n - j))
        if j + 1 in wanted:
            shares[j + 1] = share
    return np.stack([shares[k] for k in ks])


def largest_k(table: SampleTable, drained: bool) -> int:
    """The largest k a run supports: the fewest samples finished (drained) or started (not) for a problem."""
    return int((table.n_finished if drained else table.n_started).min())


def k_grid(limit: int) -> tuple[int, ...]:
    """1, 2, 4, ... and ``limit`` itself; empty for 0."""
    return tuple(sorted({2**e for e in range(limit.bit_length())} | {limit})) if limit else ()


def checked_ks(table: SampleTable, ks: Sequence[int], drained: bool) -> tuple[int, ...]:
    if drained and not table.drained:
        raise InputError(f"drained = true: {table.model} has samples cut at the deadline; score it as not drained")
    limit = largest_k(table, drained)
    for k in ks:
        if not 1 <= k <= limit:
            raise InputError(f"k = {k}: must lie in 1..{limit}, the fewest samples of a problem of {table.model}")
    if not ks:
        raise InputError("ks = []: give at least one k")
    return tuple(ks)


def _subset_shares(
    label: IntArray, right: BoolArray, ks: tuple[int, ...], subsets: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """(K,) lower and upper mean share over random subsets of one problem's labels."""
    n_classes = len(right)
    width = n_classes + 2
    order = rng.permuted(np.broadcast_to(label, (subsets, len(label))), axis=1)
    cell = order + width * np.arange(subsets)[:, None]
    votes = np.zeros((subsets, width), dtype=np.int64)
    low, high = np.zeros(len(ks)), np.zeros(len(ks))
    taken = 0
    for at, k in sorted(enumerate(ks), key=lambda pair: pair[1]):
        votes += np.bincount(cell[:, taken:k].ravel(), minlength=subsets * width).reshape(subsets, width)
        taken = k
        unfinished = votes[:, -1]
        low[at] = _share(votes[:, :n_classes], right, to_wrong=unfinished).mean()
        high[at] = low[at] if not unfinished.any() else _share(votes[:, :n_classes], right, to_right=unfinished).mean()
    return low, high


def _share(
    votes: IntArray, right: BoolArray, to_wrong: IntArray | None = None, to_right: IntArray | None = None
) -> FloatArray:
    """(S,) share of the leading classes that are right, after extra votes for the best wrong or right class."""
    wrong = np.column_stack([votes[:, ~right], np.zeros(len(votes), dtype=np.int64)])
    good = np.column_stack([votes[:, right], np.zeros(len(votes), dtype=np.int64)])
    for side, extra in ((wrong, to_wrong), (good, to_right)):
        if extra is not None:
            side[np.arange(len(side)), side.argmax(axis=1)] += extra
    most = np.maximum(wrong.max(axis=1), good.max(axis=1))[:, None]
    n_wrong = ((wrong == most) & (most > 0)).sum(axis=1)
    n_good = ((good == most) & (most > 0)).sum(axis=1)
    return n_good / np.maximum(n_good + n_wrong, 1)
