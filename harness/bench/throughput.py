"""Tokens per second over batch x length x model, beside what the roofline allows.

A cell decodes ``batch`` rows for ``new_tokens`` steps behind prompts of random tokens, sampling included, through the
same backend and the same windows as a benchmark; loading, prefill and a warm-up are timed apart. Short cells are
repeated and give their median; long ones run once and give the spread over eight stretches of their steps.
Where a trace can be had (the native engine on a GPU), a window in the middle of the chains is split by kernel; a row's
products are held to the faster of those in its split and the same by themselves.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.bench.ceilings import median_seconds, product_flop_per_s, seconds_each, wait_for
from harness.bench.cell import Cell, budget_of
from harness.bench.energy import joules
from harness.bench.fit import Fit
from harness.bench.roofline import Ceilings, Workload, products_flop, step_products, step_seconds
from harness.engine.engines import AnyBackend, check_model, make_backend
from harness.engine.memory import available_bytes
from harness.engine.sampler import LOOK_EVERY
from harness.models.config import DecoderConfig
from harness.models.resolve import LoadedModel
from harness.report.throughput import KernelTime, Measurement, Row

WARM_UP_TOKENS = 64
REPEATS = 3
REPEATED_UP_TO = 1024
STRETCHES = 8


class Bench:
    """One loaded model measured cell by cell; ``device_name`` goes into the rows."""

    def __init__(
        self,
        model: LoadedModel,
        device_name: str,
        ceilings: Ceilings,
        ignore_eos: bool,
        engine: str = "eager",
        state_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        check_model(engine, model.config)
        self.model, self.device_name, self.ceilings = model, device_name, ceilings
        self.ignore_eos, self.engine, self.state_dtype, self.seed = ignore_eos, engine, state_dtype, seed
        self.device = model.decoder.device
        self.product_ceilings: dict[int, float] = {}  # FLOP/s by batch

    def measure(self, cell: Cell) -> Measurement:
        """InputError, before anything runs, where the cell does not fit."""
        config, dtype = self.model.config, self.model.decoder.embedding.weight.dtype
        free_bytes = available_bytes(self.device)
        fit = Fit(self.model.name, config, dtype, self.engine, self.state_dtype, free_bytes)
        fit.check(cell)  # first: products of a batch far too large would not fit either
        if cell.batch not in self.product_ceilings:
            self.product_ceilings[cell.batch] = product_flop_per_s(config, cell.batch, dtype, self.device)
        # Asked anew, which also gives back what the products leave in the allocator's cache.
        largest = dataclasses.replace(fit, free_bytes=available_bytes(self.device)).largest(cell)
        prompts = self._prompts(cell)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        backend = make_backend(
            self.engine, self.model, budget_of(cell, self.seed), prompts, [f"row-{i}" for i in range(len(prompts))],
            cell.batch, self.ignore_eos, self.state_dtype,
        )  # fmt: skip
        prefill_s = self._prefill(backend)
        self._decode(backend, cell, min(WARM_UP_TOKENS, cell.new_tokens))
        short = cell.new_tokens <= REPEATED_UP_TO
        busy_s = backend.busy_s
        with joules(self.device) as energy:
            runs = [self._decode(backend, cell, cell.new_tokens) for _ in range(REPEATS if short else 1)]
        tokens = sum(int(run[:, 0].sum()) for run in runs)
        rates = [_rate(run) for run in runs] if short else [_rate(part) for part in np.array_split(runs[0], STRETCHES)]
        overall = statistics.median(rates) if short else _rate(runs[0])
        seconds = statistics.median(float(run[:, 1].sum()) for run in runs)
        gap = None
        if busy_s is not None and backend.busy_s is not None:
            gap = 1 - (backend.busy_s - busy_s) / sum(float(run[:, 1].sum()) for run in runs)
        split, alone = self._split(backend, cell), self.product_ceilings[cell.batch]
        products = max(alone, flop_per_s_of(split, config, cell.batch))
        joules_a_token = None if energy.value is None else energy.value / tokens
        row = self._row(cell, overall, seconds, backend, gap, joules_a_token, products)
        products_us = 1e6 * products_flop(config, cell.batch) / alone
        return Measurement(row, min(rates), max(rates), prefill_s, split, largest, products_us)

    def _row(
        self,
        cell: Cell,
        rate: float,
        seconds: float,
        backend: AnyBackend,
        gap: float | None,
        joules_a_token: float | None,
        products: float,
    ) -> Row:
        """``products``: FLOP/s that a step's products are held to."""
        weights, state = backend.logits.dtype, backend.state.state_dtype
        ms_per_step = 1000 * seconds / cell.new_tokens
        work = Workload(
            cell.batch,
            cell.prompt,
            cell.new_tokens,
            cell.rows_per_prompt,
            weights.itemsize,
            state.itemsize,
            deferred=self.engine == "native",
        )
        ceilings = dataclasses.replace(self.ceilings, product_flop_per_s=products)
        limit_s = step_seconds(self.model.config, work, ceilings)
        on_gpu = self.device.type == "cuda"
        # As a step has it, without the gaps between launches; the plain engine's draw cannot be captured.
        timed = seconds_each if on_gpu and self.engine == "native" else median_seconds
        sampling_s = timed(backend.draw_all, self.device)
        return Row(
            model=self.model.name,
            engine=self.engine,
            device=self.device_name,
            dtype=_name(weights),
            state_dtype=_name(state),
            batch=cell.batch,
            prompt=cell.prompt,
            new_tokens=cell.new_tokens,
            tokens_per_s=rate,
            ms_per_step=ms_per_step,
            roofline_share=1000 * limit_s / ms_per_step,
            host_gap_share=gap,
            sampling_share=1000 * sampling_s / ms_per_step,
            peak_gib=torch.cuda.max_memory_allocated(self.device) / 2**30 if on_gpu else None,
            joules_per_ktok=None if joules_a_token is None else 1000 * joules_a_token,
        )

    def _prompts(self, cell: Cell) -> list[list[int]]:
        count = -(-cell.batch // cell.rows_per_prompt)
        generator = np.random.default_rng(self.seed)
        return generator.integers(0, self.model.config.vocab_size, (count, cell.prompt)).tolist()

    def _prefill(self, backend: AnyBackend) -> float:
        backend.prefill([0])
        wait_for(self.device)
        began = time.perf_counter()
        backend.prefill(range(len(backend.prompts)))
        wait_for(self.device)
        return time.perf_counter() - began

    def _split(self, backend: AnyBackend, cell: Cell) -> tuple[KernelTime, ...]:
        if self.engine != "native" or self.device.type != "cuda":
            return ()
        from harness.bench.plan import plan_step
        from harness.bench.split import STEPS, split_of
        from harness.engine.graph import GraphBackend

        if cell.new_tokens < 2 * STEPS:
            return ()
        assert isinstance(backend, GraphBackend)
        weights, state = backend.logits.dtype, backend.state.state_dtype
        plan = plan_step(self.model.config, self.model.codec, cell, weights, state)
        self._fork(backend, cell)
        self._advance(backend, cell, cell.new_tokens // 2)
        split = split_of(backend, cell.batch, plan)
        self._release(backend, cell)
        return split

    def _decode(self, backend: AnyBackend, cell: Cell, new_tokens: int) -> np.ndarray:
        """Fork anew and decode; tokens that counted and seconds of each window: [windows, 2]."""
        self._fork(backend, cell)
        wait_for(self.device)
        taken = self._advance(backend, cell, new_tokens)
        self._release(backend, cell)
        return taken

    def _fork(self, backend: AnyBackend, cell: Cell) -> None:
        slots = range(cell.batch)
        backend.fork([slot // cell.rows_per_prompt for slot in slots], slots, slots)

    def _release(self, backend: AnyBackend, cell: Cell) -> None:
        for slot in range(cell.batch):
            backend.release(slot)

    def _advance(self, backend: AnyBackend, cell: Cell, new_tokens: int) -> np.ndarray:
        taken, queued = [], 0
        flights: deque[Any] = deque()
        last = time.perf_counter()
        while flights or queued < new_tokens:
            while queued < new_tokens and len(flights) < backend.depth:
                steps = min(LOOK_EVERY, new_tokens - queued)
                flights.append(backend.launch(cell.batch, steps))
                queued += steps
            window, now = backend.collect(flights.popleft()), time.perf_counter()
            taken.append((float(window.count.sum()), now - last))
            last = now
        return np.array(taken)


def flop_per_s_of(split: Sequence[KernelTime], config: DecoderConfig, rows: int) -> float:
    """FLOP/s of a step's products in its own trace; 0 where there is none, or one that has not all of them."""
    if not split:
        return 0.0
    from harness.bench.split import PRODUCTS

    count = step_products(config).total()
    us = next((part.us for part in split if part.name == PRODUCTS and part.launches == count), math.inf)
    return 1e6 * products_flop(config, rows) / us


def _rate(windows: np.ndarray) -> float:
    return float(windows[:, 0].sum() / windows[:, 1].sum())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
