"""What all rivals of ``harness throughput`` share: the circumstances of their cells, how they are timed, and the row.

A rival generates as its own users have it generate, in one call that counts prefill. Runs that end with the first token
are subtracted, and the row holds what is faster, decoding alone or the whole. It is held to the roofline of the step it
runs, whose state is read and written each time. Its state dtype is its own; the column says which.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from harness.bench.ceilings import product_bytes, product_flop_per_s, wait_for
from harness.bench.cell import Cell
from harness.bench.energy import joules
from harness.bench.roofline import Ceilings, Workload, step_seconds
from harness.bench.throughput import REPEATED_UP_TO, REPEATS, STRETCHES, WARM_UP_TOKENS
from harness.models.config import DecoderConfig
from harness.models.weights import available_bytes
from harness.records import InputError
from harness.report.throughput import Row

Tell = Callable[[str], None]  # takes a line for each figure, and for what a rival would not run


@dataclasses.dataclass(frozen=True, slots=True)
class Circumstances:
    """What the cells of all engines share; ``state_dtype`` is ours, which a rival may not have."""

    device: torch.device
    device_name: str
    dtype: torch.dtype
    state_dtype: torch.dtype
    ceilings: Ceilings
    ignore_eos: bool
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """A cell's figures: ``step_s`` seconds a step of all rows; joules a token where the board counts them."""

    tokens_per_s: float
    step_s: float
    joules_per_token: float | None
    peak_gib: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One call of all rows: tokens drawn, those of the longest row, seconds and joules, and the clock after each step
    where the rival gives control back there."""

    tokens: int
    longest: int
    seconds: float
    joules: float | None = None
    ticks: Sequence[float] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Timed:
    """A cell's runs together: tokens/s of the row, slowest, fastest, and ``whole``, with prefill counted."""

    tokens_per_s: float
    slowest: float
    fastest: float
    whole: float
    step_s: float
    prefill_s: float
    joules_per_token: float | None


def clock(device: torch.device, generate: Callable[[], tuple[Sequence[int], Sequence[float]]]) -> Run:
    """The run of ``generate``, which gives the tokens of each row and the clock after each step."""
    wait_for(device)
    with joules(device) as energy:
        began = time.perf_counter()
        lengths, ticks = generate()
        wait_for(device)
        seconds = time.perf_counter() - began
    return Run(sum(lengths), max(lengths), seconds, energy.value, ticks)


def time_cell(cell: Cell, run: Callable[[int], Run]) -> Timed:
    """``run(n)`` draws n tokens for each row of the cell: a warm-up, runs of the first token alone, runs of the cell.

    A cell that is run once has its spread over stretches of its steps, all steps taken for equal shares of the tokens.
    """
    short = cell.new_tokens <= REPEATED_UP_TO
    run(min(WARM_UP_TOKENS, cell.new_tokens))
    first = [run(1) for _ in range(REPEATS)]
    runs = [run(cell.new_tokens) for _ in range(REPEATS if short else 1)]
    prefill_s = statistics.median(r.seconds for r in first)
    rates, steps = zip(*(_decoding(r, cell.batch, prefill_s) for r in runs), strict=True)
    rate = statistics.median(rates)
    spread = rates if short else _stretches(runs[0], rate)
    before, spent = _median_joules(first), _median_joules(runs)
    tokens = statistics.median(r.tokens for r in runs) - cell.batch
    return Timed(
        tokens_per_s=rate,
        slowest=min(spread),
        fastest=max(spread),
        whole=statistics.median(r.tokens / r.seconds for r in runs),
        step_s=statistics.median(steps),
        prefill_s=prefill_s,
        joules_per_token=None if before is None or spent is None or not tokens else (spent - before) / tokens,
    )


def _decoding(run: Run, batch: int, prefill_s: float) -> tuple[float, float]:
    """Tokens/s and seconds a step of decoding alone, or of all where that is faster; ``prefill_s`` has first draws."""
    whole, alone_s = run.tokens / run.seconds, run.seconds - prefill_s
    if alone_s > 0 and (alone := (run.tokens - batch) / alone_s) > whole:
        return alone, alone_s / (run.longest - 1)
    return whole, run.seconds / run.longest


def _stretches(run: Run, rate: float) -> Sequence[float]:
    """``rate`` by stretch of the steps behind the longest row's first token."""
    steps = np.diff(run.ticks[-run.longest :])
    if len(steps) < STRETCHES:
        return (rate,)
    return [float(rate * steps.mean() / part.mean()) for part in np.array_split(steps, STRETCHES)]


def _median_joules(runs: Sequence[Run]) -> float | None:
    spent = [run.joules for run in runs if run.joules is not None]
    return statistics.median(spent) if spent else None


def product_ceilings(config: DecoderConfig, cells: Sequence[Cell], given: Circumstances) -> dict[int, float]:
    """FLOP/s by batch, measured before a rival takes the device's memory; InputError where a batch is too large."""
    batches = dict.fromkeys(cell.batch for cell in cells)
    check_products(config, max(batches), given)
    found = {batch: product_flop_per_s(config, batch, given.dtype, given.device) for batch in batches}
    if given.device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later a rival could not have
    return found


def check_products(config: DecoderConfig, rows: int, given: Circumstances) -> None:
    """InputError where measuring a step's widest product takes more than the device has free."""
    needed = product_bytes(config, rows, given.dtype)
    if needed > (free := available_bytes(given.device)):
        raise InputError(
            f"batch = {rows}: measuring a matrix product of a step takes {needed / 2**30:.2f} GiB,"
            f" {free / 2**30:.2f} GiB are free; use a smaller batch"
        )


def rival_row(
    engine: str,
    model: str,
    config: DecoderConfig,
    cell: Cell,
    given: Circumstances,
    state_dtype: torch.dtype,
    product_flop_per_s: float,
    ran: Ran,
) -> Row:
    kinds = (given.dtype.itemsize, state_dtype.itemsize)
    work = Workload(cell.batch, cell.prompt, cell.new_tokens, cell.rows_per_prompt, *kinds, deferred=False)
    ceilings = dataclasses.replace(given.ceilings, product_flop_per_s=product_flop_per_s)
    return Row(
        model=model,
        engine=engine,
        device=given.device_name,
        dtype=_name(given.dtype),
        state_dtype=_name(state_dtype),
        batch=cell.batch,
        prompt=cell.prompt,
        new_tokens=cell.new_tokens,
        tokens_per_s=ran.tokens_per_s,
        ms_per_step=1000 * ran.step_s,
        roofline_share=step_seconds(config, work, ceilings) / ran.step_s,
        host_gap_share=None,
        sampling_share=None,
        peak_gib=ran.peak_gib,
        joules_per_ktok=None if ran.joules_per_token is None else 1000 * ran.joules_per_token,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
