"""One decode step of a Mamba-1 mixer between its projections (Gu and Dao, 2023, arXiv 2312.00752, section 3).

    u_t = silu(conv_bias + sum_j conv_weight_j x_{t - K + 1 + j})
    delta = softplus(dt + times * dt_bias)
    h <- exp(delta A) h + delta u_t B,  A = -exp(a_log)
    y = (C . h + D u_t) * silu(z)

Grouped form (MambaInLlama, arXiv 2408.15237): heads of N channels; x and B have fewer heads, which several
heads of C share. The ungrouped form (mamba_ssm) takes dt, B and C from u: ``mamba1_conv_step`` first, then
``mamba1_step`` without a convolution. Places, ring and fork are those of ``mamba1_conv``.
Sums are in fp32 (the plain twin: float64 for float64 inputs); y comes from the state before it is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from harness.kernels.mamba1_conv import (
    Conv,
    Places,
    conv_inputs,
    conv_keep,
    conv_places,
    conv_silu,
    conv_weights,
    mamba1_conv_step,
    place_indices,
    working_dtype,
)
from harness.kernels.selective_scan import selective_step

FP16_MAX = 65504.0


class Mixer(NamedTuple):
    """a_log [channels, N], d and dt_bias [channels]; ``times`` the bias counts (MambaInLlama's models: twice)."""

    a_log: torch.Tensor
    d: torch.Tensor
    dt_bias: torch.Tensor
    times: int = 1


def mamba1_step(
    x: torch.Tensor,
    dt: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    z: torch.Tensor,
    ssm: torch.Tensor,
    mixer: Mixer,
    conv: Conv | None = None,
    places: Places | None = None,
    saturated: torch.Tensor | None = None,
) -> torch.Tensor:
    """y [rows, channels] in z's dtype; the pools ``ssm`` [places, channels, N] and ``conv.ring`` move on in place.

    x [rows, xb] raw, or u [rows, channels] without ``conv``; dt [rows, channels] behind its projection, without
    bias; b, c [rows, groups, N]; z [rows, channels]. ``ssm`` may be fp32, fp16 (clamped to its range;
    ``saturated`` int32 [1] counts what was) or bf16. ``places`` None: row i keeps its state at place i.
    """
    kind = working_dtype(x)
    u = x.to(kind) if conv is None else mamba1_conv_step(x, conv, ssm.shape[2], places)
    source, target = place_indices(places, x.shape[0], x.device)
    delta = F.softplus(dt.to(kind) + mixer.times * mixer.dt_bias.to(kind))
    a = -mixer.a_log.to(kind).exp()
    state, y = selective_step(u, delta, a, b.to(kind), c.to(kind), ssm[source].to(kind))
    if ssm.dtype == torch.float16:
        if saturated is not None:
            saturated += (state.abs() > FP16_MAX).sum()
        state = state.clamp(-FP16_MAX, FP16_MAX)
    ssm[target] = state.to(ssm.dtype)
    return ((y + mixer.d.to(kind) * u) * F.silu(z.to(kind))).to(z.dtype)


@triton.jit
def _softplus(v):
    # log(1 + e) loses the digits of a small e; e / ((1 + e) - 1), both rounded alike, gives them back.
    e = tl.exp(tl.minimum(v, 20.0))
    w = 1.0 + e
    small = w == 1.0
    log1p = tl.where(small, e, tl.log(w) * (e / tl.where(small, 1.0, w - 1.0)))
    return tl.where(v > 20.0, v, log1p)


LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _exp2(v, flush: tl.constexpr):
    """2^v in one instruction where a GPU may ``flush`` results below 2^-126 to 0, else in four."""
    if flush:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=r,r", [v], tl.float32, True, 1)
    return tl.exp2(v)


@triton.jit
def _step_kernel(
    x,
    dt,
    b,
    c,
    z,
    ssm,
    a_log,
    d,
    dt_bias,
    ring,
    position,
    weight,
    bias,
    source,
    target,
    saturated,
    out,
    rows,
    channels,
    x_stride,
    dt_stride,
    b_stride,
    c_stride,
    z_stride,
    ssm_stride,
    ring_stride,
    n: tl.constexpr,
    b_span: tl.constexpr,
    c_span: tl.constexpr,
    times: tl.constexpr,
    xb: tl.constexpr,
    repeat: tl.constexpr,
    width: tl.constexpr,
    indexed: tl.constexpr,
    counted: tl.constexpr,
    flush: tl.constexpr,
    block: tl.constexpr,
    block_rows: tl.constexpr,
):
    """``block_rows`` rows of ``block`` channels: A (fp32, twice the bytes of a 16-bit state) is read once for them all.

    A channel's N = 16 states are 32 contiguous bytes in 16 bits, so a tile is one contiguous run and a thread's
    16-byte access holds half a channel. ``width`` 0: x is already convolved. A program is a chain of two waits, for
    the rows' places and for all that lies there, with every store behind the last load: no compiler moves a load over
    a store.
    """
    channel = tl.program_id(0) * block + tl.arange(0, block)
    inside = channel < channels
    entry = tl.arange(0, n)
    tile = channel[:, None] * n + entry[None, :]
    first = tl.program_id(1).to(tl.int64) * block_rows
    reads = ()
    writes = ()
    times_of = ()
    for i in tl.static_range(block_rows):
        row = tl.minimum(first + i, rows - 1)
        reads = reads + (tl.load(source + row).to(tl.int64) if indexed else row,)  # type: ignore[assignment]  # noqa: RUF005
        writes = writes + (tl.load(target + row).to(tl.int64) if indexed else row,)  # type: ignore[assignment]  # noqa: RUF005
        if width > 0:
            times_of = times_of + (tl.load(position + row),)  # type: ignore[assignment]  # noqa: RUF005
    rate = _exp2(tl.load(a_log + tile, mask=inside[:, None], other=0.0).to(tl.float32) * LOG2_E, flush)
    skip = tl.load(d + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(dt_bias + channel, mask=inside, other=0.0).to(tl.float32) * times
    b_tile = (channel // b_span)[:, None] * n + entry[None, :]
    c_tile = (channel // c_span)[:, None] * n + entry[None, :]
    shared, writer = conv_places(channel, inside, n, repeat)
    if width > 0:
        weights = conv_weights(weight, bias, channel, inside, width)
    loaded = ()
    for i in tl.static_range(block_rows):
        row = tl.minimum(first + i, rows - 1)
        live = inside & (first + i < rows)
        state = tl.load(ssm + reads[i] * ssm_stride + tile, mask=live[:, None], other=0.0)
        if width > 0:
            inputs = conv_inputs(
                x + row * x_stride, ring + reads[i] * ring_stride, times_of[i], shared, live, xb, width
            )
        else:
            inputs = (tl.load(x + row * x_stride + channel, mask=live, other=0.0),)
        step = tl.load(dt + row * dt_stride + channel, mask=live, other=0.0)
        added = tl.load(b + row * b_stride + b_tile, mask=live[:, None], other=0.0)
        seen = tl.load(c + row * c_stride + c_tile, mask=live[:, None], other=0.0)
        gate = tl.load(z + row * z_stride + channel, mask=live, other=0.0)
        loaded = loaded + ((state, inputs, step, added, seen, gate),)  # type: ignore[assignment]  # noqa: RUF005
    for i in tl.static_range(block_rows):
        row = tl.minimum(first + i, rows - 1)
        live = inside & (first + i < rows)
        state, inputs, step, added, seen, gate = loaded[i]
        u = conv_silu(inputs, weights, width) if width > 0 else inputs[0].to(tl.float32)
        delta = _softplus(step.to(tl.float32) + shift)
        # exp(delta A) = 2^(-delta log2 e exp(a_log)): one product an entry.
        decay = _exp2((delta * -LOG2_E)[:, None] * rate, flush)
        state = decay * state.to(tl.float32) + (delta * u)[:, None] * added.to(tl.float32)
        y = tl.sum(state * seen.to(tl.float32), axis=1) + skip * u
        gate = gate.to(tl.float32)
        tl.store(out + row * channels + channel, (y * gate * tl.sigmoid(gate)).to(out.dtype.element_ty), mask=live)
        if width > 0:
            kept = writer & (first + i < rows)
            forks = reads[i] != writes[i]
            conv_keep(ring + writes[i] * ring_stride, inputs, times_of[i], shared, kept, forks, xb, width)
        rounded = state.to(ssm.dtype.element_ty)
        if ssm.dtype.element_ty == tl.float16:
            if counted:  # one addition a channel, not one an entry
                over = tl.sum((tl.abs(state) > 65504.0).to(tl.int32), axis=1)
                tl.atomic_add(saturated + tl.zeros_like(channel), over, mask=live & (over > 0), sem="relaxed")
            most = tl.full([1, 1], 65504, rounded.dtype)  # behind the rounding: two entries an instruction
            rounded = tl.clamp(rounded, -most, most, tl.PropagateNan.ALL)
        tl.store(ssm + writes[i] * ssm_stride + tile, rounded, mask=live[:, None])


@dataclass(frozen=True, slots=True)
class Launch:
    """``block`` channels x ``block_rows`` rows a program of ``warps`` warps."""

    block: int
    block_rows: int
    warps: int


# (compute capability, rows x channels at most, bytes of a state entry) -> launch; the first that fits. Measured on an
# H100 at 128 x 3072, 280 x 3072 and 256 x 2048 (results/h100/mamba1_kernels.py), of which 2 bytes over 16 launches: two
# rows a program, which read A once, cost more in registers than they save in bytes.
LAUNCHES: tuple[tuple[int, int, int, Launch], ...] = (
    (90, 1 << 62, 2, Launch(64, 1, 2)),
    (90, 1 << 62, 4, Launch(64, 1, 2)),
)
DEFAULT_LAUNCH = Launch(64, 1, 2)


def launch_for(rows: int, channels: int, dtype: torch.dtype, device: torch.device) -> Launch:
    """The table's entry for a problem on a device; ``DEFAULT_LAUNCH`` where it has none."""
    if device.type != "cuda":
        return DEFAULT_LAUNCH
    major, minor = torch.cuda.get_device_capability(device)
    key = (10 * major + minor, dtype.itemsize)
    fits = (launch for cap, most, size, launch in LAUNCHES if (cap, size) == key and rows * channels <= most)
    return next(fits, DEFAULT_LAUNCH)


def mamba1_step_triton(
    x: torch.Tensor,
    dt: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    z: torch.Tensor,
    ssm: torch.Tensor,
    mixer: Mixer,
    conv: Conv | None = None,
    places: Places | None = None,
    saturated: torch.Tensor | None = None,
    launch: Launch | None = None,
) -> torch.Tensor:
    """``mamba1_step`` in one launch: the same arguments; y is made by torch.empty.

    Rows of x, dt, b, c and z may be strided (slices of one projection) but each row lies contiguous; N is a
    power of two. Rows with the same target place (padding rows on a scratch place) leave one of their states there.
    """
    rows, channels = z.shape
    n, xb = ssm.shape[2], x.shape[1]
    launch = launch or launch_for(rows, channels, ssm.dtype, ssm.device)
    out = torch.empty(rows, channels, dtype=z.dtype, device=z.device)
    source, target = places or (x, x)  # never read where there are none
    ring, position, weight, bias = conv or (x, x, x, x)
    grid = (triton.cdiv(channels, launch.block), triton.cdiv(rows, launch.block_rows))
    _step_kernel[grid](
        x,
        dt,
        b,
        c,
        z,
        ssm,
        mixer.a_log,
        mixer.d,
        mixer.dt_bias,
        ring,
        position,
        weight,
        bias,
        source,
        target,
        x if saturated is None else saturated,
        out,
        rows,
        channels,
        x.stride(0),
        dt.stride(0),
        b.stride(0),
        c.stride(0),
        z.stride(0),
        ssm.stride(0),
        ring.stride(0),
        n=n,
        b_span=channels // b.shape[1],
        c_span=channels // c.shape[1],
        times=mixer.times,
        xb=xb,
        repeat=channels // xb,
        width=0 if conv is None else ring.shape[1],
        indexed=places is not None,
        counted=saturated is not None,
        flush=ssm.is_cuda,
        block=launch.block,
        block_rows=launch.block_rows,
        num_warps=launch.warps,
    )
    return out
