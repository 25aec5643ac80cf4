"""Trajectories in, verdicts out: each distinct answer of a problem is judged once, in a process that can be killed.

Verdicts come in the order of the trajectories. ``correct`` and ``incorrect`` are statements about mathematics;
``limit``, ``timeout`` and ``error`` say that nothing was decided, and ``parse_error`` that the answer is no
mathematics and differs from its reference as text. Model text is parsed in workers only.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import queue
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from harness.grading.extract import extract_answer
from harness.grading.policy import DEFAULT_POLICY, Policy
from harness.grading.pool import Worker
from harness.grading.quick import Outcome, quick
from harness.records import InputError, Problem, Trajectory, Verdict

GRADER_VERSION = "1"
"""Changes whenever any verdict or class may change; part of what makes two scores comparable."""
WINDOW_ANSWERS = 256
"""Answers waited for at once: bounds memory on long logs while every worker has something to do."""
_NO_ANSWER = Outcome("no_answer", None)


class Grader:
    """Grades trajectories against ``problems`` (by problem id). Use it as a context manager.

    ``timeout_s``: seconds one comparison may take before its worker is killed. ``workers``: processes, started on
    entry. Raises InputError for a setting or problem id that makes no sense and ``pool.GraderUnavailable``
    where the parser is not fit to grade.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        *,
        timeout_s: float = 5.0,
        workers: int = 1,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise InputError(f"timeout_s = {timeout_s!r}: must be a number of seconds above 0")
        if workers < 1:
            raise InputError(f"workers = {workers!r}: must be at least 1")
        self._problems = problems
        self._timeout_s = timeout_s
        self._policy = policy
        self._count = workers
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._known: dict[tuple[str, str], concurrent.futures.Future[Outcome]] = {}

    def __enter__(self) -> Self:
        """Start the workers, so that an unfit parser is known before anything is graded."""
        try:
            for _ in range(self._count):
                worker = Worker(self._policy, self._timeout_s)
                self._workers.append(worker)
                self._idle.put(worker)
        except BaseException:
            self.close()
            raise
        self._executor = concurrent.futures.ThreadPoolExecutor(self._count, thread_name_prefix="grader")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. Answers not yet judged are dropped."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def grade(self, trajectories: Iterable[Trajectory]) -> Iterator[Verdict]:
        """One verdict for each trajectory, in order; lazily, a window of answers at a time."""
        if self._executor is None:
            raise RuntimeError("Grader.grade needs `with Grader(...) as grader:` around it")
        waiting: deque[tuple[Trajectory, str | None, concurrent.futures.Future[Outcome]]] = deque()
        for trajectory in itertools.chain(trajectories, (None,)):
            if trajectory is not None:
                waiting.append(self._submitted(trajectory))
            while waiting and (trajectory is None or len(waiting) > WINDOW_ANSWERS or waiting[0][2].done()):
                yield _verdict(*waiting.popleft())

    def _submitted(self, trajectory: Trajectory) -> tuple[Trajectory, str | None, concurrent.futures.Future[Outcome]]:
        problem = self._problems.get(trajectory.problem_id)
        if problem is None:
            raise InputError(
                f"problem_id = {trajectory.problem_id!r}: not among the {len(self._problems)} problems given; "
                "grade with the task the trajectories were sampled from"
            )
        answer = extract_answer(trajectory.text)
        if answer is None:
            return trajectory, None, _settled(_NO_ANSWER)
        key = (trajectory.problem_id, answer)
        if key not in self._known:
            outcome = quick(problem.answer, answer, self._policy)
            assert self._executor is not None
            self._known[key] = (
                self._executor.submit(self._compare, problem.answer, answer) if outcome is None else _settled(outcome)
            )
        return trajectory, answer, self._known[key]

    def _compare(self, gold: str, answer: str) -> Outcome:
        worker = self._idle.get()
        try:
            return worker.compare(gold, answer)
        finally:
            self._idle.put(worker)


def _settled(outcome: Outcome) -> concurrent.futures.Future[Outcome]:
    future: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
    future.set_result(outcome)
    return future


def _verdict(trajectory: Trajectory, answer: str | None, future: concurrent.futures.Future[Outcome]) -> Verdict:
    outcome = future.result()
    return Verdict(*trajectory.key, answer, outcome.class_id, outcome.status, outcome.correct)
