"""Coverage against time from published counts: recorded accuracy x measured speed, never one run's result.

A counts file says of each problem how many of how many samples were right. Sampling one problem at ``tokens_per_s``
with ``tokens_per_sample`` billed for each sample, k samples are done after k tokens_per_sample / tokens_per_s seconds,
and coverage by then is the unbiased pass@k of the counts (Chen et al. 2021). Converted time, as M1's Fig. 3 has it: it
knows no batch, no prefill and no lengths, so whatever shows it must say so.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import InputError
from harness.scoring.intervals import LEVEL, Resampler
from harness.scoring.samples import failure_shares, k_grid
from harness.scoring.table import FloatArray, IntArray

LABEL = "recorded accuracy x measured speed"


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """Of each problem: ``samples`` drawn and ``correct`` among them, (P,); ``source`` as the file names it."""

    samples: IntArray
    correct: IntArray
    source: str

    @property
    def largest_k(self) -> int:
        return int(self.samples.min())


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedCurve:
    """Coverage with its 95 % bootstrap interval over problems at the seconds when k samples are done, (K,)."""

    ks: tuple[int, ...]
    clock_s: FloatArray
    coverage: FloatArray
    low: FloatArray
    high: FloatArray


def read_counts(path: Path) -> Counts:
    """A JSON object with ``counts`` and ``ns``: a number for each problem, or a list of sessions that are pooled.

    InputError naming the field, or the first problem that makes no sense.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); give a file with counts and ns") from None
    if not isinstance(data, dict) or "counts" not in data or "ns" not in data:
        raise InputError(f"{path}: no fields counts and ns; give an object with one entry a problem in each")
    correct, samples = _pooled(data["counts"], path, "counts"), _pooled(data["ns"], path, "ns")
    if len(correct) != len(samples) or not len(correct):
        raise InputError(f"{path}: counts has {len(correct)} problems, ns {len(samples)}; one entry a problem in each")
    wrong = np.flatnonzero((correct < 0) | (correct > samples) | (samples < 1))
    if len(wrong):
        i = int(wrong[0])
        raise InputError(
            f"{path}: problem {i} has {correct[i]} right of {samples[i]}; must lie in 0..ns with ns above 0"
        )
    return Counts(samples, correct, str(data.get("dataset", path.name)))


def _pooled(values: Any, path: Path, field: str) -> IntArray:
    rows = [v if isinstance(v, list) else [v] for v in values] if isinstance(values, list) else [[None]]
    for i, row in enumerate(rows):
        if not row or not all(type(v) is int for v in row):
            raise InputError(
                f"{path}: {field}[{i}] = {values[i] if isinstance(values, list) else values!r}: whole numbers"
            )
    return np.array([sum(row) for row in rows], dtype=np.int64)


def coverage_at_k(counts: Counts, ks: tuple[int, ...]) -> FloatArray:
    """(K, P) unbiased pass@k of each problem; every k at most ``largest_k``."""
    return 1.0 - failure_shares(counts.samples, counts.correct, ks)


def recorded_curve(
    counts: Counts, tokens_per_s: float, tokens_per_sample: float, draws: int = 2000, seed: int = 0
) -> RecordedCurve:
    """The curve at k = 1, 2, 4, ... and the largest k the counts support."""
    for field, value in (("tokens_per_s", tokens_per_s), ("tokens_per_sample", tokens_per_sample)):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{field} = {value}: must be above 0, finite")
    ks = k_grid(counts.largest_k)
    by_problem = coverage_at_k(counts, ks).T
    drawn = Resampler.over(len(by_problem), draws, seed).means(by_problem)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
    seconds = np.array(ks) * tokens_per_sample / tokens_per_s
    return RecordedCurve(ks, seconds, by_problem.mean(axis=0), low, high)
