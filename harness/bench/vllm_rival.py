"""``harness throughput --against vllm``: the same cells in vLLM, over a small grid of its settings; the best counts.

Prompts, length and temperature are a cell's, with no seeds by request and no detokenising; graphs are captured up to
the largest batch. A cell's clock starts with the step that brings the last row its first token: what comes before is
prefill. One start of vLLM serves all cells of a setting.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np

from harness.bench.cell import Cell, budget_of
from harness.bench.energy import joules
from harness.bench.rival import Circumstances, Ran, Tell, product_ceilings, rival_row
from harness.bench.throughput import REPEATED_UP_TO, REPEATS, STRETCHES, WARM_UP_TOKENS
from harness.engine.vllm import VllmBackend, VllmEngine
from harness.engine.vllm_folder import load_for_vllm
from harness.models.resolve import LoadedModel
from harness.records import InputError, nearest
from harness.report.throughput import Measurement


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One point of vLLM's grid."""

    multiprocess: bool
    asynchronous: bool

    @property
    def words(self) -> tuple[str, str]:
        return PROCESSES[self.multiprocess], SCHEDULING[self.asynchronous]

    def __str__(self) -> str:
        return f"{self.words[0]}, {self.words[1]} scheduling"


PROCESSES = ("in-process", "multiprocess")
SCHEDULING = ("synchronous", "asynchronous")
SETTINGS = tuple(Setting(m, a) for m in (False, True) for a in (False, True))


def chosen_settings(words: str | None) -> tuple[Setting, ...]:
    """Those of the grid that comma-separated words name; where neither word of a kind is named, both are meant."""
    named = [word.strip() for word in words.split(",")] if words else []
    for word in named:
        if word not in PROCESSES + SCHEDULING:
            raise InputError(f"--vllm-settings {word!r}: {nearest(word, PROCESSES + SCHEDULING)}")
    kinds = [[word for word in kind if word in named] or kind for kind in (PROCESSES, SCHEDULING)]
    return tuple(s for s in SETTINGS if all(word in kind for word, kind in zip(s.words, kinds, strict=True)))


def measure_rival(
    name: str, cells: Sequence[Cell], given: Circumstances, tell: Tell, settings: Sequence[Setting]
) -> Iterator[Measurement]:
    """Each setting's measurement of each cell, as it comes; the fastest of a cell is the one that counts."""
    if not cells:
        return
    try:
        model = load_for_vllm(name, given.dtype, given.seed)
    except InputError as error:
        tell(f"not beside vLLM: {error}")
        return
    products = product_ceilings(model.config, cells, given)
    for setting in settings:
        try:
            engine = _engine(name, model, cells, given, setting)
        except InputError as error:
            tell(f"{model.name}, vLLM {setting}: {error}")
            continue
        try:
            for cell in cells:
                holds = _capacity(engine, cell)
                if cell.batch > holds and cell.rows_per_prompt == 1:
                    tell(f"{model.name}, vLLM {setting}: its cache holds {holds} rows, not {cell.batch}")
                    continue
                found = _measure(engine, model, cell, given, products[cell.batch], holds)
                tell(
                    f"{model.name}, vLLM {engine.facts['version']} {setting}: {cell.batch} x {cell.new_tokens}:"
                    f" {found.row.tokens_per_s:,.0f} tokens/s"
                )
                yield found
        finally:
            engine.close()


def _engine(name: str, model: LoadedModel, cells: Sequence[Cell], given: Circumstances, setting: Setting) -> VllmEngine:
    tokens = max(cell.prompt + cell.new_tokens for cell in cells)
    batch = max(cell.batch for cell in cells)
    return VllmEngine(
        name, model, given.device, tokens, batch, given.seed, given.state_dtype,
        multiprocess=setting.multiprocess, async_scheduling=setting.asynchronous,
    )  # fmt: skip


def _capacity(engine: VllmEngine, cell: Cell) -> int:
    """Rows of this cell's length that its cache holds; with more, it would push some out and prefill them anew."""
    settings = engine.facts["settings"]
    return (settings["blocks"] - 1) // -(-(cell.prompt + cell.new_tokens) // settings["block_size"])


def _measure(
    engine: VllmEngine, model: LoadedModel, cell: Cell, given: Circumstances, product_flop_per_s: float, holds: int
) -> Measurement:
    _run(engine, model, dataclasses.replace(cell, new_tokens=min(WARM_UP_TOKENS, cell.new_tokens)), given)
    short = cell.new_tokens <= REPEATED_UP_TO
    with joules(given.device) as energy:
        runs = [_run(engine, model, cell, given) for _ in range(REPEATS if short else 1)]
    windows = [run for _, run in runs]
    rates = [_rate(run) for run in windows] if short else [_rate(p) for p in np.array_split(windows[0], STRETCHES)]
    tokens = len(runs) * cell.batch * cell.new_tokens
    ran = Ran(
        tokens_per_s=statistics.median(rates) if short else _rate(windows[0]),
        step_s=statistics.median(float(run[:, 1].sum()) / len(run) for run in windows),
        joules_per_token=None if energy.value is None else energy.value / tokens,
    )
    row = rival_row("vllm", model.name, model.config, cell, given, given.state_dtype, product_flop_per_s, ran)
    prefill_s = statistics.median(prefill_s for prefill_s, _ in runs)
    return Measurement(row, min(rates), max(rates), prefill_s, largest_batch=holds)


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
    # From here on its tokens are counted and no more: what a backend does with them is no part of vLLM's step.
    left = len(backend.running)
    while left:
        outputs = engine.step()
        tokens, now = sum(len(output.outputs[0].token_ids) for output in outputs), time.perf_counter()
        taken.append((float(tokens), now - last))
        left -= sum(output.finished for output in outputs)
        last = now
    backend.running.clear()
    for slot in slots:
        backend.release(slot)
    return prefill_s, np.array(taken[1:] or taken)


def _rate(windows: np.ndarray) -> float:
    tokens, seconds = windows.sum(axis=0)
    return float(tokens / seconds) if seconds else 0.0
