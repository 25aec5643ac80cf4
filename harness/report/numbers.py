"""All numbers of a report, computed once from a ``RunData``.

Curves lie on one grid of seconds that holds every budget, so a table row is a point of the curve.
Comparisons lie on their own grid of events, on which crossovers are exact. ``accuracy`` is None
throughout where the weights are random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.report.data import ModelLog, RunData
from harness.scoring import best_of, clock, cost, guess, samples
from harness.scoring.crossover import EPSILON, Comparison, compare, time_to
from harness.scoring.groups import Group, accuracy_by
from harness.scoring.intervals import Resampler, mean_over_problems, pointwise
from harness.scoring.table import FloatArray, SampleTable


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric in 0..1 on some grid, with its pointwise 95 % interval (or, where so said, its bounds)."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, eq=False)
class AtK:
    """pass@k and maj@k; ``is_point`` false: ``low`` and ``high`` are bounds and ``value`` is NaN."""

    ks: tuple[int, ...]
    is_point: bool
    pass_at_k: Curve
    majority_at_k: Curve
    guess: FloatArray


@dataclass(frozen=True, eq=False)
class Accuracy:
    """What is only said of trained weights. Curves on the report's grid; groups at the deadline.

    ``coverage_k``: k -> cov_k on the grid, empty unless all samples of a problem start together.
    ``guess_by_level``: level -> the guess at the deadline.
    """

    coverage: Curve
    guess: FloatArray
    above_guess: Curve
    majority: Curve
    coverage_k: Mapping[int, FloatArray]
    at_k: AtK | None
    by_level: tuple[Group, ...]
    by_subject: tuple[Group, ...]
    guess_by_level: Mapping[str, float]
    unscored: FloatArray
    split_classes: int
    totals: cost.Cost
    decomposition: cost.Decomposition
    chains: cost.Chains


@dataclass(frozen=True, eq=False)
class ModelNumbers:
    """One model; arrays on the report's grid (G,), scalars at the deadline.

    ``tokens`` are those of finished samples, ``elapsed_s`` the system's seconds. ``mean_length_drained``
    includes the late samples of a drained run and so has no bias to short chains; NaN without a drain. So does
    ``truncated``, the share cut at ``max_new_tokens``; without a drain it is that of what finished on the clock.
    """

    name: str
    batch: int
    samples: FloatArray
    finished_median: FloatArray
    none_finished: FloatArray
    tokens: FloatArray
    tokens_per_s: FloatArray
    mean_length: FloatArray
    elapsed_s: FloatArray
    in_flight: clock.InFlight
    truncated: float
    mean_length_drained: float
    accuracy: Accuracy | None


@dataclass(frozen=True, eq=False)
class Selection:
    """Best-of-N by a reward model beside the vote, on the report's grid and, as in ``AtK``, on ``ks``.

    ``counted`` (G,): samples that count for it by then. ``reward_s``: seconds of all its rewards, late samples' too.
    ``over_limit``: share of finished samples longer than the reward model can read.
    """

    naive: Curve
    weighted: Curve
    counted: FloatArray
    ks: tuple[int, ...]
    is_point: bool
    naive_at_k: Curve | None
    weighted_at_k: Curve | None
    reward_s: float
    over_limit: float


@dataclass(frozen=True, eq=False)
class Numbers:
    """``comparisons``: student -> {coverage, majority} against the teacher; empty where no accuracy is allowed.

    ``selections``: one a model, empty where no reward model scored or no accuracy is allowed.
    """

    run: RunData
    grid_s: FloatArray
    models: Mapping[str, ModelNumbers]
    comparisons: Mapping[str, Mapping[str, Comparison]]
    n_timing_runs: int
    selections: Mapping[str, Selection]

    def index_of(self, second: float) -> int:
        """Where a budget's second lies on the grid."""
        return int(np.searchsorted(self.grid_s, second))


def compute(run: RunData) -> Numbers:
    """Everything a report prints or draws. InputError where the log and the verdicts do not fit together."""
    tables = {name: _tables(run, name) for name in run.models}
    grid_s = clock.curve_grid((t for runs in tables.values() for t in runs), run.budget.seconds)
    resampler = Resampler.over(len(run.problems))
    rewarded = tables if run.accuracy_allowed and run.rewards is not None else {}
    return Numbers(
        run=run,
        grid_s=grid_s,
        models={name: _model(run, name, runs, grid_s, resampler) for name, runs in tables.items()},
        comparisons=_comparisons(run, tables, resampler) if run.accuracy_allowed else {},
        n_timing_runs=1 + len(run.repeats),
        selections={name: _selection(run, runs, grid_s, resampler) for name, runs in rewarded.items()},
    )


def speedup_at(comparison: Comparison, second: float) -> float:
    """S at q = what the teacher had by ``second``: how many times sooner the student had as much; NaN for q = 0."""
    at = int(np.searchsorted(comparison.grid_s, second, side="right")) - 1
    level = comparison.teacher_curve[at] if at >= 0 else 0.0
    if level <= EPSILON:
        return float("nan")
    teacher_s = time_to(comparison.teacher_curve, level, comparison.grid_s)
    return float(teacher_s / time_to(comparison.student_curve, level, comparison.grid_s))


def proven_at(comparison: Comparison, second: float) -> int:
    """+1 where the band proves the student ahead at ``second``, -1 behind, 0 neither."""
    at = int(np.searchsorted(comparison.judged_s, second, side="right")) - 1
    if at < 0:
        return 0
    return int(comparison.band.low[at] > EPSILON) - int(comparison.band.high[at] < -EPSILON)


def _tables(run: RunData, name: str) -> list[SampleTable]:
    ids = tuple(problem.id for problem in run.problems)

    def table(log: ModelLog) -> SampleTable:
        trajectories, verdicts = log
        started = dict.fromkeys(ids, 0)
        for t in trajectories:
            started[t.problem_id] = started.get(t.problem_id, 0) + 1
        if run.n_started is not None:
            started = dict(run.n_started[name])
        if not run.accuracy_allowed:
            return SampleTable.from_records(trajectories, None, ids, started)
        rewards = None if run.rewards is None else run.rewards.by_model.get(name, ())
        return SampleTable.from_records(trajectories, verdicts, ids, started, rewards)

    return [table(models[name]) for models in (run.models, *run.repeats)]


def _model(run: RunData, name: str, runs: list[SampleTable], grid_s: FloatArray, resampler: Resampler) -> ModelNumbers:
    table, by_clock = runs[0], run.budget.clock
    done = clock.finished(table, grid_s)
    n_done, tokens = done.sum(axis=0), clock.tokens_finished(table, grid_s).sum(axis=0)
    return ModelNumbers(
        name=name,
        batch=table.batch,
        samples=n_done.astype(np.float64),
        finished_median=np.median(done, axis=0),
        none_finished=(done == 0).mean(axis=0),
        tokens=tokens,
        tokens_per_s=cost.tokens_per_s(table, grid_s, by_clock),
        mean_length=np.divide(tokens, n_done, out=np.full(len(grid_s), np.nan), where=n_done > 0),
        elapsed_s=cost.elapsed_s(table, grid_s, by_clock),
        in_flight=clock.in_flight(table, grid_s, by_clock),
        truncated=cost.chains(table, None if run.drained else run.budget.deadline_s).truncated,
        mean_length_drained=cost.chains(table).mean_length if run.drained else float("nan"),
        accuracy=_accuracy(run, name, runs, grid_s, resampler) if run.accuracy_allowed else None,
    )


def _accuracy(run: RunData, name: str, runs: list[SampleTable], grid_s: FloatArray, resampler: Resampler) -> Accuracy:
    table = runs[0]
    covered = np.stack([clock.coverage(t, grid_s) for t in runs])
    voted = np.stack([clock.majority(t, grid_s) for t in runs])
    guessed = np.stack([guess.guess_on_clock(t, grid_s, run.gold_class_ids) for t in runs])
    last_covered, last_voted = covered.mean(axis=0)[:, -1], voted.mean(axis=0)[:, -1]
    by_level = accuracy_by(run.problems, "level", last_covered, last_voted)
    last_guess = guessed.mean(axis=0)[:, -1]
    levels = np.array([str(problem.level) for problem in run.problems])
    together = all(clock.started_together(t) for t in runs)
    ks = samples.k_grid(int(table.n_started.min())) if together else ()
    totals = cost.cost_by(table, run.budget.deadline_s, run.budget.clock)
    return Accuracy(
        coverage=_curve(covered, resampler, name),
        guess=mean_over_problems(guessed),
        above_guess=_curve(covered - guessed, resampler, name),
        majority=_curve(voted, resampler, name),
        coverage_k={k: clock.coverage_k(table, grid_s, k).mean(axis=0) for k in ks},
        at_k=_at_k(run, table, resampler),
        by_level=by_level,
        by_subject=accuracy_by(run.problems, "subject", last_covered, last_voted),
        guess_by_level={group.label: float(last_guess[levels == group.label].mean()) for group in by_level},
        unscored=clock.finished(table, grid_s, table.unscored).sum(axis=0).astype(np.float64),
        split_classes=table.n_split_classes,
        totals=totals,
        decomposition=totals.decomposition(),
        chains=cost.chains(table, run.budget.deadline_s),
    )


def _curve(values: FloatArray, resampler: Resampler, name: str) -> Curve:
    return Curve(mean_over_problems(values), *pointwise(resampler.means(values, name)))


def _at_k(run: RunData, table: SampleTable, resampler: Resampler) -> AtK | None:
    ks = samples.k_grid(samples.largest_k(table, run.drained))
    if not ks:
        return None
    passed = samples.pass_at_k(table, ks, run.drained)
    voted = samples.majority_at_k(table, ks, run.drained)
    guessed = guess.guess_at_k(table.problem_ids, ks, run.gold_class_ids).mean(axis=0)
    passed_at, voted_at = (_k_curve(metric, resampler, table.model) for metric in (passed, voted))
    return AtK(ks, passed.is_point, passed_at, voted_at, guessed)


def _k_curve(metric: samples.SampleMetric, resampler: Resampler, name: str) -> Curve:
    if metric.is_point:
        return _curve(metric.low, resampler, name)
    return Curve(np.full(len(metric.ks), np.nan), metric.low.mean(axis=0), metric.high.mean(axis=0))


def _selection(run: RunData, runs: list[SampleTable], grid_s: FloatArray, resampler: Resampler) -> Selection:
    table, name = runs[0], runs[0].model
    counts = [best_of.counts_from_s(t, run.budget.clock, run.budget.reward_on_clock) for t in runs]
    naive = np.stack([best_of.naive(t, grid_s, s) for t, s in zip(runs, counts, strict=True)])
    weighted = np.stack([best_of.weighted(t, grid_s, s) for t, s in zip(runs, counts, strict=True)])
    ks = samples.k_grid(samples.largest_k(table, run.drained))
    at_k: tuple[Curve | None, Curve | None] = (None, None)
    if ks:
        of = (best_of.naive_at_k(table, ks, run.drained), best_of.weighted_at_k(table, ks, run.drained))
        at_k = _k_curve(of[0], resampler, name), _k_curve(of[1], resampler, name)
    part = counts[0][best_of.takes_part(table)]
    assert table.reward is not None and table.reward_s is not None, "made from rewards"
    unread = np.isnan(table.reward[table.finished])
    return Selection(
        naive=_curve(naive, resampler, name),
        weighted=_curve(weighted, resampler, name),
        counted=np.searchsorted(np.sort(part), grid_s, side="right").astype(np.float64),
        ks=ks,
        is_point=run.drained,
        naive_at_k=at_k[0],
        weighted_at_k=at_k[1],
        reward_s=float(table.reward_s.sum()),
        over_limit=float(unread.mean()) if len(unread) else float("nan"),
    )


def _comparisons(
    run: RunData, tables: Mapping[str, list[SampleTable]], resampler: Resampler
) -> dict[str, dict[str, Comparison]]:
    metrics = {
        "coverage": (clock.coverage, clock.first_correct_s),
        "majority": (clock.majority, clock.vote_times),
    }
    comparisons: dict[str, dict[str, Comparison]] = {name: {} for name in run.students}
    for metric, (values, event_times) in metrics.items():
        for name in run.students:
            pair = [*tables[name], *tables[run.teacher]]
            grid_s = clock.event_grid((event_times(t) for t in pair), run.budget.deadline_s)
            student = np.stack([values(t, grid_s) for t in tables[name]])
            teacher = np.stack([values(t, grid_s) for t in tables[run.teacher]])
            comparisons[name][metric] = compare(student, teacher, grid_s, resampler, (name, run.teacher))
    return comparisons
