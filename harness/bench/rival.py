"""What all rivals of ``harness throughput`` share: the circumstances of their cells, and the row made of what ran.

A rival is held to the roofline of the step it runs, whose state is read and written each time. Its state dtype is its
own; the column says which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from harness.bench.ceilings import product_flop_per_s
from harness.bench.cell import Cell
from harness.bench.roofline import Ceilings, Workload, step_seconds
from harness.models.config import DecoderConfig
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


def product_ceilings(config: DecoderConfig, cells: Sequence[Cell], given: Circumstances) -> dict[int, float]:
    """FLOP/s by batch, measured before a rival takes the device's memory."""
    batches = dict.fromkeys(cell.batch for cell in cells)
    found = {batch: product_flop_per_s(config, batch, given.dtype, given.device) for batch in batches}
    if given.device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later a rival could not have
    return found


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
