"""Chooses a model's batch on the calibration split, before the evaluation problems are touched.

Each candidate samples the calibration problems under the budget's clock; on clock ``task`` the seconds
shrink with the number of problems, so that a problem gets the seconds it gets in the evaluation. The
batch with the highest coverage, averaged over the budget's ``seconds``, wins; ties go to more
finished chains. Candidates go from large to small and stop after two that do worse. A chain's own
seconds do not shrink with the clock, so small batches look a little better here than they will be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from harness.bench.settings import Settings
from harness.bench.vllm_session import open_session
from harness.grading.grader import Grader
from harness.records import Look, Trajectory

CANDIDATES: tuple[int | str, ...] = ("max", 1024, 256, 64, 16, 4, 1)
WORSE_IN_A_ROW = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One candidate's outcome; ``score`` is coverage averaged over the seconds."""

    batch: int
    score: float
    finished: int


class _Memory:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.trajectories: list[Trajectory] = []

    def commit(self, finished: Sequence[Trajectory], look: Look) -> None:
        self.trajectories += finished


def calibrate(settings: Settings, model_name: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """The chosen batch and all trials, as they go into the manifest."""
    problems = settings.calibration
    share = len(problems) / len(settings.problems) if settings.budget.clock == "task" else 1.0
    seconds = tuple(s * share for s in settings.budget.seconds)
    budget = dataclasses.replace(settings.budget, seconds=seconds, drain=False)
    session = open_session(settings, model_name, problems)
    jobs = len(problems) * budget.samples_per_problem if budget.clock == "task" else budget.samples_per_problem
    trials: list[Trial] = []
    best, worse = -1.0, 0
    with Grader({p.id: p for p in problems}) as grader:
        for candidate in CANDIDATES:
            batch = session.batch("max", jobs) if candidate == "max" else int(candidate)
            if any(batch >= t.batch for t in trials):
                continue
            memory = _Memory()
            session.sample(batch, budget, memory, {})
            trial = _score(batch, memory.trajectories, grader, seconds, len(problems))
            trials.append(trial)
            tell(f"{session.model.name}: batch {batch} covers {trial.score:.1%} on average ({trial.finished} chains)")
            worse = 0 if trial.score >= best else worse + 1
            best = max(best, trial.score)
            if worse == WORSE_IN_A_ROW:
                break
    session.close()
    chosen = max(trials, key=lambda t: (t.score, t.finished))
    return {
        "batch": chosen.batch,
        "seconds": list(seconds),
        "problems": [p.id for p in problems],
        "trials": [dataclasses.asdict(t) for t in trials],
    }


def _score(
    batch: int, trajectories: Sequence[Trajectory], grader: Grader, seconds: Sequence[float], problems: int
) -> Trial:
    finished = [t for t in trajectories if t.finish not in ("deadline", "error")]
    first: dict[str, float] = {}
    for trajectory, verdict in zip(finished, grader.grade(finished), strict=True):
        if verdict.correct:
            at = first.get(trajectory.problem_id, float("inf"))
            first[trajectory.problem_id] = min(at, trajectory.t_finish)
    covered = [sum(t <= s for t in first.values()) / problems for s in seconds]
    return Trial(batch, sum(covered) / len(covered), len(finished))
