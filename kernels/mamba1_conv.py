"""The short convolution of a Mamba-1 step, its raw inputs kept in a ring (Gu and Dao, 2023, arXiv 2312.00752).

    u_t = silu(bias + sum_j weight_j x_{t - K + 1 + j})

Grouped form (MambaInLlama, arXiv 2408.15237): heads of x are repeated before the convolution, whose weights
differ by channel; the raw inputs are kept once a shared head and repeated on reading.

Row t mod K of a place of the ring holds x_t, zeros for positions before the start. A step reads rows
t - 1 ... t - K + 1 and writes row t mod K, which nobody reads, so that channels sharing an x never race
inside a launch. A row reads place ``source`` and writes place ``target``: with the two apart the first
step forks a shared prompt without a copy beforehand; a padding row writes to a scratch place.
Sums are in fp32 (the plain twin: float64 for float64 inputs).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl


class Conv(NamedTuple):
    """Raw inputs ``ring`` [places, K, xb], ``position`` int64 [rows] of this step, weight [channels, K], bias."""

    ring: torch.Tensor
    position: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


class Places(NamedTuple):
    """Where each row reads its state and where it writes it: int64 [rows] each."""

    source: torch.Tensor
    target: torch.Tensor


def repeat_heads(x: torch.Tensor, channels: int, head: int) -> torch.Tensor:
    """x [..., xb] in heads of ``head`` channels, each repeated in place: [..., channels]."""
    if x.shape[-1] == channels:
        return x
    return x.unflatten(-1, (-1, head)).repeat_interleave(channels // x.shape[-1], dim=-2).flatten(-2)


def mamba1_conv_step(x: torch.Tensor, conv: Conv, head: int, places: Places | None = None) -> torch.Tensor:
    """u [rows, channels] in fp32 at least, from raw x [rows, xb]; the ring takes x in, in place."""
    rows, (_, width, _) = x.shape[0], conv.ring.shape
    source, target = place_indices(places, rows, x.device)
    back = torch.arange(1, width, device=x.device)
    slots = (conv.position[:, None] - back) % width
    kept = conv.ring[source[:, None], slots]
    conv.ring[target[:, None], slots] = kept
    conv.ring[target, conv.position % width] = x.to(conv.ring.dtype)
    kind = working_dtype(x)
    channels = conv.weight.shape[0]
    weight = conv.weight.to(kind)
    u = conv.bias.to(kind) + weight[:, -1] * repeat_heads(x.to(kind), channels, head)
    for j in range(1, width):
        u = u + weight[:, width - 1 - j] * repeat_heads(kept[:, j - 1].to(kind), channels, head)
    return F.silu(u)


def working_dtype(x: torch.Tensor) -> torch.dtype:
    """What sums over x are taken in: fp32, or float64 for float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def place_indices(places: Places | None, rows: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target of each row; without ``places`` row i keeps its state at place i."""
    if places is not None:
        return places
    own = torch.arange(rows, device=device)
    return own, own


@triton.jit
def conv_places(channel, live, head: tl.constexpr, repeat: tl.constexpr):
    """Which x a channel shares, and whether it is the one of them that writes it into the ring."""
    group = channel // (head * repeat)
    return group * head + channel % head, live & (channel // head == group * repeat)


@triton.jit
def conv_weights(weight, bias, channel, live, width: tl.constexpr):
    """Bias and taps, oldest first, in fp32."""
    found = (tl.load(bias + channel, mask=live, other=0.0).to(tl.float32),)
    for j in tl.static_range(width):
        tap = tl.load(weight + channel * width + j, mask=live, other=0.0).to(tl.float32)
        found = found + (tap,)  # type: ignore[assignment]  # noqa: RUF005 (Triton knows no stars)
    return found


@triton.jit
def conv_inputs(x, ring, t, shared, live, xb: tl.constexpr, width: tl.constexpr):
    """A row's input of this step and those before it, newest first; ``x`` and ``ring`` point at its own."""
    found = (tl.load(x + shared, mask=live, other=0.0),)
    for j in tl.static_range(1, width):
        old = tl.load(ring + ((t + width - j) % width) * xb + shared, mask=live, other=0.0)
        found = found + (old,)  # type: ignore[assignment]  # noqa: RUF005
    return found


@triton.jit
def conv_silu(inputs, weights, width: tl.constexpr):
    """silu of the convolution for one row, from ``conv_inputs`` and ``conv_weights``."""
    u = weights[0]
    for j in tl.static_range(width):
        u += weights[width - j] * inputs[j].to(tl.float32)
    return u * tl.sigmoid(u)


@triton.jit
def conv_keep(ring, inputs, t, shared, writer, forks, xb: tl.constexpr, width: tl.constexpr):
    """This step's input into the ring at the target place; a fork's first step carries those before over."""
    tl.store(ring + (t % width) * xb + shared, inputs[0].to(ring.dtype.element_ty), mask=writer)
    for j in tl.static_range(1, width):
        tl.store(ring + ((t + width - j) % width) * xb + shared, inputs[j], mask=writer & forks)


@triton.jit
def _conv_kernel(
    x,
    ring,
    position,
    weight,
    bias,
    source,
    target,
    out,
    channels,
    x_stride,
    ring_stride,
    xb: tl.constexpr,
    head: tl.constexpr,
    repeat: tl.constexpr,
    width: tl.constexpr,
    indexed: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * block + tl.arange(0, block)
    live = channel < channels
    read = tl.load(source + row) if indexed else row
    write = tl.load(target + row) if indexed else row
    t = tl.load(position + row)
    shared, writer = conv_places(channel, live, head, repeat)
    weights = conv_weights(weight, bias, channel, live, width)
    inputs = conv_inputs(x + row * x_stride, ring + read * ring_stride, t, shared, live, xb, width)
    u = conv_silu(inputs, weights, width)
    conv_keep(ring + write * ring_stride, inputs, t, shared, writer, read != write, xb, width)
    tl.store(out + row * channels + channel, u.to(out.dtype.element_ty), mask=live)


def mamba1_conv_step_triton(
    x: torch.Tensor, conv: Conv, head: int, places: Places | None = None, block: int = 256
) -> torch.Tensor:
    """``mamba1_conv_step`` in one launch, u in x's dtype (what the projections behind it take); made by torch.empty."""
    rows, channels = x.shape[0], conv.weight.shape[0]
    out = torch.empty(rows, channels, dtype=x.dtype, device=x.device)
    source, target = places or (conv.position, conv.position)
    xb = x.shape[1]
    _conv_kernel[(triton.cdiv(channels, block), rows)](
        x,
        conv.ring,
        conv.position,
        conv.weight,
        conv.bias,
        source,
        target,
        out,
        channels,
        x.stride(0),
        conv.ring.stride(0),
        xb=xb,
        head=head,
        repeat=channels // xb,
        width=conv.ring.shape[1],
        indexed=places is not None,
        block=block,
    )
    return out
