"""Pairs of (gold, answer) in, outcomes out: each distinct pair is decided once, by the cheapest means that can.

Common forms are decided here without sympy; what an earlier run decided is read from the cache; the rest goes to
processes that can be killed. Text that is not common never gets parsed in this process. There are no threads: the
workers are served whenever a pair is submitted or waited for.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import math
import select
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.grading.cache import Cache, verdict_key
from harness.grading.extract import extract_answer
from harness.grading.policy import DEFAULT_POLICY, Policy
from harness.grading.pool import Worker
from harness.grading.quick import Outcome, quick
from harness.records import InputError

GRADER_VERSION = "3"
"""Changes whenever any verdict or class may change; part of what makes two scores comparable."""
TIMEOUT_S = 2.0
"""What one comparison may take before its worker is killed."""
_LOOK_S = 0.05
"""How often deadlines are looked at while nothing happens."""
_LIBRARIES = ("sympy", "latex2sympy2_extended", "antlr4-python3-runtime")
NO_ANSWER = Outcome("no_answer", None)


class Pending:
    """An outcome to come: ``done`` says whether it is here, ``result`` waits for it."""

    __slots__ = ("_judge", "outcome")

    def __init__(self, outcome: Outcome | None, judge: Judge | None = None) -> None:
        self.outcome = outcome
        self._judge = judge

    def done(self) -> bool:
        return self.outcome is not None

    def result(self) -> Outcome:
        if self.outcome is None:
            assert self._judge is not None
            self._judge.wait_for(self)
        assert self.outcome is not None
        return self.outcome


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    gold: str
    answer: str
    pending: Pending
    key: bytes | None


class Judge:
    """Decides pairs under one policy. Use it as a context manager, from one thread.

    ``timeout_s``: seconds one comparison may take before its worker is killed. ``workers``: processes, started on
    entry; each, and this process, answers the pairs of ``warm_up`` first. ``cache``: where decided pairs are kept
    between runs; it is closed with the judge. Raises InputError for a setting that makes no sense and
    ``pool.GraderUnavailable`` where the parser is not fit to grade. ``asked`` counts the pairs that took a worker.
    """

    def __init__(
        self,
        *,
        policy: Policy = DEFAULT_POLICY,
        timeout_s: float = TIMEOUT_S,
        workers: int = 1,
        cache: Cache | None = None,
        warm_up: Sequence[tuple[str, str]] = (),
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise InputError(f"timeout_s = {timeout_s!r}: must be a number of seconds above 0")
        if workers < 1:
            raise InputError(f"workers = {workers!r}: must be at least 1")
        self.policy = policy
        self.asked = 0
        self._timeout_s = timeout_s
        self._count = workers
        self._cache = cache
        self._warm_up = warm_up
        self._workers: list[Worker] = []
        self._known: dict[tuple[str, str], Pending] = {}
        self._queue: deque[_Question] = deque()
        self._busy: dict[Worker, _Question] = {}

    def __enter__(self) -> Self:
        """Start the workers side by side, so that an unfit parser is known before anything is graded."""
        try:
            for _ in range(self._count):
                self._workers.append(Worker(self.policy, self._timeout_s))
            for worker in self._workers:
                worker.ready()
            for pair in self._warm_up:
                quick(*pair, self.policy)
                for worker in self._workers:
                    worker.ask(*pair)
                for worker in self._workers:
                    worker.reply(None)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and save the cache. Pairs not yet decided are dropped."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._queue.clear()
        self._busy.clear()
        if self._cache is not None:
            self._cache.close()

    def submit(self, gold: str, answer: str | None) -> Pending:
        """The outcome to come for an extracted answer (None: the text stated none)."""
        if not self._workers:
            raise RuntimeError("grading needs a `with` statement around the grader, which starts its workers")
        if answer is None:
            return Pending(NO_ANSWER)
        pair = (gold, answer)
        pending = self._known.get(pair)
        if pending is None:
            pending = self._known[pair] = self._decided_or_queued(gold, answer)
        if self._queue:
            self._serve(0.0)
        return pending

    def wait_for(self, pending: Pending) -> None:
        """Serve the workers until ``pending`` is decided."""
        while not pending.done():
            if not self._busy and not self._queue:
                raise RuntimeError("the grader was closed before this answer was decided")
            self._serve(_LOOK_S)

    def matches(self, gold: str, answer: str) -> Outcome:
        """Whether an answer, as written and without text around it, equals ``gold``."""
        return self.submit(gold, answer).result()

    def grade(self, gold: str, response: str) -> Outcome:
        """Whether the answer that a whole response states equals ``gold``."""
        return self.submit(gold, extract_answer(response)).result()

    def class_id(self, answer: str) -> str | None:
        """The class an answer votes for, from the answer alone; None beyond a limit."""
        return self.submit(answer, answer).result().class_id

    def _decided_or_queued(self, gold: str, answer: str) -> Pending:
        outcome = quick(gold, answer, self.policy)
        if outcome is not None:
            return Pending(outcome)
        key = None
        if self._cache is not None:
            key = verdict_key(_version(), dataclasses.asdict(self.policy), gold, answer)
            outcome = self._cache.get(key)
            if outcome is not None:
                return Pending(outcome)
        pending = Pending(None, self)
        self._queue.append(_Question(gold, answer, pending, key))
        self.asked += 1
        return pending

    def _serve(self, wait_s: float) -> None:
        """Take what the workers have decided, waiting up to ``wait_s`` for any, and ask the idle ones on."""
        for worker in self._workers:
            if worker not in self._busy:
                self._ask_on(worker)
        poll = select.poll()
        for worker in self._busy:
            poll.register(worker, select.POLLIN)
        poll.poll(wait_s * 1000)
        for worker in list(self._busy):
            outcome = worker.reply(0.0)
            if outcome is not None:
                self._settle(self._busy.pop(worker), outcome)
                self._ask_on(worker)

    def _ask_on(self, worker: Worker) -> None:
        if self._queue:
            question = self._busy[worker] = self._queue.popleft()
            worker.ask(question.gold, question.answer)

    def _settle(self, question: _Question, outcome: Outcome) -> None:
        question.pending.outcome = outcome
        if self._cache is not None and question.key is not None:
            self._cache.put(question.key, outcome)


@functools.cache
def _version() -> str:
    """The grader and the libraries it computes with: another sympy may read an answer otherwise.

    The sources are part of it, so that whoever works on the grader never meets a verdict of its last edit.
    """
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    libraries = (f"{name}={importlib.metadata.version(name)}" for name in _LIBRARIES)
    return " ".join([GRADER_VERSION, sources.hexdigest(), *libraries])
