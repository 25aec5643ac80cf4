"""Trajectories in, verdicts out, in the same order: the answer each chain states, judged against its problem's.

Verdicts come in the order of the trajectories. ``correct`` and ``incorrect`` are statements about mathematics;
``limit``, ``timeout`` and ``error`` say that nothing was decided, and ``parse_error`` that the answer is no
mathematics and differs from its reference as text.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from harness.grading.cache import Cache
from harness.grading.extract import extract_answer
from harness.grading.judge import GRADER_VERSION, TIMEOUT_S, Judge, Pending
from harness.grading.policy import DEFAULT_POLICY, Policy
from harness.records import InputError, Problem, Trajectory, Verdict

__all__ = ["GRADER_VERSION", "WINDOW_ANSWERS", "Grader"]

WINDOW_ANSWERS = 256
"""Answers waited for at once: bounds memory on long logs while every worker has something to do."""


class Grader:
    """Grades trajectories against ``problems`` (by problem id). Use it as a context manager.

    The other settings are those of ``judge.Judge``, and so are the errors; InputError also for a problem id that is
    not among ``problems``.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        *,
        timeout_s: float = TIMEOUT_S,
        workers: int = 1,
        policy: Policy = DEFAULT_POLICY,
        cache: Cache | None = None,
    ) -> None:
        self._problems = problems
        self._judge = Judge(policy=policy, timeout_s=timeout_s, workers=workers, cache=cache)

    def __enter__(self) -> Self:
        self._judge.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._judge.close()

    def grade(self, trajectories: Iterable[Trajectory]) -> Iterator[Verdict]:
        """One verdict for each trajectory, in order; lazily, a window of answers at a time."""
        waiting: deque[tuple[Trajectory, str | None, Pending]] = deque()
        for trajectory in itertools.chain(trajectories, (None,)):
            if trajectory is not None:
                waiting.append(self._submitted(trajectory))
            while waiting and (trajectory is None or len(waiting) > WINDOW_ANSWERS or waiting[0][2].done()):
                yield _verdict(*waiting.popleft())

    def _submitted(self, trajectory: Trajectory) -> tuple[Trajectory, str | None, Pending]:
        problem = self._problems.get(trajectory.problem_id)
        if problem is None:
            raise InputError(
                f"problem_id = {trajectory.problem_id!r}: not among the {len(self._problems)} problems given; "
                "grade with the task the trajectories were sampled from"
            )
        answer = extract_answer(trajectory.text)
        return trajectory, answer, self._judge.submit(problem.answer, answer)


def _verdict(trajectory: Trajectory, answer: str | None, pending: Pending) -> Verdict:
    outcome = pending.result()
    return Verdict(*trajectory.key, answer, outcome.class_id, outcome.status, outcome.correct)
