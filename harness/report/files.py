"""The machine-readable side of a report: ``curves.csv``, ``pass_at_k.csv`` and ``report.json``.

Shares are in 0..1, times in seconds on the run's clock. In JSON there is no NaN and no infinity:
what is not defined is null, what is never reached is the string "inf". Cells of accuracy are empty
where the weights are random.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.report.numbers import Numbers, proven_at, speedup_at
from harness.scoring.crossover import SHARES, Comparison, proven_span

CURVE_COLUMNS = (
    "model", "clock_s", "coverage", "coverage_lo", "coverage_hi", "majority", "majority_lo", "majority_hi",
    "samples", "tokens", "batch", "finished_median", "unscored",
)  # fmt: skip
AT_K_COLUMNS = (
    "model", "k", "kind", "pass_at_k", "pass_lo", "pass_hi", "majority_at_k", "majority_lo", "majority_hi", "guess",
)  # fmt: skip
CURVE_REWARD_COLUMNS = ("naive", "naive_lo", "naive_hi", "weighted", "weighted_lo", "weighted_hi", "rewarded")
AT_K_REWARD_COLUMNS = ("naive_at_k", "naive_lo", "naive_hi", "weighted_at_k", "weighted_lo", "weighted_hi")
NOTES = (
    "One log gives every budget only at a fixed batch and for policies that do not look at the deadline.",
    "Mean length, majority and speed by second t see finished chains only, which are short ones where "
    "in_flight_ratio = batch / finished is above 0.2.",
    "null: not defined. The string inf: never reached. Shares are in 0..1, times in seconds on the run's clock.",
)


def write_curves(numbers: Numbers, path: Path) -> None:
    """One row a model and second; ``samples``, ``tokens`` and ``unscored`` count samples finished by ``clock_s``.

    With a reward model ``CURVE_REWARD_COLUMNS`` stand behind; ``rewarded``: samples it can choose from by then.
    """
    wanted = CURVE_COLUMNS + (CURVE_REWARD_COLUMNS if numbers.selections else ())
    frames = []
    for name, model in numbers.models.items():
        columns: dict[str, Any] = {
            "model": name, "clock_s": numbers.grid_s, "samples": model.samples.astype(int),
            "tokens": model.tokens.astype(int), "batch": model.batch, "finished_median": model.finished_median,
        }  # fmt: skip
        if model.accuracy is not None:
            for metric in ("coverage", "majority"):
                curve = getattr(model.accuracy, metric)
                columns |= {metric: curve.value, f"{metric}_lo": curve.low, f"{metric}_hi": curve.high}
            columns["unscored"] = model.accuracy.unscored.astype(int)
        if (chosen := numbers.selections.get(name)) is not None:
            for metric in ("naive", "weighted"):
                curve = getattr(chosen, metric)
                columns |= {metric: curve.value, f"{metric}_lo": curve.low, f"{metric}_hi": curve.high}
            columns["rewarded"] = chosen.counted.astype(int)
        frames.append(pd.DataFrame(columns).reindex(columns=wanted))
    pd.concat(frames).to_csv(path, index=False, float_format="%.6g")


def write_at_k(numbers: Numbers, path: Path) -> None:
    """pass@k and maj@k. ``kind`` point: lo and hi are 95 % intervals; bounds: the unfinished all wrong, all right."""
    rows = []
    for name, model in numbers.models.items():
        at_k = model.accuracy.at_k if model.accuracy is not None else None
        if at_k is None:
            continue
        passed, voted = at_k.pass_at_k, at_k.majority_at_k
        kind = "point" if at_k.is_point else "bounds"
        chosen = numbers.selections.get(name)
        rewarded = [c for c in (chosen.naive_at_k, chosen.weighted_at_k) if c is not None] if chosen else []
        for i, k in enumerate(at_k.ks):
            cells = [c[i] for curve in (passed, voted) for c in (curve.value, curve.low, curve.high)]
            more = [c[i] for curve in rewarded for c in (curve.value, curve.low, curve.high)]
            rows.append([name, k, kind, *cells, at_k.guess[i], *more])
    wanted = AT_K_COLUMNS + (AT_K_REWARD_COLUMNS if numbers.selections else ())
    pd.DataFrame(rows, columns=list(wanted)).to_csv(path, index=False, float_format="%.6g")


def write_json(numbers: Numbers, path: Path) -> None:
    """Every number of the report (see the module docstring for null and "inf")."""
    run = numbers.run
    parts = {name: m.accuracy.decomposition for name, m in numbers.models.items() if m.accuracy is not None}
    content = {
        "task": run.task,
        "teacher": run.teacher,
        "students": run.students,
        "n_problems": len(run.problems),
        "drained": run.drained,
        "accuracy_allowed": run.accuracy_allowed,
        "timing_runs": numbers.n_timing_runs,
        "budget": run.budget,
        "manifest": run.manifest,
        "notes": NOTES,
        "clock_s": numbers.grid_s,
        "models": numbers.models,
        "budgets": [row for second in run.budget.seconds for row in budget_rows(numbers, second)],
        "comparisons": {
            name: {metric: _comparison(numbers, c) for metric, c in pair.items()}
            for name, pair in numbers.comparisons.items()
        },
        "decomposition_difference": {name: parts[name].minus(parts[run.teacher]) for name in run.students if parts},
    }
    if numbers.selections and run.rewards is not None:
        content["reward"] = {
            "label": run.rewards.label,
            "sha256": run.rewards.sha256,
            "clock": "same" if run.budget.reward_on_clock else "apart",
            "models": numbers.selections,
        }
    path.write_text(json.dumps(as_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def budget_rows(numbers: Numbers, second: float) -> list[dict[str, Any]]:
    """The table's row of each model at one budget; shares in 0..1, NaN where not defined."""
    rows = []
    at = numbers.index_of(second)
    for name, model in numbers.models.items():
        row: dict[str, Any] = {
            "model": name,
            "batch": model.batch,
            "second": second,
            "samples": int(model.samples[at]),
            "finished_median": model.finished_median[at],
            "none_finished": model.none_finished[at],
            "tokens_per_s": model.tokens_per_s[at],
            "mean_length": model.mean_length[at],
            "in_flight_ratio": model.in_flight.ratio[at],
            "in_flight_warning": bool(model.in_flight.warn[at]),
        }
        if model.accuracy is not None:
            for metric in ("coverage", "above_guess", "majority"):
                curve = getattr(model.accuracy, metric)
                row |= {metric: curve.value[at], f"{metric}_lo": curve.low[at], f"{metric}_hi": curve.high[at]}
            row["guess"] = model.accuracy.guess[at]
            row["unscored_share"] = model.accuracy.unscored[at] / max(model.samples[at], 1)
        if (chosen := numbers.selections.get(name)) is not None:
            for metric in ("naive", "weighted"):
                curve = getattr(chosen, metric)
                row |= {metric: curve.value[at], f"{metric}_lo": curve.low[at], f"{metric}_hi": curve.high[at]}
        for metric, comparison in numbers.comparisons.get(name, {}).items():
            row[f"speedup_{metric}"] = speedup_at(comparison, second)
            row[f"proven_{metric}"] = proven_at(comparison, second)
        rows.append(row)
    return rows


def _comparison(numbers: Numbers, comparison: Comparison) -> dict[str, Any]:
    return {
        "verdict": comparison.outcome,
        "t0_s": comparison.t0_s,
        "crossover_s": comparison.crossover_s,
        "crossover_quantiles_s": dict(zip(("2.5 %", "50 %", "97.5 %"), comparison.crossover_quantiles_s, strict=True)),
        "p_crossed_by_deadline": comparison.p_crossed,
        "proven_ahead_s": proven_span(comparison),
        "proven_behind_s": proven_span(comparison, ahead=False),
        "speedup": [
            {"share_of_teacher_final": share, "value": value, "lo": low, "hi": high}
            for share, value, low, high in zip(
                SHARES, comparison.speedup, comparison.speedup_low, comparison.speedup_high, strict=True
            )
        ],
        "band": {
            "c": comparison.band.c,
            "clock_s": comparison.judged_s,
            "difference": comparison.band.difference,
            "lo": comparison.band.low,
            "hi": comparison.band.high,
        },
    }


def as_plain(value: Any) -> Any:
    """Dataclasses, arrays and numpy scalars as plain JSON values, six digits; NaN becomes null, infinity "inf"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return float(f"{value:.6g}")
    return value if value is None or isinstance(value, str) else str(value)
