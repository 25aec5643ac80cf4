"""Bytes that each launch of a decode step moves: every byte once for reading and once for writing, all rows running.

What a launch reads twice counts once: the second time it comes from a cache. The counts are exact for what the kernels
ask of memory; a test holds them against the addresses that Triton's interpreter sees. Filters of the sampler
are not planned: how often they pass over the logits is known only when they have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.bench.plan_launches import Call
from harness.kernels.attention_plan import PAGE_TOKENS


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """Where each row of a step stands, int64 [rows]: its prompt and that one's length, its sample number, and the
    tokens that it held before the step."""

    prompt: np.ndarray
    prompt_tokens: np.ndarray
    sample: np.ndarray
    generated: np.ndarray

    def prompts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each distinct prompt: its tokens, its rows, and for every row its place among them."""
        _, first, place, count = np.unique(self.prompt, return_index=True, return_inverse=True, return_counts=True)
        return self.prompt_tokens[first], count, place


Moved = tuple[int, int]


def bytes_moved(call: Call, standing: Standing) -> Moved:
    """Bytes read and written by a launch; ValueError for a kernel that nobody has counted yet."""
    if call.kind == "kernel":
        if call.name not in _COUNTS:
            raise ValueError(f"{call.name}: its bytes are not counted; add a count to {__name__}")
        read, written = _COUNTS[call.name](_Arguments(call.arguments), standing)
        return int(read), int(written)
    read, written = call.arguments["read"], call.arguments["written"]
    if call.name == "embedding":
        # Of the table only the rows that are looked up.
        return read[1].nbytes + written[0].nbytes, written[0].nbytes
    return sum(t.nbytes for t in read), sum(t.nbytes for t in written)


class _Arguments:
    """A launch's arguments as attributes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the kernel has no argument {name}")

    def size(self, *names: str) -> int:
        """Bytes of an entry of each of these arguments, added up."""
        return sum(getattr(self, name).itemsize for name in names)

    def whole(self, *names: str) -> int:
        """Bytes of these tensors, None counting nothing."""
        return sum(t.nbytes for t in (getattr(self, name) for name in names) if t is not None)


def _rmsnorm(a: _Arguments, s: Standing) -> Moved:
    entries = a.grid[0] * a.width
    added = entries * a.residual.itemsize if a.add else 0
    return entries * a.x.itemsize + added + a.whole("weight", "squares"), entries * a.y.itemsize + added


def _swiglu(a: _Arguments, s: Standing) -> Moved:
    entries = a.gate_up.shape[0] * a.inner
    return 2 * entries * a.gate_up.itemsize, entries * a.out.itemsize


def _append(a: _Arguments, s: Standing) -> Moved:
    rows, size = a.grid[0], a.qkv.itemsize
    angles = np.unique(np.minimum(s.prompt_tokens + s.generated, a.context - 1)).size
    read = rows * (a.heads + 2 * a.kv_heads) * a.dim * size + angles * a.dim // 2 * a.size("cos", "sin")
    read += rows * a.size("generated", "prompt_tokens", "table", "running")
    return read, rows * (a.heads * size + a.kv_heads * a.size("k", "v")) * a.dim


def _attend(a: _Arguments, s: Standing) -> Moved:
    heads, rows, units = a.kv_heads * a.repeat, len(s.generated), a.grid[1]
    lengths, counts, place = s.prompts()
    token = a.kv_heads * a.dim * a.size("k", "v")
    # A row that has no prompt stands in no tile.
    asking = int((s.prompt_tokens > 0).sum()) if a.members else rows
    read = asking * heads * a.dim * a.q.itemsize
    if a.members:
        tiles = -(-counts // a.members)
        read += units * a.size("prompt_page", "prompt_tokens")
        read += int(tiles[lengths > 0].sum()) * a.members * a.tile_rows.itemsize + int(lengths.sum()) * token
        parts = _parts(-(-lengths // a.block), a.splits, a.least)[place]
    else:
        own = s.generated + 1
        blocks = -(-own // a.block)
        read += int(own.sum()) * token + int((-(-own // PAGE_TOKENS)).sum()) * a.table.itemsize
        read += units * a.size("running", "generated")
        if a.folded:
            blocks = blocks - (-s.prompt_tokens // a.block)
            read += units * a.size("prompt_page", "prompt_tokens") + int(lengths.sum()) * token
        parts = _parts(blocks, a.splits, a.least)
    if not a.parts:
        return read, rows * heads * a.dim * a.out.itemsize
    return read, int(parts.sum()) * heads * (a.dim * a.value.itemsize + a.size("top", "total"))


def _parts(blocks: np.ndarray, splits: int, least: int) -> np.ndarray:
    """Splits of each row that have a block to read."""
    share = np.maximum(-(-blocks // splits), least)
    return -(-blocks // share)


def _combine(a: _Arguments, s: Standing) -> Moved:
    rows = len(s.generated)
    blocks, shared = -(-(s.generated + 1) // a.own_block), -(-s.prompt_tokens // a.tile_block)
    if a.tiled:
        parts = _parts(blocks, a.own_splits, a.own_least) + _parts(shared, a.tile_splits, a.tile_least)
    else:
        parts = _parts(blocks + shared, a.own_splits, a.own_least)
    read = int(parts.sum()) * a.heads * (a.dim * a.value.itemsize + a.size("top", "total"))
    return read + rows * a.size("generated", "running", "prompt_tokens"), rows * a.heads * a.dim * a.out.itemsize


def _mamba2(a: _Arguments, s: Standing) -> Moved:
    rows, inner, size = a.grid[1], a.H * a.P, a.projected.itemsize
    channels = a.X * a.P + a.B * a.N + a.G * a.N
    phase = (s.prompt_tokens + s.generated + s.sample + a.layer) % a.K
    held = np.minimum(phase, s.generated)
    commits = int((phase == a.K - 1).sum())
    # Before its first commit a row reads its prompt's state.
    states = np.unique(np.where(s.generated <= phase, -1 - s.prompt, np.arange(rows))).size
    entry = a.ring_x.itemsize * a.X * a.P
    entry += a.H * (a.ring_decay.itemsize + (0 if a.ring_dt is None else a.ring_dt.itemsize))
    state, b_entry = inner * a.N * a.state.itemsize, a.ring_b.itemsize * a.B * a.N
    weights = a.whole("conv_weight", "conv_bias")
    read = int(held.sum()) * entry + states * state + a.whole("d", "a_log", "dt_bias", "z_bias")
    if a.given is None:
        entry += b_entry
        read += int(held.sum()) * b_entry
    else:  # C and its products; a commit needs B and its ring too
        weights = weights * a.X * a.P // channels
        channels = a.X * a.P
        ending = held[phase == a.K - 1]
        read += int(ending.sum()) * b_entry + a.given.itemsize * a.G * int(
            rows * (a.N + 1) + held.sum() + ending.size * a.N
        )
    read += rows * (channels + inner + a.H) * size + rows * (a.W - 1) * channels * a.conv.itemsize + weights
    read += rows * a.size("running", "position", "position0", "sample", "snapshot")
    if a.squares is not None:
        read += a.whole("norm")
    written = rows * inner * a.out.itemsize + commits * state + (rows - commits) * entry + a.whole("squares")
    return read, written + (rows * channels * a.conv.itemsize if a.W > 1 else 0)


def _shared(a: _Arguments, s: Standing) -> Moved:
    rows, channels = a.grid[1], 2 * a.G * a.N
    phase = (s.prompt_tokens + s.generated + s.sample + a.layer) % a.K
    entry = a.ring_b.itemsize * a.G * a.N
    read = rows * channels * (a.projected.itemsize + (a.W - 1) * a.conv.itemsize)
    read += int(np.minimum(phase, s.generated).sum()) * entry
    read += a.whole("conv_weight", "conv_bias") * channels // (a.XP + channels)
    read += rows * a.size("running", "position", "position0", "sample")
    written = a.whole("given") + int((phase < a.K - 1).sum()) * entry
    return read, written + (rows * channels * a.conv.itemsize if a.W > 1 else 0)


def _gated_norm(a: _Arguments, s: Standing) -> Moved:
    entries = a.grid[0] * a.grid[1] * a.WIDTH
    return entries * a.y.itemsize + a.whole("weight"), entries * a.y.itemsize


def _ring(a: _Arguments, s: Standing) -> Moved:
    """Raw inputs of a Mamba-1 convolution, with its weights and the places that rows read and write."""
    rows, first = len(s.generated), s.generated == 0
    kept = (a.width - 1) * a.xb * a.ring.itemsize
    read = _places(s) * kept + rows * (a.size("position", "source", "target") + a.xb * a.x.itemsize)
    # A fork's first step carries the prompt's inputs over.
    return read + a.whole("weight", "bias"), rows * a.xb * a.ring.itemsize + int(first.sum()) * kept


def _places(s: Standing) -> int:
    """Distinct places that Mamba-1 rows read: their own, or before their first step their prompt's."""
    return np.unique(np.where(s.generated == 0, -1 - s.prompt, np.arange(len(s.prompt)))).size


def _conv(a: _Arguments, s: Standing) -> Moved:
    read, written = _ring(a, s)
    return read, written + a.whole("out")


def _mamba1(a: _Arguments, s: Standing) -> Moved:
    rows, state = a.rows, a.channels * a.n * a.ssm.itemsize
    inputs = (rows * a.channels * a.x.itemsize + rows * a.size("source", "target"), 0)
    read, written = _ring(a, s) if a.width else inputs
    read += rows * a.channels * a.size("dt", "z") + a.whole("b", "c", "a_log", "d", "dt_bias") + _places(s) * state
    return read, written + rows * state + a.whole("out")


def _draw(a: _Arguments, s: Standing) -> Moved:
    rows = a.grid[1]
    read = a.step.itemsize + rows * a.size("ended", "generated", "sample", "problem")
    read += rows * a.vocab_size * a.logits.itemsize
    return read, a.step.itemsize + a.whole("score_out", "entry_out", "top_out", "total_out")


def _finish(a: _Arguments, s: Standing) -> Moved:
    rows = a.grid[0]
    read = rows * a.size("generated", "ended") + a.step.itemsize + a.eos.nbytes
    if a.greedy or a.filtering:
        read += rows * a.logits.itemsize
    else:
        read += rows * (a.size("sample", "problem") + min(a.group, a.vocab_size) * a.logits.itemsize)
    read += a.whole("score", "entry", "top_in", "total_in")
    return read, rows * a.size("position", "tokens", "logprobs", "token_out", "generated", "ended")


_COUNTS: dict[str, Callable[[_Arguments, Standing], Moved]] = {
    "rmsnorm.rmsnorm_kernel": _rmsnorm,
    "swiglu.swiglu_kernel": _swiglu,
    "rope_append.append": _append,
    "attention_decode.attend": _attend,
    "attention_decode.combine": _combine,
    "mamba2_step.step_kernel": _mamba2,
    "mamba2_step.norm_kernel": _gated_norm,
    "mamba2_shared.shared_kernel": _shared,
    "mamba1_step.step_kernel": _mamba1,
    "mamba1_conv.conv_kernel": _conv,
    "sample.draw_kernel": _draw,
    "sample_step.finish_kernel": _finish,
}
