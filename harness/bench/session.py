"""Sampling one model: prompts, batch, backend, warm-up, rounds. Everything but the rounds is off the clock."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from harness.bench.settings import Settings
from harness.engine.backend import Backend
from harness.engine.clock import Clock, FakeClock, RealClock
from harness.engine.engines import check_model, look_every, make_backend
from harness.engine.memory import check_batch, largest_batch
from harness.engine.sampler import LOOK_EVERY, Job, RoundLabel, Sampler, Sink
from harness.models.resolve import LoadedModel, load_model
from harness.records import Budget, InputError, Problem, Progress

if TYPE_CHECKING:  # imports kernels that the plain engine does without
    from harness.engine.graph import GraphBackend

WARM_UP_WINDOWS = 2
# On a CPU, products of models below this are too small to share: one thread is as fast as two on an idle machine
# (tiny-teacher 26 against 29 ms a step, tiny-mamba 15 against 14) and ten times faster on a busy one.
SMALL_MODEL_PARAMETERS = 50_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    problem: Problem
    tokens: tuple[int, ...]


class Session:
    """One loaded model on one list of problems."""

    def __init__(self, settings: Settings, model_name: str, problems: Sequence[Problem]) -> None:
        began = time.monotonic()
        self.settings = settings
        self.saturated = 0  # entries of fp16 states that were clamped
        self.look_every = look_every(settings.engine)
        self.model = self._load(model_name)
        small = sum(p.numel() for p in self.model.decoder.parameters()) < SMALL_MODEL_PARAMETERS
        self.threads = 1 if small else os.cpu_count() or 1
        self.prompts = tuple(self._prompt(p) for p in problems)
        self.load_s = time.monotonic() - began

    def _load(self, model_name: str) -> LoadedModel:
        settings = self.settings
        model = load_model(model_name, settings.dtype, settings.device, settings.budget.seed)
        check_model(settings.engine, model.config)
        return model

    def _prompt(self, problem: Problem) -> Prompt:
        tokens = self.settings.style.tokens(self.model.codec, self.settings.task, problem)
        context, new = self.model.config.context, self.settings.budget.max_new_tokens
        if len(tokens) >= context:
            raise InputError(
                f"problem {problem.id}: its prompt has {len(tokens)} tokens, {self.model.name} a context of {context};"
                " leave the problem out or take another model"
            )
        if len(tokens) + new > context:
            raise InputError(
                f"budget.max_new_tokens = {new}: problem {problem.id} has {len(tokens)} prompt tokens and"
                f" {self.model.name} a context of {context}; use at most {context - len(tokens)}"
            )
        return Prompt(problem, tuple(tokens))

    @property
    def _engine(self) -> tuple[str, torch.dtype]:
        return self.settings.engine, self.settings.state_dtype

    @property
    def prompt_tokens(self) -> list[int]:
        return [len(p.tokens) for p in self.prompts]

    def batch(self, wanted: int | str, jobs: int) -> int:
        """The number of slots: as asked, or all that memory holds (no more than there are jobs)."""
        new_tokens, rows = self.settings.budget.max_new_tokens, self.settings.fixed_rows
        if rows is not None:
            fits = largest_batch(self.model.decoder, self.prompt_tokens, new_tokens, *self._engine)
            if rows > fits:
                raise InputError(f"--fixed-rows {rows}: memory holds {fits} of {new_tokens} tokens; use at most {fits}")
            return min(jobs, wanted if isinstance(wanted, int) else rows)
        if isinstance(wanted, int):
            check_batch(self.model.decoder, self.prompt_tokens, new_tokens, wanted, *self._engine)
            return min(wanted, jobs)
        return min(jobs, largest_batch(self.model.decoder, self.prompt_tokens, new_tokens, *self._engine))

    def sample(
        self,
        batch: int,
        budget: Budget,
        sink: Sink,
        done: Mapping[int, Progress],
        on_look: Callable[[int, int, float], None] | None = None,
        around: Callable[[RoundLabel, Clock], contextlib.AbstractContextManager[None]] | None = None,
    ) -> dict[str, float]:
        """Run all rounds; ``done`` is what a log already holds of each. Returns seconds spent off the clock.

        ``around(label, clock)`` gives a context manager that lasts for a round (a heartbeat, say).
        """
        if self.settings.device.type == "cpu":
            torch.set_num_threads(self.threads)
        clock: Clock = FakeClock() if self.settings.fake_clock else RealClock()
        began = time.monotonic()
        backend = self._backend(batch, budget)
        self._warm_up(backend)
        warm_up_s = time.monotonic() - began
        codec = self.model.codec
        sampler = Sampler(
            backend, codec.token_bytes, codec.eos, self.prompt_tokens, budget, clock, sink, self.look_every, on_look
        )
        for number, jobs in enumerate(rounds(budget, self.prompts)):
            label = RoundLabel(self.model.name, self.settings.task.name, batch, number)
            self._begin_round(backend)
            with contextlib.nullcontext() if around is None else around(label, clock):
                sampler.run(label, jobs, done.get(number))
        if self.settings.engine == "native":
            self.saturated = cast("GraphBackend", backend).state.saturated()
        return {"load_s": self.load_s, "warm_up_s": warm_up_s}

    def _backend(self, batch: int, budget: Budget) -> Backend:
        return make_backend(
            self.settings.engine, self.model, budget, [p.tokens for p in self.prompts],
            [p.problem.id for p in self.prompts], batch, state_dtype=self.settings.state_dtype,
            fixed_rows=self.settings.fixed_rows,
        )  # fmt: skip

    def _begin_round(self, backend: Backend) -> None:
        """What an engine must do before a round's clock starts."""

    def facts(self) -> dict[str, Any]:
        """What a manifest says of an engine that is not ours."""
        return {}

    def close(self) -> None:
        """Give back what only the engine can give back."""

    def _warm_up(self, backend: Backend) -> None:
        """Touch every kernel, prompt and buffer once; rounds prefill anew, so nothing of it counts."""
        backend.prefill(range(len(self.prompts)))
        backend.fork([0] * backend.slots, range(backend.slots), range(backend.slots))
        for _ in range(WARM_UP_WINDOWS):
            backend.window(backend.slots, LOOK_EVERY)
        for slot in range(backend.slots):
            backend.release(slot)
        if self.settings.device.type == "cuda":
            torch.cuda.synchronize()


def rounds(budget: Budget, prompts: Sequence[Prompt]) -> list[list[Job]]:
    """Jobs of each round: all problems sample by sample on clock ``task``, a problem at a time on ``problem``."""
    samples = range(budget.samples_per_problem)
    if budget.clock == "task":
        return [[Job(i, p.problem.id, j) for j in samples for i, p in enumerate(prompts)]]
    return [[Job(i, p.problem.id, j) for j in samples] for i, p in enumerate(prompts)]
