"""What the kernel of ``mamba2_step`` calls: softplus, cutting a vector, and the convolution of one step.

v_t = bias + sum_j w_j u_{t - W + 1 + j}: the current input u_t comes from the projection, the W - 1 before it from
rows (position mod W) of the slot's ring. Device functions, tested with the kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softplus(v):
    """log(1 + e^v), to fp32's last places for very negative v too."""
    # log(1 + e) loses what e holds below fp32's last place; the quotient of two equally wrong terms gives it back.
    e = tl.exp(-tl.abs(v))
    u = 1 + e
    tail = tl.where(u == 1, e, tl.log(u) * (e / tl.where(u == 1, 1, u - 1)))
    return tl.maximum(v, 0) + tail


@triton.jit
def convolve(projected, conv, weight, bias, t, channel, inside, tap_stride, channel_stride, C: tl.constexpr,
              W: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr):  # fmt: skip
    """Convolution in fp32 at ``channel``; ``projected`` and ``conv`` point at the row's input and its past."""
    # One tile of all taps: loads are few and wide, and Triton does not repeat them for every layout it needs.
    j = tl.arange(0, TAPS)[:, None]
    channel = channel[None, :]
    held = (j < W) & inside[None, :]
    source = tl.where(j == W - 1, projected + channel, conv + ((t + 1 + j) % W) * C + channel)
    taps = tl.load(source, held, 0).to(tl.float32)
    taps *= tl.load(weight + (j * tap_stride + channel * channel_stride), held, 0).to(tl.float32)
    v = tl.sum(taps, 0) + tl.sum(tl.load(bias + channel, inside[None, :], 0).to(tl.float32), 0)
    return v * tl.sigmoid(v) if SILU else v


@triton.jit
def _halves(v, N: tl.constexpr):
    return tl.split(tl.permute(tl.reshape(v, [2, N // 2]), [1, 0]))


@triton.jit
def pieces(v, N: tl.constexpr, COUNT: tl.constexpr):
    """v [N] cut into COUNT = 1, 2 or 4 consecutive vectors."""
    tl.static_assert(COUNT == 1 or COUNT == 2 or COUNT == 4)
    if COUNT == 1:
        return (v,)
    elif COUNT == 2:
        return _halves(v, N)
    else:
        low, high = _halves(v, N)
        first, second = _halves(low, N // 2)
        third, fourth = _halves(high, N // 2)
        return first, second, third, fourth
