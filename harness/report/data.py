"""The input of a report: one run as it came out of its folder, with nothing computed yet.

The caller fills it; nothing here reads a file. A model stands under the name that plots and tables
print. Every problem needs the class of its gold, for the guess curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import Budget, InputError, Problem, Reward, Trajectory, Verdict, nearest

ModelLog = tuple[Sequence[Trajectory], Sequence[Verdict]]


@dataclass(frozen=True)
class RewardData:
    """What a reward model gave: ``label`` names it in tables and captions, ``by_model``: name -> its samples' rewards.

    Whether its seconds are on the clock is the budget's ``reward_on_clock``.
    """

    label: str
    sha256: str
    by_model: Mapping[str, Sequence[Reward]]


@dataclass(frozen=True)
class RunData:
    """One run of a teacher and its students on one task.

    ``models``: name -> (trajectories, verdicts), one batch each. ``gold_class_ids``: problem id -> the
    class its reference answer falls in, comparable across problems. ``drained``: those in flight at the
    deadline were finished off the clock. ``accuracy_allowed``: false for random weights; then verdicts
    are not looked at and no accuracy is written or drawn.
    ``n_started``: name -> problem id -> samples submitted; left out, every started sample is in the log.
    ``repeats``: further timing runs of the same samples; with ``models`` they make R runs, and from
    R = 3 on intervals are nested in them. Counts and speeds are those of ``models``.
    ``manifest`` keys that are printed, each optional: ``device``, ``date``, ``commit`` (text), ``resumes``
    (a number; above 0 no headline is made), ``replayed`` (true: labelled so).
    ``rewards``: of every finished sample, or None; not looked at where no accuracy is allowed.
    """

    task: str
    problems: tuple[Problem, ...]
    budget: Budget
    models: Mapping[str, ModelLog]
    gold_class_ids: Mapping[str, str]
    manifest: Mapping[str, Any]
    teacher: str
    drained: bool
    accuracy_allowed: bool
    n_started: Mapping[str, Mapping[str, int]] | None = None
    repeats: tuple[Mapping[str, ModelLog], ...] = ()
    rewards: RewardData | None = None

    def __post_init__(self) -> None:
        if not self.problems:
            raise InputError("problems = (): a report needs at least one problem")
        if self.teacher not in self.models:
            raise InputError(f"teacher = {self.teacher!r}: no such model; {nearest(self.teacher, self.models)}")
        for repeat in self.repeats:
            if set(repeat) != set(self.models):
                raise InputError(f"repeats: hold {sorted(repeat)}; every timing run needs {sorted(self.models)}")

    @property
    def students(self) -> tuple[str, ...]:
        return tuple(name for name in self.models if name != self.teacher)
