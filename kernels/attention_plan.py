"""How ``attention_decode`` is launched and what it needs beside the pools: plan, parts, tiles of shared prompts.

A plan is made before a graph is captured; the tile tables have a fixed size and are filled by the host
between looks.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import triton

# Tokens of a page. A block of the loop never spans two, so that its page is a scalar and its keys are one piece.
PAGE_TOKENS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """How a launch cuts its work.

    ``splits`` of a row's context (or of a prompt's); ``block`` tokens a step of the loop (16, 32 or 64);
    ``warps`` a program; ``stages`` of the pipeline; ``dot``: matrix units, the queries padded to 16, or
    products and sums on the ordinary units, where every token lane keeps a softmax of its own.
    """

    splits: int
    block: int
    warps: int
    stages: int
    dot: bool

    @property
    def least(self) -> int:
        """Blocks a split takes at least: two pages; less is not worth a part of its own to combine."""
        return 2 * PAGE_TOKENS // self.block


# (bits of an element, padded dim) -> block, warps, stages, dot of own pages and of prompt tiles.
# Measured on an H100 alone, in bf16 (results/h100/attention_kernels.py): own pages at dims of 64 and 128, prompt tiles
# at 64. With enough rows most blocks, warps and stages near these read at 95 to 99 % of 3.0 TB/s; the ordinary units
# (dot False) take four to nine times as long. The rest is untuned: dims up to 32, tiles of 128, fp32. Other GPUs get
# the same numbers. fp32 must not round to tf32, which leaves the ordinary units, and there padded queries cost what
# real ones do.
_LAUNCHES = {
    (16, 32): ((64, 2, 4, True), (64, 4, 3, True)),
    (16, 64): ((32, 2, 2, True), (64, 4, 3, True)),
    (16, 128): ((32, 2, 2, True), (32, 4, 3, True)),
    (32, 32): ((16, 4, 3, False), (32, 4, 2, True)),
    (32, 64): ((16, 4, 3, False), (32, 8, 2, True)),
    (32, 128): ((16, 8, 3, False), (16, 4, 2, True)),
}
# Programs wanted, on an H100 too: more splits cost their partial results (4 instead of 2 at 64 rows of 8 heads: 6 %).
_PROGRAMS = 1024
_MOST_SPLITS = 64


def splits_for(units: int, kv_heads: int, context: int) -> int:
    """Splits (a power of two) that fill the device with ``units`` rows or tiles of up to ``context`` tokens."""
    wanted = triton.next_power_of_2(triton.cdiv(_PROGRAMS, max(1, units * kv_heads)))
    most = triton.next_power_of_2(triton.cdiv(max(1, context), 2 * PAGE_TOKENS))
    return min(wanted, most, _MOST_SPLITS)


@dataclasses.dataclass(slots=True)
class Plan:
    """Launches and room for partial results of ``rows`` rows; made before capture, shared by all layers.

    ``tiles`` is None where each row reads its prompt itself. Parts, fp32: ``value`` [rows, heads, parts,
    dim], ``top`` and ``total`` [rows, heads, parts]; parts = 0 if the one split writes the output itself.
    """

    own: Launch
    tiles: Launch | None
    value: torch.Tensor
    top: torch.Tensor
    total: torch.Tensor

    @property
    def parts(self) -> int:
        return self.value.shape[2]


def plan(
    rows: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype, context: int, device: torch.device,
    tiles: int = 0, prompt_context: int = 0,
) -> Plan:  # fmt: skip
    """Plan of ``rows`` rows that hold up to ``context`` tokens behind prompts of up to ``prompt_context`` tokens.

    ``tiles``: size of the tile tables (``prompt_tiles.tile_count``), 0 if prompts are not read together.
    """
    bits = torch.empty((), dtype=dtype).element_size() * 8
    own, tile = _LAUNCHES[bits, max(32, triton.next_power_of_2(dim))]
    alone = 0 if tiles else prompt_context
    return plan_with(
        Launch(splits_for(rows, kv_heads, context + alone), *own),
        Launch(splits_for(tiles, kv_heads, prompt_context), *tile) if tiles else None,
        (rows, heads, dim),
        device,
    )


def plan_with(own: Launch, tiles: Launch | None, shape: tuple[int, int, int], device: torch.device) -> Plan:
    """Plan with given launches (a tuning script's way in); ``shape`` is (rows, heads, dim)."""
    rows, heads, dim = shape
    parts = own.splits + (tiles.splits if tiles else 0)
    parts = 0 if parts == 1 else parts
    value, top, total = (
        torch.empty(rows, heads, parts, *last, dtype=torch.float32, device=device) for last in ((dim,), (), ())
    )
    return Plan(own, tiles, value, top, total)


def tile_count(rows: int, prompts: int, members: int) -> int:
    """Tiles that ``prompt_tiles`` may need for ``rows`` rows of at most ``prompts`` prompts, however they lie."""
    return rows // members + min(rows, prompts)


def prompt_tiles(
    prompt_of: np.ndarray, page: np.ndarray, tokens: np.ndarray, members: int, tiles: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tile_rows [tiles, members], tile_page [tiles], tile_tokens [tiles]), int32, for ``attention_decode.Prompts``.

    ``prompt_of`` int [rows]: prompt of each row, -1 for none; ``page``, ``tokens`` int [prompts]: first page
    and length. Rows of one prompt fill tiles in order; unused tiles have 0 tokens, unused places row -1.
    """
    tile_rows = np.full((tiles, members), -1, dtype=np.int32)
    tile_page, tile_tokens = np.zeros(tiles, dtype=np.int32), np.zeros(tiles, dtype=np.int32)
    live = np.flatnonzero(prompt_of >= 0)
    order = live[np.argsort(prompt_of[live], kind="stable")]
    prompts, starts, counts = np.unique(prompt_of[order], return_index=True, return_counts=True)
    needed = -(-counts // members)
    first_tile = np.cumsum(needed) - needed
    place = np.arange(len(order)) - np.repeat(starts, counts)
    tile_rows[np.repeat(first_tile, counts) + place // members, place % members] = order
    owner = np.repeat(prompts, needed)
    tile_page[: len(owner)], tile_tokens[: len(owner)] = page[owner], tokens[owner]
    return tile_rows, tile_page, tile_tokens
