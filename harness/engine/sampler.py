"""The scheduler: deals samples to slots, looks every k steps, ends rows, refills slots, keeps the clock's rules.

The same for every model and backend. A round is what one clock measures: all problems on clock
``task``, one problem on clock ``problem``. Each pass submits, decodes a window, looks, commits; a backend
of depth 2 decodes the next window meanwhile, so that a slot is refilled one window later. After
a kill, a round is taken up at its last committed look: rows in flight are decoded again off the
clock to where they were, which gives the same tokens, since draws depend on nothing but the row.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from harness.engine.backend import Backend, Window, pass_length
from harness.engine.clock import Clock
from harness.engine.stopping import StopScanner
from harness.records import Budget, Finish, Look, Progress, Trajectory

LOOK_EVERY = 8  # decode steps between two looks: part of what t_finish means, recorded in the manifest


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One sample to draw: ``prompt`` indexes the backend's prompts."""

    prompt: int
    problem_id: str
    sample: int


@dataclasses.dataclass(frozen=True, slots=True)
class RoundLabel:
    model: str
    task: str
    batch: int
    round: int


class Sink(Protocol):
    def commit(self, finished: Sequence[Trajectory], look: Look) -> None:
        """Make a look and the trajectories it ended durable, together."""


@dataclasses.dataclass(slots=True)
class _Row:
    job: Job
    place: int  # in the queue
    t_submit: float
    scanner: StopScanner
    t_first: float | None = None
    tokens: int = 0
    logprob: float | None = 0.0
    finish: Finish | None = None


@dataclasses.dataclass(slots=True)
class _Flight:
    """A window under way: which row sits in which slot, and who runs for the first time in it."""

    rows: dict[int, _Row]
    submitted: list[_Row]
    launched: Any


class Sampler:
    """Runs rounds of one model on one backend.

    ``token_bytes`` and ``eos`` are the tokenizer's; ``prompt_tokens`` the length of each prompt.
    ``on_look`` is told (finished so far, jobs, clock) for a progress bar.
    """

    def __init__(
        self,
        backend: Backend,
        token_bytes: Sequence[bytes],
        eos: Sequence[int],
        prompt_tokens: Sequence[int],
        budget: Budget,
        clock: Clock,
        sink: Sink,
        look_every: int = LOOK_EVERY,
        on_look: Callable[[int, int, float], None] | None = None,
    ) -> None:
        self.backend, self.token_bytes, self.eos = backend, token_bytes, frozenset(eos)
        self.prompt_tokens, self.budget, self.clock, self.sink = prompt_tokens, budget, clock, sink
        self.look_every, self.on_look = look_every, on_look

    def run(self, label: RoundLabel, jobs: Sequence[Job], progress: Progress | None = None) -> None:
        """Run one round to its end; ``progress`` takes it up where a log left it.

        Clock ``task`` wants ``jobs`` sample by sample over all problems (j outer, i inner).
        """
        _Round(self, label, jobs).run(progress)


class _Round:
    def __init__(self, sampler: Sampler, label: RoundLabel, jobs: Sequence[Job]) -> None:
        self.s, self.label, self.jobs = sampler, label, jobs
        self.backend, self.clock, self.budget = sampler.backend, sampler.clock, sampler.budget
        self.rows: dict[int, _Row] = {}
        self.free = list(range(self.backend.slots))
        self.next_job = 0
        self.look = 0
        self.done = 0
        self.prefilled: set[int] = set()

    def run(self, progress: Progress | None) -> None:
        if progress is not None and progress.looks:
            if progress.looks[-1].ended:
                return
            self._recover(progress)
            self.clock.start(progress.clock_s)
        else:
            self.clock.start(0.0)
        flights: deque[_Flight] = deque()
        while True:
            while len(flights) < self.backend.depth and (flight := self._launch()):
                flights.append(flight)
            if not flights:
                # Taken up behind its deadline, nothing in flight: a look must still close the round.
                self.s.sink.commit([], self._look(self.clock.now(), [], True))
                break
            flight = flights.popleft()
            if all(row.finish for row in flight.rows.values()):
                continue  # queued before the look that ended them all
            window = self.backend.collect(flight.launched)
            self.clock.tick("step", self.s.look_every)
            now = self.clock.now()
            finished = self._finished(flight, window, now)
            over = now >= self.budget.deadline_s
            ended = not self.rows and (over or self.next_job == len(self.jobs))
            submitted = flight.submitted + [row for f in flights for row in f.submitted if ended]
            self.s.sink.commit(finished, self._look(now, submitted, ended))
            self.done += len(finished)
            self.look += 1
            if self.s.on_look is not None:
                self.s.on_look(self.done, len(self.jobs), now)
            if ended:
                break
        self.clock.pause()

    def _look(self, now: float, submitted: list[_Row], ended: bool) -> Look:
        rows = tuple((r.job.problem_id, r.job.sample, r.t_submit) for r in submitted)
        return Look(self.label.model, self.label.batch, self.label.round, self.look, now, rows, ended)

    def _submit(self) -> list[_Row]:
        """Fill free slots from the queue, nothing at or past the deadline; a prompt is prefilled once.

        Rows come in by passes, each of so many prompts not seen before as the backend runs at once: those of a pass are
        submitted in the same second, and the clock is asked between passes. On a GPU a pass is queued, not waited for.
        """
        new: list[_Row] = []
        slots = len(self.free)
        while (
            len(new) < slots and self.next_job < len(self.jobs) and (now := self.clock.now()) < self.budget.deadline_s
        ):
            count = self._prefill(self.jobs[self.next_job : self.next_job + slots - len(new)])
            new += [self._row(self.jobs[at], at, now) for at in range(self.next_job, self.next_job + count)]
            self.next_job += count
        self._seat(new)
        return new

    def _row(self, job: Job, place: int, t_submit: float) -> _Row:
        return _Row(job, place, t_submit, StopScanner(self.budget.stop, self.budget.stop_after_boxed))

    def _prefill(self, jobs: Sequence[Job]) -> int:
        """One pass of what ``jobs`` wait for, in their order; how many of them it serves.

        Which prompts share a pass follows from the jobs and from what was prefilled before, so that ``_recover`` makes
        the same passes: a prompt's logits may differ in their last bits with what it is packed with.
        """
        tokens: list[int] = []
        seen: set[int] = set()
        for job in jobs:
            known = job.prompt in self.prefilled or job.prompt in seen
            tokens.append(0 if known else self.s.prompt_tokens[job.prompt])
            seen.add(job.prompt)
        count = pass_length(tokens, self.backend.pass_tokens)
        prompts = list(dict.fromkeys(job.prompt for job in jobs[:count] if job.prompt not in self.prefilled))
        if prompts:
            self.backend.prefill(prompts)
            self.clock.tick("prefill", sum(tokens[:count]))
            self.prefilled.update(prompts)
        return count

    def _seat(self, new: list[_Row]) -> None:
        if not new:
            return
        slots = [heapq.heappop(self.free) for _ in new]
        self.backend.fork([r.job.prompt for r in new], [r.job.sample for r in new], slots)
        self.rows.update(zip(slots, new, strict=True))

    def _compact(self) -> None:
        """Close gaps, so that the rows that are stepped are the rows that live."""
        while self.rows and max(self.rows) >= len(self.rows):
            source = max(self.rows)
            target = heapq.heappop(self.free)
            self.backend.move(source, target)
            self.rows[target] = self.rows.pop(source)
            heapq.heappush(self.free, source)

    def _launch(self) -> _Flight | None:
        """Fill the free slots and queue a window of all rows; None where there is nothing to decode."""
        submitted = self._submit()
        self._compact()
        if not self.rows:
            return None
        launched = self.backend.launch(max(self.rows) + 1, self.s.look_every)
        return _Flight(dict(self.rows), submitted, launched)

    def _finished(self, flight: _Flight, window: Window, now: float) -> list[Trajectory]:
        """Take in a window's tokens; the trajectories that this look ends, in the queue's order (slots change)."""
        over = now > self.budget.deadline_s
        out = []
        self._absorb_all(flight.rows, window)
        for row in flight.rows.values():
            if row.t_first is None and row.tokens:
                row.t_first = now
        for slot, row in sorted(self.rows.items(), key=lambda item: item[1].place):
            if over and not self.budget.drain:
                row.finish = "deadline"
                row.t_first = now if row.t_first is None else row.t_first
            if row.finish is not None:
                out.append(self._trajectory(row, now, late=over and self.budget.drain))
                del self.rows[slot]
                self.backend.release(slot)
                heapq.heappush(self.free, slot)
        return out

    def _absorb_all(self, rows: dict[int, _Row], window: Window) -> None:
        tokens, counts = window.tokens.T.tolist(), window.count.tolist()
        logprobs = None if window.logprobs is None else window.logprobs.T.tolist()
        for slot, row in rows.items():
            count = counts[slot]
            self._absorb(row, tokens[slot][:count], None if logprobs is None else logprobs[slot][:count])

    def _absorb(self, row: _Row, tokens: list[int], logprobs: list[float] | None) -> None:
        """Count a row's new tokens up to the one that ends it; what comes after is dropped."""
        if row.finish is not None or not tokens:
            return
        finish: Finish | None = None
        # EOS and length can only stand last: the device stops counting there.
        text = tokens[:-1] if tokens[-1] in self.s.eos else tokens
        stopped = row.scanner.feed([self.s.token_bytes[t] for t in text])
        if stopped is not None:
            tokens, finish = tokens[: stopped + 1], "stop"
        elif len(text) < len(tokens):
            finish = "eos"
        elif row.tokens + len(tokens) >= self.budget.max_new_tokens:
            finish = "length"
        row.tokens += len(tokens)
        row.finish = finish
        if logprobs is None or row.logprob is None:
            row.logprob = None
        else:
            row.logprob += math.fsum(logprobs[: len(tokens)])
            row.finish = finish if math.isfinite(row.logprob) else "error"

    def _trajectory(self, row: _Row, now: float, late: bool) -> Trajectory:
        assert row.t_first is not None and row.finish is not None
        return Trajectory(
            model=self.label.model,
            task=self.label.task,
            batch=self.label.batch,
            problem_id=row.job.problem_id,
            sample=row.job.sample,
            t_submit=row.t_submit,
            t_first_token=row.t_first,
            t_finish=now,
            prompt_tokens=self.s.prompt_tokens[row.job.prompt],
            new_tokens=row.tokens,
            finish=row.finish,
            late=late,
            text=row.scanner.kept().decode("utf-8", errors="replace"),
            logprob=row.logprob if row.logprob is None or math.isfinite(row.logprob) else 0.0,
        )

    def _recover(self, progress: Progress) -> None:
        """Stand where the last look stood: decode the rows in flight again, off the clock."""
        place_of = {(j.problem_id, j.sample): place for place, j in enumerate(self.jobs)}
        self.next_job = sum(len(look.submitted) for look in progress.looks)
        self.done = len(progress.finished)
        self.look = progress.looks[-1].look + 1
        for look in progress.looks:
            jobs = [self.jobs[place_of[problem_id, sample]] for problem_id, sample, _ in look.submitted]
            while jobs:
                jobs = jobs[self._prefill(jobs) :]
        for look in progress.looks:
            new = []
            for problem_id, sample, t_submit in look.submitted:
                if (problem_id, sample) not in progress.finished:
                    place = place_of[problem_id, sample]
                    row = self._row(self.jobs[place], place, t_submit)
                    row.t_first = look.clock_s
                    new.append(row)
            self._seat(new)
            if self.rows:
                self._absorb_all(self.rows, self.backend.window(max(self.rows) + 1, self.s.look_every))
