"""What the seconds were spent on: tokens per second, tokens per attempt, successes per attempt.

Seconds are those of the system: the shared clock on clock ``task``, the sum over problems of each
problem's own clock on clock ``problem``. They stop when nothing is left in flight, so a run that
ends before its deadline is not charged for the rest.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.scoring.table import FloatArray, SampleTable

Clock = Literal["problem", "task"]


@dataclass(frozen=True)
class Cost:
    """Totals by one second of the clock; an attempt is a sample finished by then, a success a correct one."""

    seconds: float
    tokens: int
    attempts: int
    successes: int

    def decomposition(self) -> Decomposition:
        return Decomposition(
            log_seconds_per_success=_log_ratio(self.seconds, self.successes),
            log_seconds_per_token=_log_ratio(self.seconds, self.tokens),
            log_tokens_per_attempt=_log_ratio(self.tokens, self.attempts),
            log_successes_per_attempt=_log_ratio(self.successes, self.attempts),
        )


@dataclass(frozen=True)
class Decomposition:
    """Natural logarithms of which the first = second + third - fourth, as all share the totals of one ``Cost``.

    NaN where nothing finished; +inf seconds per success where nothing was solved.
    """

    log_seconds_per_success: float
    log_seconds_per_token: float
    log_tokens_per_attempt: float
    log_successes_per_attempt: float

    def minus(self, other: Decomposition) -> Decomposition:
        """Student minus teacher: the same sum holds for the differences."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Decomposition(*(a - b for a, b in zip(mine, theirs, strict=True)))


def _log_ratio(top: float, bottom: float) -> float:
    if top <= 0:
        return math.nan if bottom <= 0 else -math.inf
    return math.inf if bottom <= 0 else math.log(top) - math.log(bottom)


def cost_by(table: SampleTable, second: float, clock: Clock) -> Cost:
    """The totals of ``table`` by ``second``."""
    done = table.on_clock_s <= second
    return Cost(
        seconds=float(elapsed_s(table, np.array([second]), clock)[0]),
        tokens=int(table.new_tokens[done].sum()),
        attempts=int(done.sum()),
        successes=int((done & table.correct).sum()),
    )


def elapsed_s(table: SampleTable, grid_s: FloatArray, clock: Clock) -> FloatArray:
    """(G,) system seconds by t: min(t, when the last sample ended), for each clock, summed over clocks."""
    ended_s = np.where(table.on_clock | (table.finish == "error"), table.t_finish, np.inf)
    busy_until = np.zeros(table.n_problems)
    np.maximum.at(busy_until, table.row, ended_s)
    logged = np.bincount(table.row, minlength=table.n_problems)
    busy_until[logged < table.n_started] = np.inf
    if clock == "task":
        busy_until = busy_until.max(keepdims=True)
    return np.minimum(busy_until[:, None], grid_s).sum(axis=0)


def tokens_per_s(table: SampleTable, grid_s: FloatArray, clock: Clock) -> FloatArray:
    """(G,) tokens decoded by t over ``elapsed_s``; the tokens of a chain lie evenly from its first to its last.

    Counts what a chain in flight had decoded by t, so that long chains do not make a model look slow.
    """
    seconds = elapsed_s(table, grid_s, clock)
    decoded = np.zeros(len(grid_s))
    known = (table.new_tokens > 0) & np.isfinite(table.t_finish)
    last, tokens = table.t_finish[known], table.new_tokens[known]
    first = np.where(np.isfinite(table.t_first_token[known]), table.t_first_token[known], last)
    span = np.maximum(last - first, 0.0)
    for g, t in enumerate(grid_s):
        part = np.divide(t - first, span, out=(t >= last).astype(np.float64), where=span > 0)
        # The first token is there at ``first``; the other tokens - 1 follow over the span.
        decoded[g] = np.where(t >= first, 1 + (tokens - 1) * np.clip(part, 0.0, 1.0), 0.0).sum()
    return np.divide(decoded, seconds, out=np.zeros(len(grid_s)), where=seconds > 0)


@dataclass(frozen=True)
class Chains:
    """Finished samples by one second of the clock (or all of a drained run): length in tokens, and shares.

    ``unscored``: the grader gave no verdict; ``truncated``: cut at ``max_new_tokens``;
    ``no_vote``: scored, but without an answer. NaN where nothing finished.
    """

    finished: int
    mean_length: float
    unscored: float
    truncated: float
    no_vote: float


def chains(table: SampleTable, second: float | None = None) -> Chains:
    """Chains finished by ``second``, or with None every finished one, late ones included."""
    done = table.finished if second is None else table.on_clock_s <= second
    n = int(done.sum())
    if n == 0:
        return Chains(0, math.nan, math.nan, math.nan, math.nan)
    return Chains(
        finished=n,
        mean_length=float(table.new_tokens[done].mean()),
        unscored=float(table.unscored[done].mean()),
        truncated=float((table.finish[done] == "length").mean()),
        no_vote=float(((table.class_code[done] < 0) & ~table.unscored[done]).mean()),
    )
