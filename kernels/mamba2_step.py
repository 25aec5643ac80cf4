"""One decode step of a Mamba-2 mixer, everything between its two projections: one launch, two with a gated norm.

From ``projected`` = [x | B | C | z | dt] of a row, with v the convolution over the last inputs of x, B, C:

    continuous (mamba_ssm)                      discrete (Llamba, arXiv 2502.14458)
    x, B, C = silu(v)                           x, B, C = v
    dt = softplus(dt + dt_bias)                 dt = 1
    log a = -exp(A_log) dt                      log a = -softplus(dt [+ dt_bias])
    y = (S' C + D x) silu(z)  [RMSNorm]         y = (S' C + D x) silu(z + z_bias)  [RMSNorm]

S' = a S + dt x B^T is not formed: with l_k the sum of log a from the last commit up to entry k of the
ring (``mamba2_ring``), l that up to this step, S the state as last written,

    S' C = e^l S C + sum_k e^(l - l_k) dt_k (C.B_k) x_k         k over the ring and this step
    commit, every K-th step:  S <- e^l S + sum_k e^(l - l_k) dt_k x_k B_k^T

in fp32 with one rounding at the commit; fp16 states are clamped and the clamped entries counted. x and B are
rounded to the activations' dtype before use, here as from the ring. K = 1 reads and writes S at every step.
Groups of B and C, and heads of x that several heads share (MambaInLlama's Mamba-2), are indexed, never repeated.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .mamba2_conv import convolve, pieces, softplus
from .mamba2_ring import Memory, Rows, by_head


@dataclasses.dataclass(frozen=True, slots=True)
class Mixer:
    """Weights of a layer, any float dtype: conv_weight [channels, width], conv_bias [channels], d [heads].

    ``a_log`` [heads] makes the form continuous, None discrete; ``dt_bias`` [heads], ``z_bias`` [inner] and
    ``norm`` [inner] (RMSNorm behind the gate with ``eps``, each of ``norm_groups`` equal parts by itself) may be
    None. ``layer`` shifts the commit's phase.
    A conv_weight that is the transpose of a contiguous [width, channels] is read in whole lines.
    """

    layer: int
    conv_weight: torch.Tensor
    conv_bias: torch.Tensor
    d: torch.Tensor
    a_log: torch.Tensor | None = None
    dt_bias: torch.Tensor | None = None
    z_bias: torch.Tensor | None = None
    norm: torch.Tensor | None = None
    eps: float = 1e-5
    norm_groups: int = 1


def mamba2_step(projected: torch.Tensor, mixer: Mixer, memory: Memory, rows: Rows) -> torch.Tensor:
    """y [rows, inner], gated and normed, in ``projected``'s dtype; ``memory`` advances in place.

    ``projected`` [rows, channels + inner + heads]: row s is slot s; rows that do not run give 0. The twin of
    ``mamba2_step_triton``; float64 throughout for float64 inputs, else fp32.
    """
    kind = torch.promote_types(projected.dtype, torch.float32)
    heads, dim, size = memory.state.shape[1:]
    channels, width = mixer.conv_weight.shape
    parts = memory.x.shape[2], memory.b.shape[2]
    slots = rows.running[: projected.shape[0]].nonzero()[:, 0]
    phase, _ = rows.phase_and_age(slots, mixer.layer, memory.length)
    position = rows.position[slots].long()

    raw, z, dt = projected[slots].split((channels, heads * dim, heads), dim=-1)
    window = torch.cat((memory.conv_tail(slots, position), raw[:, None]), dim=1).to(kind)
    if width > 1:
        memory.conv[slots, position % width] = raw
    mixed = mixer.conv_bias.to(kind) + (window * mixer.conv_weight.t().to(kind)).sum(1)
    mixed = mixed if mixer.a_log is None else F.silu(mixed)
    x, b, c = mixed.split((*parts, channels - sum(parts)), dim=-1)
    x, b = x.to(projected.dtype), b.to(projected.dtype)
    dt = F.softplus(dt.to(kind) if mixer.dt_bias is None else dt.to(kind) + mixer.dt_bias.to(kind))
    log_a = -dt if mixer.a_log is None else -mixer.a_log.to(kind).exp() * dt

    state, total, weight, xs, bs = memory.pending(rows, mixer.layer, slots, kind)
    total = total + log_a
    own = torch.ones_like(dt)[:, None] if mixer.a_log is None else dt[:, None]
    weight = torch.cat((weight * log_a.exp()[:, None], own), dim=1)
    x_own, b_own, c = (by_head(t.to(kind), heads, n) for t, n in ((x, dim), (b, size), (c, size)))
    xs, bs = torch.cat((xs, x_own[:, None]), dim=1), torch.cat((bs, b_own[:, None]), dim=1)
    decayed = state * total.exp()[..., None, None]
    y = (decayed * c[:, :, None]).sum(-1) + ((weight * (bs * c[:, None]).sum(-1))[..., None] * xs).sum(1)

    commits = phase == memory.length - 1
    added = torch.einsum("nkh,nkhp,nkhs->nhps", weight[commits], xs[commits], bs[commits])
    memory.write(slots[commits], decayed[commits] + added)
    kept, index = slots[~commits], phase[~commits]
    memory.x[kept, index], memory.b[kept, index] = x[~commits], b[~commits]
    memory.decay[kept, index] = total[~commits].to(memory.decay.dtype)
    if memory.dt is not None:
        memory.dt[kept, index] = dt[~commits].to(memory.dt.dtype)

    y = (y + mixer.d.to(kind)[:, None] * x_own).flatten(1)
    y = y * F.silu(z.to(kind) if mixer.z_bias is None else z.to(kind) + mixer.z_bias.to(kind))
    if mixer.norm is not None:
        y = y.to(projected.dtype).to(kind).unflatten(1, (mixer.norm_groups, -1))
        y = F.rms_norm(y, y.shape[-1:], None, mixer.eps).flatten(1) * mixer.norm.to(kind)
    out = projected.new_zeros(projected.shape[0], heads * dim)
    out[slots] = y.to(out.dtype)
    return out


@triton.jit(do_not_specialize=["layer"])
def _step_kernel(
    out, projected, conv_weight, conv_bias, d, a_log, dt_bias, z_bias,
    state, conv, ring_x, ring_b, ring_dt, ring_decay, saturated,
    position, position0, sample, snapshot, running,
    layer, projected_stride, tap_stride, channel_stride,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, X: tl.constexpr, B: tl.constexpr, G: tl.constexpr,
    K: tl.constexpr, W: tl.constexpr, CLAMP: tl.constexpr, HEADS: tl.constexpr, DIMS: tl.constexpr,
    COLUMNS: tl.constexpr, ENTRIES: tl.constexpr, TAPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """HEADS heads of one row that share B and C, in tiles of [DIMS, COLUMNS] of a head's [P, N].

    H heads; X heads of x, B groups of B, G groups of C.
    """
    INNER: tl.constexpr = H * P
    C: tl.constexpr = X * P + B * N + G * N
    SILU: tl.constexpr = a_log is not None
    slot = tl.program_id(1).to(tl.int64)
    head0 = tl.program_id(0) * HEADS
    lane = tl.arange(0, DIMS)
    out += slot * INNER
    projected += slot * projected_stride
    if tl.load(running + slot) == 0:
        for i in range(0, HEADS * P, DIMS):
            tl.store(out + head0 * P + i + lane, tl.zeros([DIMS], out.dtype.element_ty), i + lane < HEADS * P)
        return

    t = tl.load(position + slot).to(tl.int32)
    age = t - tl.load(position0 + slot).to(tl.int32)
    phase = (t + tl.load(sample + slot).to(tl.int32) + layer) % K
    first = tl.maximum(phase - age, 0)
    place = tl.where(age <= phase, tl.load(snapshot + slot).to(tl.int64), slot)
    # Addresses: a scalar base, 64 bits wide, and small offsets that a thread keeps for all tiles.
    own_state = state + slot * INNER * N
    state += place * INNER * N
    ring_x += slot * (K - 1) * (X * P)
    ring_b += slot * (K - 1) * (B * N) + head0 // (H // B) * N
    ring_decay += slot * (K - 1) * H
    if a_log is not None:
        ring_dt += slot * (K - 1) * H
    conv += slot * W * C
    now = conv + (t % W) * C
    k = tl.arange(0, ENTRIES)
    held = (k >= first) & (k < phase)

    n = tl.arange(0, N)
    column = tl.arange(0, COLUMNS)
    tile = lane[:, None] * N + column[None, :]
    every = tl.full([N], 1, tl.int1)
    columns = tl.full([COLUMNS], 1, tl.int1)
    b_first = X * P + head0 // (H // B) * N
    b_channel = b_first + n
    c_channel = X * P + B * N + head0 // (H // G) * N + n
    b = convolve(projected, conv, conv_weight, conv_bias, t, b_channel, every, tap_stride, channel_stride,
                  C, W, TAPS, SILU)  # fmt: skip
    c = convolve(projected, conv, conv_weight, conv_bias, t, c_channel, every, tap_stride, channel_stride,
                  C, W, TAPS, SILU)  # fmt: skip
    b_kept = b.to(projected.dtype.element_ty)
    b = b_kept.to(tl.float32)
    # The first of the heads that share x, B or C keeps it. Nobody reads what is written in the same launch: the
    # convolution reads the W - 1 rows before this one, and the ring is read up to the entry before this one.
    keeps_b = (n >= 0) & (head0 % (H // B) == 0)
    keeps_c = (n >= 0) & (head0 % (H // G) == 0)
    if W > 1:
        tl.store(now + b_channel, tl.load(projected + b_channel), keeps_b)
        tl.store(now + c_channel, tl.load(projected + c_channel), keeps_c)
    tl.store(ring_b + phase * (B * N) + n, b_kept, keeps_b & (phase < K - 1))
    own_dot = tl.sum(b * c, 0)
    c_pieces = pieces(c, N, N // COLUMNS)
    if K > 1:
        b_k = tl.load(ring_b + k[:, None] * (B * N) + n[None, :], held[:, None], 0)
        dots = tl.sum(b_k.to(tl.float32) * c[None, :], 1)

    for i in range(HEADS):
        head = head0 + i
        keeps = head % (H // X) == 0
        step = tl.load(projected + C + INNER + head).to(tl.float32)
        if dt_bias is not None:
            step += tl.load(dt_bias + head).to(tl.float32)
        step = softplus(step)
        total = -step
        if a_log is not None:
            total *= tl.exp(tl.load(a_log + head).to(tl.float32))
        own = own_dot
        if a_log is not None:
            own *= step
        own += tl.load(d + head).to(tl.float32)
        if K > 1:
            total += tl.load(ring_decay + (phase - 1) * H + head, first < phase, 0)
            weight = tl.exp(total - tl.load(ring_decay + k * H + head, held, 0)) * dots
            if a_log is not None:
                weight *= tl.load(ring_dt + k * H + head, held, 0)
            if phase < K - 1:
                tl.store(ring_decay + phase * H + head, total)
                if a_log is not None:
                    tl.store(ring_dt + phase * H + head, step)
        for part in tl.range(0, (P + DIMS - 1) // DIMS, num_stages=STAGES):
            inside = tl.full([DIMS], 1, tl.int1) if P % DIMS == 0 else part * DIMS + lane < P
            x_channel = head // (H // X) * P + part * DIMS + lane
            channel = head * P + part * DIMS + lane
            base = (head * P + part * DIMS) * N
            # Products of all columns add up in place before anything is summed across threads.
            read = tl.zeros([DIMS, COLUMNS], tl.float32)
            for q in tl.static_range(N // COLUMNS):
                # Not needed again for a whole step: it must not push weights and rings out of the cache.
                s = tl.load(state + base + q * COLUMNS + tile, inside[:, None], 0, eviction_policy="evict_first")
                read += s.to(tl.float32) * c_pieces[q][None, :]
            x = convolve(projected, conv, conv_weight, conv_bias, t, x_channel, inside, tap_stride, channel_stride,
                          C, W, TAPS, SILU)  # fmt: skip
            x_kept = x.to(projected.dtype.element_ty)
            x = x_kept.to(tl.float32)
            y = tl.exp(total) * tl.sum(read, 1) + own * x
            if K > 1:
                x_k = tl.load(ring_x + (k[:, None] * (X * P) + x_channel[None, :]),
                              held[:, None] & inside[None, :], 0)  # fmt: skip
                y += tl.sum(x_k.to(tl.float32) * weight[:, None], 0)
            z = tl.load(projected + C + channel, inside, 0).to(tl.float32)
            if z_bias is not None:
                z += tl.load(z_bias + channel, inside, 0).to(tl.float32)
            tl.store(out + channel, (y * z * tl.sigmoid(z)).to(out.dtype.element_ty), inside)
            if W > 1:
                tl.store(now + x_channel, tl.load(projected + x_channel, inside, 0), inside & keeps)
            if phase < K - 1:
                tl.store(ring_x + phase * (X * P) + x_channel, x_kept, inside & keeps)
            else:
                if a_log is not None:
                    x *= step
                # One step of K comes here: short code matters more than a second pass over state and B.
                for start in range(0, N, COLUMNS):
                    at = base + start + tile
                    b_q = convolve(projected, conv, conv_weight, conv_bias, t, b_first + start + column, columns,
                                   tap_stride, channel_stride, C, W, TAPS, SILU)  # fmt: skip
                    b_q = b_q.to(projected.dtype.element_ty).to(tl.float32)
                    whole = tl.load(state + at, inside[:, None], 0).to(tl.float32) * tl.exp(total)
                    whole += x[:, None] * b_q[None, :]
                    for j in range(first, phase):
                        scale = tl.exp(total - tl.load(ring_decay + j * H + head))
                        if a_log is not None:
                            scale *= tl.load(ring_dt + j * H + head)
                        x_j = tl.load(ring_x + j * (X * P) + x_channel, inside, 0).to(tl.float32) * scale
                        b_j = tl.load(ring_b + j * (B * N) + start + column).to(tl.float32)
                        whole += x_j[:, None] * b_j[None, :]
                    if CLAMP:
                        over = tl.sum((tl.abs(whole) > 65504).to(tl.int32))
                        tl.atomic_add(saturated, over, over > 0, sem="relaxed")
                        whole = tl.where(whole > 65504, 65504.0, tl.where(whole < -65504, -65504.0, whole))
                    tl.store(own_state + at, whole.to(state.dtype.element_ty), inside[:, None])


@triton.jit
def _norm_kernel(y, weight, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """RMSNorm of a row's part [WIDTH], in place."""
    part = tl.arange(0, BLOCK)
    inside = part < WIDTH
    column = tl.program_id(0) * WIDTH + part
    y += tl.program_id(1).to(tl.int64) * tl.num_programs(0) * WIDTH + column
    v = tl.load(y, inside, 0).to(tl.float32)
    v *= tl.rsqrt(tl.sum(v * v, 0) / WIDTH + eps)
    v *= tl.load(weight + column, inside, 0).to(tl.float32)
    tl.store(y, v.to(y.dtype.element_ty), inside)


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """``heads`` of a group for each program, tiles of ``dims`` x ``columns``, warps, stages, register limit.

    ``columns`` are N, N/2 or N/4. One warp with few registers is meant: B, C and the ring's products are done once
    a head, no warp waits for another, and a dozen programs on a multiprocessor cover each other's loads. Sums
    over N may round differently from launch to launch: where bits must not depend on the batch, hand in one.
    """

    heads: int
    dims: int
    columns: int
    warps: int = 1
    stages: int = 1
    registers: int = 128


# By (capability, large, N, bytes of a state entry); large: at least 8,192 (row, head) pairs. Empty: nothing is
# measured yet, every shape takes ``default_launch``.
LAUNCHES: dict[tuple[int, bool, int, int], Launch] = {}


def default_launch(head_dim: int, state: int) -> Launch:
    """Untuned: a head a program, 32 columns at a time for all rows where P is 64.

    Then 64 fp32 registers a thread hold the products, 8 entries of a row are one load, 4 threads add up a row.
    """
    columns = max(min(32, state), state // 4)
    return Launch(1, min(2048 // columns, head_dim & -head_dim), columns)


def launch_for(memory: Memory, rows: int, shared: int) -> Launch:
    """The table's entry where its heads divide the ``shared`` heads that have B and C in common, else the default."""
    _, heads, dim, size = memory.state.shape
    if memory.state.device.type != "cuda":
        return default_launch(dim, size)
    major, minor = torch.cuda.get_device_capability(memory.state.device)
    key = (10 * major + minor, rows * heads >= 8192, size, memory.state.element_size())
    found = LAUNCHES.get(key, default_launch(dim, size))
    return found if shared % found.heads == 0 else default_launch(dim, size)


def mamba2_step_triton(
    projected: torch.Tensor,
    mixer: Mixer,
    memory: Memory,
    rows: Rows,
    out: torch.Tensor | None = None,
    launch: Launch | None = None,
) -> torch.Tensor:
    """``mamba2_step`` in one launch, two with ``mixer.norm``; for a CUDA graph: the grid depends on shapes alone.

    ``out`` [rows, inner] is allocated where not given, nothing else is. ``projected`` (its last axis contiguous) has
    the dtype of the rings; ``memory`` is contiguous. ValueError where N is no power of two or the launch does not fit.
    """
    count, (_, heads, dim, size) = projected.shape[0], memory.state.shape
    channels, width = mixer.conv_weight.shape
    x_heads, b_groups = memory.x.shape[2] // dim, memory.b.shape[2] // size
    c_groups = (channels - x_heads * dim) // size - b_groups
    shared = math.gcd(heads // b_groups, heads // c_groups)
    if size & (size - 1):
        raise ValueError(f"state size N = {size}: the kernel needs a power of two")
    launch = launch or launch_for(memory, count, shared)
    if shared % launch.heads:
        raise ValueError(f"{launch}: heads must divide the {shared} heads that have B and C in common")
    if out is None:
        out = projected.new_empty(count, heads * dim)
    ring = max(1, memory.length - 1)
    _step_kernel[(heads // launch.heads, count)](
        out, projected, mixer.conv_weight, mixer.conv_bias, mixer.d, mixer.a_log, mixer.dt_bias, mixer.z_bias,
        memory.state, memory.conv, memory.x, memory.b, memory.dt, memory.decay, memory.saturated,
        rows.position, rows.position0, rows.sample, rows.snapshot, rows.running,
        mixer.layer, projected.stride(0), mixer.conv_weight.stride(1), mixer.conv_weight.stride(0),
        heads, dim, size, x_heads, b_groups, c_groups, memory.length, width, memory.state.dtype == torch.float16,
        launch.heads, launch.dims, launch.columns, triton.next_power_of_2(ring), triton.next_power_of_2(width),
        launch.stages, num_warps=launch.warps, maxnreg=launch.registers,
    )  # fmt: skip
    if mixer.norm is not None:
        part = heads * dim // mixer.norm_groups
        block = triton.next_power_of_2(part)
        _norm_kernel[(mixer.norm_groups, count)](out, mixer.norm, mixer.eps, part, block, num_warps=8)
    return out
