"""Sampling one model with vLLM: the same prompts, rounds, clock and log; what differs is who decodes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from harness.bench.session import Session
from harness.bench.settings import Settings
from harness.engine.backend import Backend
from harness.engine.memory import available_bytes, largest_batch
from harness.engine.vllm import VllmBackend, VllmEngine
from harness.engine.vllm_folder import load_for_vllm
from harness.models.resolve import LoadedModel
from harness.records import Budget, InputError, Problem


class VllmSession(Session):
    """One model loaded in vLLM; our decoder of it keeps its shapes alone. ``close`` it before the next is loaded."""

    def __init__(self, settings: Settings, model_name: str, problems: Sequence[Problem]) -> None:
        self.model_name = model_name
        self.engine: VllmEngine | None = None
        self.backend: VllmBackend | None = None
        super().__init__(settings, model_name, problems)
        self.threads = os.cpu_count() or 1  # vLLM binds them itself

    def _load(self, model_name: str) -> LoadedModel:
        return load_for_vllm(model_name, self.settings.dtype, self.settings.budget.seed)

    def batch(self, wanted: int | str, jobs: int) -> int:
        """Loads the model into vLLM, whose cache then says what fits."""
        slots = min(jobs, wanted if isinstance(wanted, int) else self._largest())
        engine = self._open(slots)
        if isinstance(wanted, int) and slots > engine.capacity:
            raise InputError(
                f"budget.batch = {wanted}: vLLM's cache holds {engine.capacity} sequences of {engine.max_tokens}"
                f" tokens; use {engine.capacity} or max"
            )
        return min(slots, engine.capacity)

    def _largest(self) -> int:
        """What our plan of the memory allows beside the weights, which are not on the device yet."""
        weights = sum(p.numel() * p.element_size() for p in self.model.decoder.parameters())
        free = available_bytes(self.settings.device) - weights
        new_tokens = self.settings.budget.max_new_tokens
        return largest_batch(
            self.model.decoder, self.prompt_tokens, new_tokens, "eager", self.settings.state_dtype, free
        )

    def _open(self, batch: int) -> VllmEngine:
        if self.engine is None:
            began = time.monotonic()
            settings, model = self.settings, self.model
            tokens = max(self.prompt_tokens) + settings.budget.max_new_tokens
            self.engine = VllmEngine(
                self.model_name, model, settings.device, tokens, batch, settings.budget.seed, settings.state_dtype
            )
            model.decoder.to_empty(device=torch.device("meta"))  # vLLM has the weights now
            self.load_s += time.monotonic() - began
        return self.engine

    def _backend(self, batch: int, budget: Budget) -> Backend:
        prompts, ids = [p.tokens for p in self.prompts], [p.problem.id for p in self.prompts]
        engine, seeds = self._open(batch), self.settings.request_seeds
        self.backend = VllmBackend(engine, self.model, budget, prompts, ids, batch, seeds)
        return self.backend

    def _begin_round(self, backend: Backend) -> None:
        assert isinstance(backend, VllmBackend)
        backend.begin_round()

    def facts(self) -> dict[str, Any]:
        """Version and settings, whose draws these are, and the prefills of the last rounds."""
        assert self.engine is not None and self.backend is not None, "asked once it has sampled"
        return {
            **self.engine.facts,
            "draws": "vLLM's own: not those of the engines eager and native",
            "request_seeds": self.settings.request_seeds,
            "prefills": self.backend.prefills,
        }

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def open_session(settings: Settings, model_name: str, problems: Sequence[Problem]) -> Session:
    """A session of the engine that the settings name."""
    kind = VllmSession if settings.engine == "vllm" else Session
    return kind(settings, model_name, problems)
