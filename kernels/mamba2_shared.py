"""What all heads of a group share in a step of ``mamba2_step``: B, C, their convolution and C.B_k, computed once.

Launched before the step where many heads share B and C (Mamba2-1.3B: all 64): each of the step's programs would else
read ring entries of B as large as half its part of the state. It also appends B to the ring and B, C to the
convolution's past, since no program of the step needs those afterwards.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from .mamba2_conv import convolved, newest, past
from .mamba2_launch import overlaps
from .mamba2_ring import Memory, Rows


@triton.jit(do_not_specialize=["layer"])
def _shared_kernel(
    given, projected, conv_weight, conv_bias, conv, ring_b, position, position0, sample, running,
    layer, projected_stride, tap_stride, channel_stride,
    XP: tl.constexpr, N: tl.constexpr, G: tl.constexpr, K: tl.constexpr, W: tl.constexpr,
    ENTRIES: tl.constexpr, SILU: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One group of one slot; XP channels of x come before those of B. ``given`` gets [C | B | C.B_k | C.B]."""
    C: tl.constexpr = XP + 2 * G * N
    group = tl.program_id(0)
    slot = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, N)
    every = n < N
    b_channel = XP + group * N + n
    c_channel = b_channel + G * N
    projected += slot * projected_stride
    conv += slot * W * C
    ring_b += slot * (K - 1) * (G * N) + group * N
    given += (slot * G + group) * (2 * N + ENTRIES + 1)

    if EARLY:  # the step may begin with what it reads of others, and waits before it reads what is made here
        gdc_launch_dependents()
    alive = tl.load(running + slot) != 0
    t = tl.load(position + slot).to(tl.int32)
    age = t - tl.load(position0 + slot).to(tl.int32)
    phase = (t + tl.load(sample + slot).to(tl.int32) + layer) % K
    b_new = tl.load(projected + b_channel)
    c_new = tl.load(projected + c_channel)
    b = newest(b_new, conv_weight, conv_bias, b_channel, every, tap_stride, channel_stride, W)
    c = newest(c_new, conv_weight, conv_bias, c_channel, every, tap_stride, channel_stride, W)
    b_past = past(conv, t, b_channel, every, C, W)
    c_past = past(conv, t, c_channel, every, C, W)
    if K > 1:
        k = tl.arange(0, ENTRIES)
        held = (k >= phase - age) & (k < phase)
        b_k = tl.load(ring_b + k[:, None] * (G * N) + n[None, :], held[:, None], 0).to(tl.float32)
    b = convolved(b, b_past, conv_weight, b_channel, every, tap_stride, channel_stride, W, SILU)
    c = convolved(c, c_past, conv_weight, c_channel, every, tap_stride, channel_stride, W, SILU)
    b_kept = b.to(projected.dtype.element_ty)
    b = b_kept.to(tl.float32)
    tl.store(given + n, c)
    tl.store(given + N + n, b)
    tl.store(given + 2 * N + ENTRIES, tl.sum(b * c, 0))
    if K > 1:
        tl.store(given + 2 * N + k, tl.sum(b_k * c[None, :], 1))
        tl.store(ring_b + phase * (G * N) + n, b_kept, every & (alive & (phase < K - 1)))
    if W > 1:
        now = conv + (t % W) * C
        tl.store(now + b_channel, b_new, every & alive)
        tl.store(now + c_channel, c_new, every & alive)


def shared_part(
    projected: torch.Tensor, conv_weight: torch.Tensor, conv_bias: torch.Tensor, memory: Memory, rows: Rows,
    layer: int, silu: bool,
) -> torch.Tensor:  # fmt: skip
    """fp32 [rows, groups, 2 N + entries + 1] for the step's kernel; as many groups of B as of C."""
    count, size, width = projected.shape[0], memory.state.shape[3], memory.conv.shape[1]
    groups, entries = memory.b.shape[2] // size, entries_of(memory)
    given = torch.empty(count, groups, 2 * size + entries + 1, dtype=torch.float32, device=projected.device)
    _shared_kernel[(groups, count)](
        given, projected, conv_weight, conv_bias, memory.conv, memory.b,
        rows.position, rows.position0, rows.sample, rows.running,
        layer, projected.stride(0), conv_weight.stride(1), conv_weight.stride(0),
        memory.x.shape[2], size, groups, memory.length, width, entries, silu, overlaps(projected.device), num_warps=2,
    )  # fmt: skip
    return given


def entries_of(memory: Memory) -> int:
    """Ring entries in the shape of a tile: a power of two."""
    return triton.next_power_of_2(max(1, memory.length - 1))
