"""Choosing by a reward model: the best-scored sample's answer (naive), or the class with the largest sum (weighted).

A sample takes part as it does in the vote: it is scored by the grader and has an answer; and it has a reward. Ties go
to the lowest sample number: of the samples (naive), or of the classes' lowest-numbered samples (weighted). Without
anybody taking part a problem is not solved. Sums closer than 1e-9 of the larger one are a tie, so that the order of
addition decides nothing.

The clock. ``apart``: a sample counts from its own finishing second, and the reward model's seconds are told beside.
On the clock: one device does both, sampling stands still while a reward is computed, and every sample that finishes
is scored at once. So a sample counts from its finishing second plus the reward seconds of all samples of its clock that
finished no later than it, itself and those without an answer included (of its problem on clock ``problem``, of all
problems on clock ``task``). Coverage and the vote need no reward and stay where they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import comb

import numpy as np

from harness.scoring.cost import Clock
from harness.scoring.samples import SUBSETS, SampleMetric, checked_ks
from harness.scoring.table import NO_VOTE, BoolArray, FloatArray, IntArray, SampleTable

TIE = 1e-9
_NONE = np.iinfo(np.int64).max


def takes_part(table: SampleTable) -> BoolArray:
    """(N,) finished, with an answer to vote for and a reward; late ones included."""
    return table.finished & (table.class_code != NO_VOTE) & np.isfinite(_rewards(table))


def counts_from_s(table: SampleTable, clock: Clock, on_clock: bool) -> FloatArray:
    """(N,) second from which a sample counts for a choice by reward, +inf for what never does; see the module."""
    if not on_clock:
        return table.on_clock_s
    assert table.reward_s is not None, "asked of tables with rewards alone"
    own_clock = table.row if clock == "problem" else np.zeros_like(table.row)
    counts = table.on_clock_s.copy()
    for c in np.unique(own_clock):
        mine = np.flatnonzero((own_clock == c) & table.on_clock)
        order = mine[np.argsort(table.on_clock_s[mine], kind="stable")]
        finished_s = table.on_clock_s[order]
        paid = np.cumsum(table.reward_s[order])
        counts[order] += paid[np.searchsorted(finished_s, finished_s, side="right") - 1]
    return counts


def naive(table: SampleTable, grid_s: FloatArray, counts_s: FloatArray) -> FloatArray:
    """(P, G) 1 where the best-scored sample that counts by t is correct."""
    value = np.zeros((table.n_problems, len(grid_s)))
    part, due = takes_part(table), np.searchsorted(grid_s, counts_s, side="left")
    for i in range(table.n_problems):
        mine = _rows(table, i, part & (due < len(grid_s)))
        if not len(mine):
            continue
        ranked = mine[_best_first(table, mine)]
        best = np.full(len(grid_s), len(ranked))
        np.minimum.at(best, due[ranked], np.arange(len(ranked)))
        best = np.minimum.accumulate(best)
        value[i] = np.append(table.correct[ranked], False)[best]
    return value


def weighted(table: SampleTable, grid_s: FloatArray, counts_s: FloatArray) -> FloatArray:
    """(P, G) 1 where the class with the largest sum of rewards by t is right (as in the vote: by its lowest sample)."""
    value = np.zeros((table.n_problems, len(grid_s)))
    part, due = takes_part(table), np.searchsorted(grid_s, counts_s, side="left")
    right = table.right_classes(table.on_clock)
    for i in range(table.n_problems):
        mine = _rows(table, i, part & (due < len(grid_s)))
        if not len(mine):
            continue
        classes = slice(table.class_start[i], table.class_start[i + 1])
        shape = len(grid_s), classes.stop - classes.start
        cell = due[mine], table.class_code[mine] - classes.start
        total, lowest = np.zeros(shape), np.full(shape, _NONE)
        np.add.at(total, cell, _rewards(table)[mine])
        np.minimum.at(lowest, cell, table.sample[mine])
        chosen = _choose(np.cumsum(total, axis=0), np.minimum.accumulate(lowest, axis=0))
        value[i] = np.append(right[classes], False)[chosen]
    return value


def naive_at_k(table: SampleTable, ks: Sequence[int], drained: bool) -> SampleMetric:
    """Chance that the best-scored sample of a random k-subset is correct; exact.

    Not drained: a subset that holds an unfinished sample is taken for wrong (``low``) and for right (``high``): nothing
    is known of that sample's reward.
    """
    ks = checked_ks(table, ks, drained)
    low, high = np.zeros((table.n_problems, len(ks))), np.zeros((table.n_problems, len(ks)))
    part = takes_part(table)
    for i in range(table.n_problems):
        mine = _rows(table, i, part)
        correct = table.correct[mine[_best_first(table, mine)]]
        unfinished = 0 if drained else int(table.n_started[i] - table.n_finished[i])
        n = int(table.n_finished[i]) + unfinished
        for at, k in enumerate(ks):
            low[i, at] = _best_is(n, n - unfinished, k, len(correct)) @ correct
            high[i, at] = low[i, at] + 1 - comb(n - unfinished, k) / comb(n, k)
    return SampleMetric(ks, low, low if drained else high)


def weighted_at_k(
    table: SampleTable, ks: Sequence[int], drained: bool, subsets: int = SUBSETS, seed: int = 0
) -> SampleMetric:
    """Share of k-subsets in which the class with the largest sum of rewards is right.

    Over all subsets where there are no more than ``subsets``, else over so many random ones, seeded. Not drained: as
    ``naive_at_k``.
    """
    ks = checked_ks(table, ks, drained)
    rng = np.random.default_rng(seed)
    low, high = np.zeros((table.n_problems, len(ks))), np.zeros((table.n_problems, len(ks)))
    right, part = table.right_classes(table.finished), takes_part(table)
    for i in range(table.n_problems):
        finished = _rows(table, i, table.finished)
        n = len(finished) if drained else int(table.n_started[i])
        order = rng.permuted(np.broadcast_to(np.arange(n), (subsets, n)), axis=1)
        classes = slice(table.class_start[i], table.class_start[i + 1])
        label = np.full(n, classes.stop - classes.start)  # no part in it
        label[: len(finished)] = np.where(part[finished], table.class_code[finished] - classes.start, label[0])
        reward, sample = np.zeros(n), np.full(n, _NONE)
        reward[: len(finished)] = np.where(part[finished], _rewards(table)[finished], 0.0)
        sample[: len(finished)] = table.sample[finished]
        for at, k in enumerate(ks):
            chosen = _subsets(n, k, order)
            solved = _solved(label[chosen], reward[chosen], sample[chosen], right[classes])
            complete = (chosen < len(finished)).all(axis=1)
            low[i, at] = (solved & complete).mean()
            high[i, at] = (solved | ~complete).mean()
    return SampleMetric(ks, low, low if drained else high)


def _best_is(n: int, m: int, k: int, ranks: int) -> FloatArray:
    """(ranks,) chance that a k-subset of n lies within m of them and holds the r-th best, none before it.

    That is C(m - 1 - r, k - 1) / C(n, k), the first one exact and each further one by the ratio to the one before.
    """
    r = np.arange(ranks - 1)
    ratio = np.maximum(m - r - k, 0) / np.maximum(m - r - 1, 1)
    first = comb(m - 1, k - 1) / comb(n, k) if m else 0.0
    return first * np.cumprod(np.append(1.0, ratio))[:ranks]


def _subsets(n: int, k: int, order: IntArray) -> IntArray:
    """(S, k) all k-subsets of n, or the first k of each row of ``order``."""
    if comb(n, k) <= len(order):
        return np.array(list(itertools.combinations(range(n), k)))
    return order[:, :k]


def _solved(label: IntArray, reward: FloatArray, sample: IntArray, right: BoolArray) -> BoolArray:
    """(S,) whether the weighted choice of each subset (S, k) is right; the label one past the classes takes no part."""
    shape = len(label), len(right) + 1
    cell = np.arange(len(label))[:, None], label
    total, lowest = np.zeros(shape), np.full(shape, _NONE)
    np.add.at(total, cell, reward)
    np.minimum.at(lowest, cell, sample)
    return np.append(right, False)[_choose(total[:, :-1], lowest[:, :-1])]


def _choose(total: FloatArray, lowest: IntArray) -> IntArray:
    """(R,) the class with the largest ``total`` (R, C), of several the one with the ``lowest`` sample; C for none.

    A class is there once it has a lowest sample.
    """
    if total.shape[1] == 0:
        return np.zeros(len(total), dtype=np.int64)
    there = lowest < _NONE
    total = np.where(there, total, -np.inf)
    most = total.max(axis=1, keepdims=True)
    leads = there & (total >= most - TIE * np.abs(np.where(np.isfinite(most), most, 0.0)))
    first = np.where(leads, lowest, _NONE)
    return np.where(there.any(axis=1), first.argmin(axis=1), total.shape[1])


def _best_first(table: SampleTable, rows: IntArray) -> IntArray:
    """Order of ``rows``: highest reward first, lowest sample number among equals."""
    return np.lexsort((table.sample[rows], -_rewards(table)[rows]))


def _rows(table: SampleTable, i: int, counted: BoolArray) -> IntArray:
    return table.row_start[i] + np.flatnonzero(counted[table.row_start[i] : table.row_start[i + 1]])


def _rewards(table: SampleTable) -> FloatArray:
    assert table.reward is not None, "asked of tables with rewards alone"
    return table.reward
