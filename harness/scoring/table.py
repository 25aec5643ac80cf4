"""The input of all scoring: the samples of one model at one batch as flat arrays, grouped by problem.

Rows are sorted by (problem, sample). ``on_clock_s`` is the finishing second of what counts on the
clock and +inf for the rest (``deadline``, ``error``, ``late``), so no clock metric can see it by
mistake. Unscored samples (grader limit, time-out, error) are neither correct nor voters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.records import UNSCORED, InputError, Reward, Trajectory, Verdict

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

UNFINISHED = ("deadline", "error")
NO_VOTE = -1


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Samples of one (model, batch); N rows, P problems.

    ``row`` (N,) is the problem's index in ``problem_ids``; ``n_started`` (P,) counts what was
    submitted, finished or not. ``class_code`` (N,) numbers answer classes over the whole table
    (``NO_VOTE`` = none); problem i owns the codes ``class_start[i]`` to ``class_start[i + 1]``.
    Times are seconds on the run's clock. ``reward`` (N,) is NaN where there is none, ``reward_s`` (N,) the seconds that
    it took; both are None for a run without a reward model.
    """

    model: str
    batch: int
    problem_ids: tuple[str, ...]
    n_started: IntArray
    row: IntArray
    sample: IntArray
    t_submit: FloatArray
    t_first_token: FloatArray
    t_finish: FloatArray
    new_tokens: IntArray
    finish: NDArray[np.str_]
    late: BoolArray
    correct: BoolArray
    unscored: BoolArray
    class_code: IntArray
    class_start: IntArray
    reward: FloatArray | None = None
    reward_s: FloatArray | None = None

    @classmethod
    def from_records(
        cls,
        trajectories: Iterable[Trajectory],
        verdicts: Iterable[Verdict] | None,
        problem_ids: Sequence[str],
        n_started: Mapping[str, int],
        rewards: Iterable[Reward] | None = None,
    ) -> SampleTable:
        """Join a log with its verdicts; ``verdicts=None`` says the run is not graded: all are unscored.

        InputError: no trajectories, more than one (model, task, batch), an unknown problem, a sample
        twice, a finished sample without verdict, a verdict without its sample, fewer started than logged;
        and the same of ``rewards`` as of verdicts.
        """
        log = list(trajectories)
        if not log:
            raise InputError("trajectories = 0 rows: nothing was sampled; run `sample` first")
        runs = {(t.model, t.task, t.batch) for t in log}
        if len(runs) > 1:
            raise InputError(f"trajectories: {len(runs)} of (model, task, batch), {sorted(runs)}; give one at a time")
        index = {problem_id: i for i, problem_id in enumerate(problem_ids)}
        if len(index) < len(problem_ids):
            raise InputError("problem_ids: an id occurs twice; ids must be unique")
        for t in log:
            if t.problem_id not in index:
                raise InputError(f"trajectory problem_id = {t.problem_id!r}: not in this task; check the task")
        log.sort(key=lambda t: (index[t.problem_id], t.sample))
        graded = _graded(log, verdicts)
        reward, reward_s = (None, None) if rewards is None else _rewarded(log, rewards)

        row = np.array([index[t.problem_id] for t in log], dtype=np.int64)
        sample = np.array([t.sample for t in log], dtype=np.int64)
        twice = np.flatnonzero((np.diff(row) == 0) & (np.diff(sample) == 0))
        if len(twice):
            raise InputError(f"trajectory {log[twice[0]].key}: logged twice; keep one of the two lines")
        started = np.array([n_started.get(p, 0) for p in problem_ids], dtype=np.int64)
        logged = np.bincount(row, minlength=len(problem_ids))
        for i in np.flatnonzero(logged > started).tolist():
            raise InputError(
                f"n_started[{problem_ids[i]!r}] = {started[i]}: the log holds {logged[i]}; count every submitted sample"
            )
        unscored = np.array([v is None or v.status in UNSCORED for v in graded], dtype=bool)
        class_ids = [None if v is None or v.status in UNSCORED else v.class_id for v in graded]
        class_code, class_start = _class_codes(row, class_ids, len(problem_ids))
        table = cls(
            model=log[0].model,
            batch=log[0].batch,
            problem_ids=tuple(problem_ids),
            n_started=started,
            row=row,
            sample=sample,
            t_submit=np.array([t.t_submit for t in log], dtype=np.float64),
            t_first_token=np.array([t.t_first_token for t in log], dtype=np.float64),
            t_finish=np.array([t.t_finish for t in log], dtype=np.float64),
            new_tokens=np.array([t.new_tokens for t in log], dtype=np.int64),
            finish=np.array([t.finish for t in log], dtype=np.str_),
            late=np.array([t.late for t in log], dtype=bool),
            correct=np.array([v is not None and v.correct for v in graded], dtype=bool) & ~unscored,
            unscored=unscored,
            class_code=class_code,
            class_start=class_start,
            reward=reward,
            reward_s=reward_s,
        )
        if not np.isfinite(table.t_finish[table.finished]).all():
            raise InputError("trajectory t_finish: not a number for a finished sample; the log is damaged")
        return table

    @property
    def n_problems(self) -> int:
        return len(self.problem_ids)

    @cached_property
    def finished(self) -> BoolArray:
        """(N,) ended by itself or by length, on the clock or late."""
        return ~np.isin(self.finish, UNFINISHED)

    @cached_property
    def on_clock(self) -> BoolArray:
        """(N,) finished and not late: what clock metrics may see."""
        return self.finished & ~self.late

    @cached_property
    def on_clock_s(self) -> FloatArray:
        """(N,) finishing second, +inf for what never counts on the clock."""
        return np.where(self.on_clock, self.t_finish, np.inf)

    @cached_property
    def n_finished(self) -> IntArray:
        """(P,) finished samples of each problem, late ones included."""
        return np.bincount(self.row[self.finished], minlength=self.n_problems)

    @cached_property
    def drained(self) -> bool:
        """Whether every started sample ended (an ``error`` is an end, a sample cut at the deadline is not)."""
        return bool((self.finish != "deadline").all() and len(self.row) == self.n_started.sum())

    @cached_property
    def row_start(self) -> IntArray:
        """(P + 1,) problem i owns rows ``row_start[i]`` to ``row_start[i + 1]``."""
        return np.searchsorted(self.row, np.arange(self.n_problems + 1))

    def right_classes(self, seen: BoolArray) -> BoolArray:
        """(codes,) whether a class is right: the verdict of its lowest-numbered sample among ``seen`` (N,)."""
        right = np.zeros(self.class_start[-1], dtype=bool)
        member = np.flatnonzero(seen & (self.class_code != NO_VOTE))
        code, first = np.unique(self.class_code[member], return_index=True)
        right[code] = self.correct[member[first]]
        return right

    @cached_property
    def n_split_classes(self) -> int:
        """Answer classes whose finished members got different verdicts (a grader at odds with itself)."""
        member = self.finished & (self.class_code != NO_VOTE)
        size = np.bincount(self.class_code[member], minlength=self.class_start[-1])
        correct = np.bincount(self.class_code[member & self.correct], minlength=self.class_start[-1])
        return int(((correct > 0) & (correct < size)).sum())


def _graded(log: list[Trajectory], verdicts: Iterable[Verdict] | None) -> list[Verdict | None]:
    if verdicts is None:
        return [None] * len(log)
    by_key = {}
    n_verdicts = 0
    for v in verdicts:
        by_key[v.key] = v
        n_verdicts += 1
    if len(by_key) < n_verdicts:
        raise InputError(f"verdicts: {n_verdicts - len(by_key)} samples are graded twice; grade into a fresh file")
    graded = [by_key.pop(t.key, None) for t in log]
    if by_key:
        raise InputError(f"verdict {next(iter(by_key))}: no such trajectory in the log; grade this run again")
    for t, verdict in zip(log, graded, strict=True):
        if verdict is None and t.finish not in UNFINISHED:
            raise InputError(f"trajectory {t.key}: has no verdict; run `grade` first")
    return graded


def _rewarded(log: list[Trajectory], rewards: Iterable[Reward]) -> tuple[FloatArray, FloatArray]:
    by_key = {r.key: r for r in rewards}
    scored = [by_key.pop(t.key, None) for t in log]
    if by_key:
        raise InputError(f"reward {next(iter(by_key))}: no such trajectory in the log; score this run anew")
    for t, reward in zip(log, scored, strict=True):
        if reward is None and t.finish not in UNFINISHED:
            raise InputError(
                f"trajectory {t.key}: has no reward; go on with `harness score`, or move rewards.jsonl away"
            )
    value = [np.nan if r is None or r.score is None else r.score for r in scored]
    return np.array(value, dtype=np.float64), np.array([0.0 if r is None else r.seconds for r in scored])


def _class_codes(row: IntArray, class_ids: list[str | None], n_problems: int) -> tuple[IntArray, IntArray]:
    codes: dict[tuple[int, str], int] = {}
    class_code = np.full(len(row), NO_VOTE, dtype=np.int64)
    for j, (i, class_id) in enumerate(zip(row.tolist(), class_ids, strict=True)):
        if class_id is not None:
            class_code[j] = codes.setdefault((i, class_id), len(codes))
    per_problem = np.bincount([i for i, _ in codes], minlength=n_problems) if codes else np.zeros(n_problems, np.int64)
    return class_code, np.concatenate([[0], np.cumsum(per_problem)]).astype(np.int64)
