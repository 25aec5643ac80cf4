"""Paired bootstrap over problems: one set of draws serves every model, so differences stay paired.

With three or more timing runs the runs are resampled too (nested, each model its own, as their
timings are independent); with fewer they are averaged. Everything is seeded: the same table gives
the same interval.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from harness.records import InputError
from harness.scoring.table import FloatArray

DRAWS = 10_000
LEVEL = 0.95
NESTED_FROM_RUNS = 3


@dataclass(frozen=True, eq=False)
class Resampler:
    """``weights`` (draws, P): how often each draw holds each problem, over P; shared by all models and metrics."""

    weights: FloatArray
    seed: int

    @classmethod
    def over(cls, n_problems: int, draws: int = DRAWS, seed: int = 0) -> Resampler:
        if n_problems < 1 or draws < 1:
            raise InputError(f"n_problems = {n_problems}, draws = {draws}: both must be at least 1")
        picked = np.random.default_rng(seed).integers(n_problems, size=(draws, n_problems))
        picked += n_problems * np.arange(draws)[:, None]
        counts = np.bincount(picked.ravel(), minlength=draws * n_problems).reshape(draws, n_problems)
        return cls(counts / n_problems, seed)

    def means(self, values: FloatArray, stream: str = "") -> FloatArray:
        """(draws, G) resampled mean of ``values`` (P, G) or, for timing runs, (R, P, G).

        ``stream`` names the model: its runs are drawn alike for each of its metrics.
        """
        if values.ndim == 2:
            return self.weights @ values
        n_runs = len(values)
        if n_runs < NESTED_FROM_RUNS:
            return self.weights @ values.mean(axis=0)
        rng = np.random.default_rng([self.seed, zlib.crc32(stream.encode())])
        run_share = rng.multinomial(n_runs, np.full(n_runs, 1 / n_runs), size=len(self.weights)) / n_runs
        total = np.zeros((len(self.weights), values.shape[2]))
        for r in range(n_runs):
            total += run_share[:, r, None] * (self.weights @ values[r])
        return total


def mean_over_problems(values: FloatArray) -> FloatArray:
    """(G,) the point estimate of ``values`` (P, G) or (R, P, G)."""
    return values.reshape(-1, values.shape[-1]).mean(axis=0)


def pointwise(draws: FloatArray, level: float = LEVEL) -> tuple[FloatArray, FloatArray]:
    """(G,) lower and upper percentile of ``draws`` (draws, G)."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


@dataclass(frozen=True, eq=False)
class Band:
    """Simultaneous band ``difference +- c se`` over all judged points at once; arrays (G,)."""

    difference: FloatArray
    se: FloatArray
    c: float
    low: FloatArray
    high: FloatArray


def simultaneous_band(difference: FloatArray, draws: FloatArray, level: float = LEVEL) -> Band:
    """c = the ``level`` quantile over ``draws`` (draws, G) of max_t |D*(t) - D(t)| / se(t).

    Points at which no draw differs (se = 0) have no say in c and get a band of no width.
    """
    se = draws.std(axis=0, ddof=1) if len(draws) > 1 else np.zeros(draws.shape[1])
    se = np.where(se > 1e-12, se, 0.0)
    moves = se > 0
    c = 0.0
    if moves.any():
        c = float(np.quantile((np.abs(draws[:, moves] - difference[moves]) / se[moves]).max(axis=1), level))
    return Band(difference, se, c, difference - c * se, difference + c * se)


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson 95 % interval of a share: for small groups, where a bootstrap of all-right would have no width."""
    if n == 0:
        return (0.0, 1.0)
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * np.sqrt(share * (1 - share) / n + spread / (4 * n))
    return (max(0.0, float(middle - half)), min(1.0, float(middle + half)))
