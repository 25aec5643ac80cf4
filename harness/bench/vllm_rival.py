"""``harness throughput --against vllm``: the same cells in vLLM, over a small grid of its settings; the best counts.

Prompts, length and temperature are a cell's. Requests are those of vLLM's own ``LLM.generate``: no output before the
last, no log probabilities, no seeds, no detokenising, no statistics; graphs are captured up to the largest batch. The
prefix cache is off where no two rows share a prompt, or else emptied before each run, so that no run has its prefill
from the one before. One start of vLLM serves all cells of a setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from harness.bench.cell import Cell, budget_of
from harness.bench.rival import Circumstances, Ran, Run, Tell, clock, product_ceilings, rival_row, time_cell
from harness.engine.vllm import VllmEngine, sampling_params
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
        said = f"{model.name}, vLLM {setting}"
        try:
            engine = _engine(name, model, cells, given, setting)
        except (InputError, RuntimeError) as error:
            tell(f"{said}: {_line(error)}")
            continue
        said = f"{model.name}, vLLM {engine.facts['version']} {setting}"
        try:
            for cell in cells:
                holds = _capacity(engine, cell)
                if cell.batch > holds and cell.rows_per_prompt == 1:
                    tell(f"{said}: its cache holds {holds} rows, not {cell.batch}")
                    continue
                shape = f"{cell.batch} x {cell.new_tokens}"
                if cell.new_tokens < 2:
                    tell(f"{said}: {shape}: decodes nothing behind the prompt's own token")
                    continue
                try:
                    found, whole = _measure(engine, model, cell, given, products[cell.batch], holds)
                except RuntimeError as error:
                    tell(f"{said}: {shape}: {_line(error)}; with this setting no cell behind it")
                    break
                tell(f"{said}: {shape}: {found.row.tokens_per_s:,.0f} tokens/s, {whole:,.0f} with prefill counted")
                yield found
        finally:
            engine.close()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _engine(name: str, model: LoadedModel, cells: Sequence[Cell], given: Circumstances, setting: Setting) -> VllmEngine:
    tokens = max(cell.prompt + cell.new_tokens for cell in cells)
    batch = max(cell.batch for cell in cells)
    return VllmEngine(
        name, model, given.device, tokens, batch, given.seed, given.state_dtype,
        multiprocess=setting.multiprocess, async_scheduling=setting.asynchronous,
        # Hashing every block of every row costs the host time, and a block that only its own row has never comes back.
        prefix_caching=None if any(cell.rows_per_prompt > 1 for cell in cells) else False,
    )  # fmt: skip


def _capacity(engine: VllmEngine, cell: Cell) -> int:
    """Rows of this cell's length that its cache holds; with more, it would push some out and prefill them anew."""
    settings = engine.facts["settings"]
    return (settings["blocks"] - 1) // -(-(cell.prompt + cell.new_tokens) // settings["block_size"])


def _measure(
    engine: VllmEngine, model: LoadedModel, cell: Cell, given: Circumstances, product_flop_per_s: float, holds: int
) -> tuple[Measurement, float]:
    """And tokens/s with prefill counted."""
    count = -(-cell.batch // cell.rows_per_prompt)
    rng = np.random.default_rng(given.seed)
    prompts = rng.integers(0, model.config.vocab_size, (count, cell.prompt)).tolist()
    rows = [prompts[row // cell.rows_per_prompt] for row in range(cell.batch)]
    budget, eos = budget_of(cell, given.seed), [] if given.ignore_eos else model.codec.eos

    def run(new_tokens: int) -> Run:
        params = sampling_params(dataclasses.replace(budget, max_new_tokens=new_tokens), eos, "FINAL_ONLY")
        engine.forget()
        return clock(given.device, lambda: engine.generate(rows, params))

    timed = time_cell(cell, run)
    ran = Ran(timed.tokens_per_s, timed.step_s, timed.joules_per_token)
    row = rival_row("vllm", model.name, model.config, cell, given, given.state_dtype, product_flop_per_s, ran)
    return Measurement(row, timed.slowest, timed.fastest, timed.prefill_s, largest_batch=holds), timed.whole
