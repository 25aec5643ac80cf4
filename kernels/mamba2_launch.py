"""How the kernel of ``mamba2_step`` is cut into programs: the table of measured launches and the default."""

from __future__ import annotations

import dataclasses

import torch

from .mamba2_ring import Memory


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """``dims`` of a head's rows for each program, read ``columns`` at a time, by ``warps``, with a register limit.

    ``columns`` are N, N/2 or N/4. ``again``: a commit reads the state a second time, out of the cache, instead of
    keeping it in registers meanwhile. Sums over N may round differently from launch to launch: where bits must not
    depend on the batch, hand in one.
    """

    dims: int
    columns: int
    warps: int = 1
    registers: int = 168
    again: bool = True


# By (capability, large, N, bytes of a state entry); large: at least 8,192 (row, head) pairs. Measured on an H100 at
# Llamba-1B's (N = 64) and Mamba2-1.3B's (N = 128) shapes, with K of their rings (results/h100/step_kernels.py).
LAUNCHES = {
    (90, True, 64, 2): Launch(64, 32, 1, 168),
    (90, True, 64, 4): Launch(32, 32, 1, 128, again=False),
    (90, True, 128, 2): Launch(32, 64, 1, 168),
    (90, True, 128, 4): Launch(64, 32, 4, 168, again=False),
}


# Heads of a group from which on what they share is computed once, in a launch of its own.
SHARING_HEADS = 4


def default_launch(head_dim: int, state: int) -> Launch:
    """Untuned: a tile of at most 4,096 entries for a warp, 32 columns at a time."""
    columns = max(min(32, state), state // 4)
    return Launch(min(4096 // state, _power_of_2_in(head_dim)), columns)


def launch_for(memory: Memory, rows: int) -> Launch:
    """The table's entry, with fewer ``dims`` where they would not divide P; else the default."""
    _, heads, dim, size = memory.state.shape
    if memory.state.device.type != "cuda":
        return default_launch(dim, size)
    major, minor = torch.cuda.get_device_capability(memory.state.device)
    key = (10 * major + minor, rows * heads >= 8192, size, memory.state.element_size())
    found = LAUNCHES.get(key) or default_launch(dim, size)
    return dataclasses.replace(found, dims=min(found.dims, _power_of_2_in(dim)))


def overlaps(device: torch.device) -> bool:
    """Whether a launch may begin before the one before it has ended: programmatic dependent launch, from sm_90 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def _power_of_2_in(n: int) -> int:
    """The largest power of two that divides n."""
    return n & -n
