"""``harness throughput --against vllm``: the same cells in vLLM, over a small grid of its settings; the best counts.

Prompts, length and temperature are a cell's, with no seeds by request and no detokenising; graphs are captured up to
the largest batch. A cell's clock starts with the step that brings the last row its first token: what comes before is
prefill.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from harness.bench.ceilings import product_flop_per_s
from harness.bench.cell import Cell, budget_of
from harness.bench.energy import joules
from harness.bench.roofline import Ceilings, Workload, step_seconds
from harness.bench.throughput import REPEATED_UP_TO, REPEATS, STRETCHES, WARM_UP_TOKENS
from harness.engine.vllm import VllmBackend, VllmEngine
from harness.engine.vllm_folder import load_for_vllm
from harness.models.resolve import LoadedModel
from harness.records import InputError
from harness.report.throughput import Measurement, Row


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One point of vLLM's grid."""

    multiprocess: bool
    asynchronous: bool

    def __str__(self) -> str:
        where = "multiprocess" if self.multiprocess else "in-process"
        return f"{where}, {'asynchronous' if self.asynchronous else 'synchronous'} scheduling"


SETTINGS = tuple(Setting(m, a) for m in (False, True) for a in (False, True))


@dataclasses.dataclass(frozen=True, slots=True)
class Circumstances:
    """What the cells of all engines share."""

    device: torch.device
    device_name: str
    dtype: torch.dtype
    state_dtype: torch.dtype
    ceilings: Ceilings
    ignore_eos: bool
    seed: int = 0


def measure_rival(
    name: str, cells: Sequence[Cell], given: Circumstances, tell: Callable[[str], None]
) -> list[Measurement]:
    """The best measurement of each cell; ``tell`` gets a line for every one, and for what vLLM would not run."""
    best: dict[Cell, Measurement] = {}
    if not cells:
        return []
    try:
        model = load_for_vllm(name, given.dtype, given.seed)
    except InputError as error:
        tell(f"not beside vLLM: {error}")
        return []
    for setting in SETTINGS:
        try:
            engine = _engine(name, model, cells, given, setting)
        except InputError as error:
            tell(f"{model.name}, vLLM {setting}: {error}")
            continue
        for cell in cells:
            if cell.batch > engine.capacity and cell.rows_per_prompt == 1:
                tell(f"{model.name}, vLLM {setting}: its cache holds {engine.capacity} rows, not {cell.batch}")
                continue
            found = _measure(engine, model, cell, given)
            tell(
                f"{model.name}, vLLM {engine.facts['version']} {setting}: {cell.batch} x {cell.new_tokens}:"
                f" {found.row.tokens_per_s:,.0f} tokens/s"
            )
            if cell not in best or found.row.tokens_per_s > best[cell].row.tokens_per_s:
                best[cell] = found
        engine.close()
    return [best[cell] for cell in cells if cell in best]


def _engine(name: str, model: LoadedModel, cells: Sequence[Cell], given: Circumstances, setting: Setting) -> VllmEngine:
    tokens = max(cell.prompt + cell.new_tokens for cell in cells)
    batch = max(cell.batch for cell in cells)
    return VllmEngine(
        name, model, given.device, tokens, batch, given.seed, given.state_dtype,
        multiprocess=setting.multiprocess, async_scheduling=setting.asynchronous,
    )  # fmt: skip


def _measure(engine: VllmEngine, model: LoadedModel, cell: Cell, given: Circumstances) -> Measurement:
    _run(engine, model, dataclasses.replace(cell, new_tokens=min(WARM_UP_TOKENS, cell.new_tokens)), given)
    short = cell.new_tokens <= REPEATED_UP_TO
    with joules(given.device) as energy:
        runs = [_run(engine, model, cell, given) for _ in range(REPEATS if short else 1)]
    windows = [run for _, run in runs]
    rates = [_rate(run) for run in windows] if short else [_rate(p) for p in np.array_split(windows[0], STRETCHES)]
    steps_s = statistics.median(float(run[:, 1].sum()) / len(run) for run in windows)
    tokens = len(runs) * cell.batch * cell.new_tokens
    config, kinds = model.config, (given.dtype.itemsize, given.state_dtype.itemsize)
    work = Workload(cell.batch, cell.prompt, cell.new_tokens, cell.rows_per_prompt, *kinds, deferred=False)
    own = product_flop_per_s(config, cell.batch, given.dtype, given.device)
    limit_s = step_seconds(config, work, dataclasses.replace(given.ceilings, product_flop_per_s=own))
    row = Row(
        model=model.name,
        engine="vllm",
        device=given.device_name,
        dtype=_name(given.dtype),
        state_dtype=_name(given.state_dtype),
        batch=cell.batch,
        prompt=cell.prompt,
        new_tokens=cell.new_tokens,
        tokens_per_s=statistics.median(rates) if short else _rate(windows[0]),
        ms_per_step=1000 * steps_s,
        roofline_share=limit_s / steps_s,
        host_gap_share=None,
        sampling_share=None,
        peak_gib=None,
        joules_per_ktok=None if energy.value is None else 1000 * energy.value / tokens,
    )
    return Measurement(row, min(rates), max(rates), statistics.median(prefill_s for prefill_s, _ in runs))


def _run(engine: VllmEngine, model: LoadedModel, cell: Cell, given: Circumstances) -> tuple[float, np.ndarray]:
    """Seconds of prefill; tokens and seconds of each step after it: [steps, 2]."""
    count = -(-cell.batch // cell.rows_per_prompt)
    rng = np.random.default_rng(given.seed)
    prompts = rng.integers(0, model.config.vocab_size, (count, cell.prompt)).tolist()
    ids = [f"row-{i}" for i in range(count)]
    backend = VllmBackend(
        engine, model, budget_of(cell, given.seed), prompts, ids, cell.batch, ignore_eos=given.ignore_eos
    )
    backend.begin_round()
    slots = range(cell.batch)
    began = time.perf_counter()
    backend.fork([slot // cell.rows_per_prompt for slot in slots], slots, slots)
    while backend.unseen:
        backend.window(cell.batch, 1)
    taken, last = [(0.0, 0.0)], time.perf_counter()
    prefill_s = last - began
    while backend.running:
        window, now = backend.window(cell.batch, 1), time.perf_counter()
        taken.append((float(window.count.sum()), now - last))
        last = now
    for slot in slots:
        backend.release(slot)
    return prefill_s, np.array(taken[1:] or taken)


def _rate(windows: np.ndarray) -> float:
    tokens, seconds = windows.sum(axis=0)
    return float(tokens / seconds) if seconds else 0.0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
