"""Metrics by the clock: what the system had by second t, refill included.

There is no censoring: a sample unfinished at t has not solved anything at t, and one that is
``late`` never will. Each function returns values per problem, shape (problems, grid), on a rising
grid of seconds; the metric is their mean over problems. Definitions: ``docs/log.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.records import InputError
from harness.scoring.samples import failure_shares
from harness.scoring.table import NO_VOTE, BoolArray, FloatArray, IntArray, SampleTable

IN_FLIGHT_WARNING = 0.2


def coverage(table: SampleTable, grid_s: FloatArray) -> FloatArray:
    """(P, G) 1 where a correct sample had finished by t: ``Cov(t) = mean_i 1{C_i(t) > 0}``."""
    return (first_correct_s(table)[:, None] <= grid_s).astype(np.float64)


def first_correct_s(table: SampleTable) -> FloatArray:
    """(P,) second of the first correct sample of each problem, +inf for none."""
    first = np.full(table.n_problems, np.inf)
    np.minimum.at(first, table.row[table.correct], table.on_clock_s[table.correct])
    return first


def coverage_k(table: SampleTable, grid_s: FloatArray, k: int) -> FloatArray:
    """(P, G) ``1 - C(n - C_i(t), k) / C(n, k)`` with n the number **started**, never the number finished.

    InputError where the samples of a problem did not start together, or k exceeds the samples started.
    """
    if not started_together(table):
        raise InputError(
            f"cov_k of {table.model}: samples of a problem started at different times (slots were refilled); "
            "sample with batch >= samples_per_problem, or read coverage"
        )
    if not 1 <= k <= table.n_started.min():
        raise InputError(f"k = {k}: must lie in 1..{table.n_started.min()}, the fewest samples started for a problem")
    n = np.broadcast_to(table.n_started[:, None], (table.n_problems, len(grid_s)))
    return 1.0 - failure_shares(n, finished(table, grid_s, table.correct), [k])[0]


def started_together(table: SampleTable, tolerance_s: float = 1e-3) -> bool:
    """Whether all started samples of each problem were submitted within ``tolerance_s`` of one another."""
    if len(table.row) < table.n_started.sum():
        return False
    first = np.full(table.n_problems, np.inf)
    last = np.full(table.n_problems, -np.inf)
    np.minimum.at(first, table.row, table.t_submit)
    np.maximum.at(last, table.row, table.t_submit)
    return bool((last - first <= tolerance_s).all())


def majority(table: SampleTable, grid_s: FloatArray) -> FloatArray:
    """(P, G) ``1{gold in A_i(t)} / |A_i(t)|``, A_i(t) the answer classes with most votes by t; 0 without a vote.

    A class is right if its lowest-numbered sample on the clock is correct.
    """
    share = np.zeros((table.n_problems, len(grid_s)))
    right = table.right_classes(table.on_clock)
    due = np.searchsorted(grid_s, table.on_clock_s, side="left")
    votes = table.on_clock & (table.class_code != NO_VOTE) & (due < len(grid_s))
    for i in range(table.n_problems):
        first_code, end_code = table.class_start[i], table.class_start[i + 1]
        n_classes = end_code - first_code
        mine = slice(table.row_start[i], table.row_start[i + 1])
        voting = votes[mine]
        if not voting.any():
            continue
        cell = due[mine][voting] * n_classes + table.class_code[mine][voting] - first_code
        arrivals = np.bincount(cell, minlength=len(grid_s) * n_classes).reshape(len(grid_s), n_classes)
        share[i] = tied_share(np.cumsum(arrivals, axis=0), right[first_code:end_code])
    return share


def tied_share(votes: IntArray, right: BoolArray) -> FloatArray:
    """(...,) share of the leading classes that are right; ``votes`` (..., classes); 0 where nobody voted."""
    most = votes.max(axis=-1, keepdims=True)
    leads = (votes == most) & (most > 0)
    return (leads & right).sum(axis=-1) / np.maximum(leads.sum(axis=-1), 1)


def finished(table: SampleTable, grid_s: FloatArray, only: BoolArray | None = None) -> IntArray:
    """(P, G) number of samples finished by t, or of those among ``only`` (N,)."""
    return _by(table, grid_s, table.on_clock if only is None else table.on_clock & only, None).astype(np.int64)


def tokens_finished(table: SampleTable, grid_s: FloatArray) -> FloatArray:
    """(P, G) tokens of the samples finished by t."""
    return _by(table, grid_s, table.on_clock, table.new_tokens)


def _by(table: SampleTable, grid_s: FloatArray, counted: BoolArray, weight: IntArray | None) -> FloatArray:
    width = len(grid_s) + 1
    due = np.searchsorted(grid_s, table.on_clock_s[counted], side="left")
    cell = table.row[counted] * width + due
    amount = np.bincount(cell, None if weight is None else weight[counted], table.n_problems * width)
    return np.cumsum(amount.reshape(table.n_problems, width), axis=1)[:, :-1].astype(np.float64)


@dataclass(frozen=True, eq=False)
class InFlight:
    """How far the finished samples may be biased to short chains; each (G,).

    ``ratio`` = b / finished(t), finished per clock: over all problems on clock ``task``, the mean of
    a problem on clock ``problem``; +inf before the first finish. ``warn`` where it exceeds 0.2 while samples are
    really in flight (nothing is biased once all are done).
    """

    ratio: FloatArray
    warn: BoolArray


def in_flight(table: SampleTable, grid_s: FloatArray, clock: Literal["problem", "task"]) -> InFlight:
    """See ``InFlight``."""
    done = finished(table, grid_s).sum(axis=0)
    per_clock = done / (table.n_problems if clock == "problem" else 1)
    ratio = np.divide(table.batch, per_clock, out=np.full(len(grid_s), np.inf), where=per_clock > 0)
    ended_s = np.where(table.on_clock | (table.finish == "error"), table.t_finish, np.inf)
    started = np.searchsorted(np.sort(table.t_submit), grid_s, side="right")
    ended = np.searchsorted(np.sort(ended_s), grid_s, side="right")
    unlogged = len(table.row) < table.n_started.sum()
    return InFlight(ratio, (ratio > IN_FLIGHT_WARNING) & ((started > ended) | unlogged))


def curve_grid(tables: Iterable[SampleTable], seconds: Sequence[float], points: int = 60) -> FloatArray:
    """Rising seconds for curves: ``points`` log-spaced ones from the first finish to the deadline, and the budgets."""
    deadline_s = max(seconds)
    first_s = min((float(t.on_clock_s.min()) for t in tables), default=np.inf)
    spaced = np.array([])
    if first_s < deadline_s:
        spaced = np.geomspace(max(first_s, deadline_s * 1e-6), deadline_s, points)
        # Four digits are enough for a reader; rounded before the metrics are taken, so the file is exact.
        spaced = np.array([float(f"{t:.4g}") for t in spaced])
    grid = np.union1d(spaced, np.asarray(seconds, dtype=np.float64))
    return grid[grid <= deadline_s]


def event_grid(event_times: Iterable[FloatArray], deadline_s: float, limit: int = 512) -> FloatArray:
    """The seconds at which a curve can step (and the deadline): exact up to ``limit`` events, thinned evenly beyond."""
    parts = [np.asarray(times, dtype=np.float64) for times in event_times]
    events = np.unique(np.concatenate([*parts, [deadline_s]]))
    events = events[events <= deadline_s]
    if len(events) > limit:
        events = events[np.unique(np.linspace(0, len(events) - 1, limit).round().astype(int))]
    return events


def vote_times(table: SampleTable) -> FloatArray:
    """Seconds at which a vote came in: the only ones at which ``Maj`` can change."""
    return table.on_clock_s[table.on_clock & (table.class_code != NO_VOTE)]
