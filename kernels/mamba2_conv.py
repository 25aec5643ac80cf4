"""What the kernel of ``mamba2_step`` calls: softplus, cutting a vector, a product, and the convolution of one step.

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
def newest(now, weight, bias, channel, inside, tap_stride, channel_stride, W: tl.constexpr):
    """The part of the convolution that needs no past, fp32: bias and current input at ``channel``."""
    w = tl.load(weight + ((W - 1) * tap_stride + channel * channel_stride), inside, 0).to(tl.float32)
    return tl.load(bias + channel, inside, 0).to(tl.float32) + now.to(tl.float32) * w


@triton.jit
def past(conv, t, channel, inside, C: tl.constexpr, W: tl.constexpr):
    """The W - 1 inputs before, oldest first, as loaded; ``conv`` points at the slot's ring."""
    rows = ()
    for j in tl.static_range(W - 1):
        one = tl.load(conv + (((t + 1 + j) % W) * C + channel), inside, 0)
        rows = rows + (one,)  # type: ignore[assignment]  # noqa: RUF005 (Triton knows no stars)
    return rows


@triton.jit
def convolved(v, rows, weight, channel, inside, tap_stride, channel_stride, W: tl.constexpr, SILU: tl.constexpr):
    """``newest`` and ``past`` together, in fp32."""
    for j in tl.static_range(W - 1):
        w = tl.load(weight + (j * tap_stride + channel * channel_stride), inside, 0).to(tl.float32)
        v += rows[j].to(tl.float32) * w
    return v * tl.sigmoid(v) if SILU else v


@triton.jit
def exact_dot(a, b, PIECES: tl.constexpr):
    """a [M, E] fp32 times b [E, N]: bf16 b with a in 2 or 3 bf16 ``PIECES`` (16 or 24 bits), others (0) by tf32x3."""
    if PIECES:
        high = a.to(tl.bfloat16)
        rest = a - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        if PIECES == 2:
            return tl.dot(high, b, tl.dot(middle, b))
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(high, b, tl.dot(middle, b, tl.dot(low, b)))
    return tl.dot(a, b.to(tl.float32), input_precision="tf32x3")


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
