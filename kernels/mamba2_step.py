"""One decode step of a Mamba-2 mixer, everything between its two projections, in one launch to three.

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

in fp32 with one rounding at the commit (its sum over k in 16 bits' worth of digits for a 16-bit S); fp16 states are
clamped and the clamped entries counted. x and B are rounded to the activations' dtype before use, here as from the
ring. K = 1 reads and writes S at every step.
Groups of B and C, and heads of x that several heads share (MambaInLlama's Mamba-2), are indexed, never repeated.

One launch does it all but for two things, each a launch of its own: what many heads share (``mamba2_shared``), before,
and a gated norm, behind. A norm over the whole row needs none where the caller divides behind the product that follows
(``mamba2_step_unscaled``): it is one number a row. A norm in groups divides each part of a row by another number, and
that product adds the parts up, so the division cannot wait: grouped with shared B and C makes three launches.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from .mamba2_conv import convolved, exact_dot, newest, past, pieces, softplus
from .mamba2_launch import SHARING_HEADS, Launch, launch_for, overlaps
from .mamba2_ring import Memory, Rows, by_head
from .mamba2_shared import entries_of, shared_part
from .rmsnorm import Unscaled


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
    out, projected, conv_weight, conv_bias, d, a_log, dt_bias, z_bias, norm, squares, given,
    state, conv, ring_x, ring_b, ring_dt, ring_decay, saturated,
    position, position0, sample, snapshot, running,
    layer, projected_stride, tap_stride, channel_stride,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, X: tl.constexpr, B: tl.constexpr, G: tl.constexpr,
    K: tl.constexpr, W: tl.constexpr, CLAMP: tl.constexpr,
    DIMS: tl.constexpr, COLUMNS: tl.constexpr, ENTRIES: tl.constexpr, PIECES: tl.constexpr, AGAIN: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """DIMS of a head's P rows of [P, N], of one slot; H heads, X heads of x, B groups of B, G groups of C.

    A program is a chain of two waits: first for what lies at addresses known beforehand, then for state, ring and
    past inputs, all at once. So nothing is stored, and nothing summed across threads, before the last load is out:
    a compiler moves no load over a store. A row that does not run goes along, which costs less than a third wait
    would cost the others, and writes zeros alone.
    """
    INNER: tl.constexpr = H * P
    C: tl.constexpr = X * P + B * N + G * N
    PARTS: tl.constexpr = (P + DIMS - 1) // DIMS
    SILU: tl.constexpr = a_log is not None
    slot = tl.program_id(1).to(tl.int64)
    head, part = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS
    lane = part * DIMS + tl.arange(0, DIMS)
    inside = lane < (P if P % DIMS else PARTS * DIMS)
    n = tl.arange(0, N)
    every = n < N
    channel = head * P + lane
    x_channel = head // (H // X) * P + lane
    b_channel = X * P + head // (H // B) * N + n
    c_channel = X * P + B * N + head // (H // G) * N + n
    out += slot * INNER
    projected += slot * projected_stride

    alive = tl.load(running + slot) != 0
    t = tl.load(position + slot).to(tl.int32)
    age = t - tl.load(position0 + slot).to(tl.int32)
    phase = (t + tl.load(sample + slot).to(tl.int32) + layer) % K
    place = tl.load(snapshot + slot).to(tl.int64)
    x_new = tl.load(projected + x_channel, inside, 0)
    if given is None:
        b_new = tl.load(projected + b_channel)
        c_new = tl.load(projected + c_channel)
    z = tl.load(projected + C + channel, inside, 0).to(tl.float32)
    step = tl.load(projected + C + INNER + head).to(tl.float32)
    skip = tl.load(d + head).to(tl.float32)
    if dt_bias is not None:
        step += tl.load(dt_bias + head).to(tl.float32)
    if a_log is not None:
        rate = tl.load(a_log + head).to(tl.float32)
    if z_bias is not None:
        z += tl.load(z_bias + channel, inside, 0).to(tl.float32)
    if squares is not None:
        norm_weight = tl.load(norm + channel, inside, 0).to(tl.float32)
    x_sum = newest(x_new, conv_weight, conv_bias, x_channel, inside, tap_stride, channel_stride, W)
    if given is None:
        b_sum = newest(b_new, conv_weight, conv_bias, b_channel, every, tap_stride, channel_stride, W)
        c_sum = newest(c_new, conv_weight, conv_bias, c_channel, every, tap_stride, channel_stride, W)
    # Addresses: a scalar base, 64 bits wide, and small offsets.
    first = tl.maximum(phase - age, 0)
    place = tl.where(age <= phase, place, slot)
    column = tl.arange(0, COLUMNS)
    base = (head * P + part * DIMS) * N
    tile = tl.arange(0, DIMS)[:, None] * N + column[None, :]
    own_state = state + slot * INNER * N + base
    state += place * INNER * N + base
    # Kept by the cache like anything else: a commit reads it a second time.
    held_state = ()
    for q in tl.static_range(N // COLUMNS):
        s = tl.load(state + q * COLUMNS + tile, inside[:, None], 0)
        held_state = held_state + (s,)  # type: ignore[assignment]  # noqa: RUF005 (Triton knows no stars)
    conv += slot * W * C
    x_past = past(conv, t, x_channel, inside, C, W)
    if given is None:
        b_past = past(conv, t, b_channel, every, C, W)
        c_past = past(conv, t, c_channel, every, C, W)
    ring_x += slot * (K - 1) * (X * P) + x_channel
    ring_b += slot * (K - 1) * (B * N) + head // (H // B) * N
    ring_decay += slot * (K - 1) * H + head
    if a_log is not None:
        ring_dt += slot * (K - 1) * H + head
    if K > 1:
        k = tl.arange(0, ENTRIES)
        held = (k >= first) & (k < phase)
        total = tl.load(ring_decay + (phase - 1) * H, first < phase, 0)
        decay = tl.load(ring_decay + k * H, held, 0)
        if a_log is not None:
            steps = tl.load(ring_dt + k * H, held, 0)
        if given is None:
            b_k = tl.load(ring_b + k[:, None] * (B * N) + n[None, :], held[:, None], 0)
        x_k = tl.load(ring_x[None, :] + k[:, None] * (X * P), held[:, None] & inside[None, :], 0)
    else:
        total = 0.0
    if given is not None:
        if EARLY:
            gdc_wait()
        given += (slot * G + head // (H // G)) * (2 * N + ENTRIES + 1)
        c = tl.load(given + n)
        own = tl.load(given + 2 * N + ENTRIES)
        if K > 1:
            dot = tl.load(given + 2 * N + k, held, 0)

    x = convolved(x_sum, x_past, conv_weight, x_channel, inside, tap_stride, channel_stride, W, SILU)
    x_kept = x.to(projected.dtype.element_ty)
    x = x_kept.to(tl.float32)
    if given is None:
        b = convolved(b_sum, b_past, conv_weight, b_channel, every, tap_stride, channel_stride, W, SILU)
        c = convolved(c_sum, c_past, conv_weight, c_channel, every, tap_stride, channel_stride, W, SILU)
        b_kept = b.to(projected.dtype.element_ty)
        b = b_kept.to(tl.float32)
        own = tl.sum(b * c, 0)
        if K > 1:
            dot = tl.sum(b_k.to(tl.float32) * c[None, :], 1)
    step = softplus(step)
    if a_log is not None:
        total -= tl.exp(rate) * step
        own *= step
    else:
        total -= step
    # Products of all columns add up in place before anything is summed across threads.
    c_pieces = pieces(c, N, N // COLUMNS)
    read = tl.zeros([DIMS, COLUMNS], tl.float32)
    for q in tl.static_range(N // COLUMNS):
        read += held_state[q].to(tl.float32) * c_pieces[q][None, :]
    y = tl.exp(total) * tl.sum(read, 1) + (own + skip) * x
    if K > 1:
        weight = tl.exp(total - decay) * dot
        if a_log is not None:
            weight *= steps
        y += tl.sum(x_k.to(tl.float32) * weight[:, None], 0)
    y = tl.where(alive, y * z * tl.sigmoid(z), 0.0).to(out.dtype.element_ty)
    if squares is not None:
        wide = y.to(tl.float32)
        tl.store(squares + slot * tl.num_programs(0) + tl.program_id(0), tl.sum(tl.where(inside, wide * wide, 0.0), 0))
        y = (wide * norm_weight).to(out.dtype.element_ty)
    tl.store(out + channel, y, inside)

    # The first of the programs that share x, B or C keeps it. Nobody reads what is written in the same launch: the
    # convolution reads the W - 1 rows before this one, and the ring is read up to the entry before this one.
    keeps_x = inside & (alive & (head % (H // X) == 0))
    keeps_b = every & (alive & (head % (H // B) == 0) & (part == 0))
    keeps_c = every & (alive & (head % (H // G) == 0) & (part == 0))
    if W > 1:
        now = conv + (t % W) * C
        tl.store(now + x_channel, x_new, keeps_x)
        if given is None:
            tl.store(now + b_channel, b_new, keeps_b)
            tl.store(now + c_channel, c_new, keeps_c)
    if phase < K - 1:
        tl.store(ring_x + phase * (X * P), x_kept, keeps_x)
        if given is None:
            tl.store(ring_b + phase * (B * N) + n, b_kept, keeps_b)
        tl.store(ring_decay + phase * H, total, alive & (part == 0))
        if a_log is not None:
            tl.store(ring_dt + phase * H, step, alive & (part == 0))
    elif alive:
        # One step of K comes here. The ring comes out of the caches once more: kept in registers in the shape that the
        # matrix units take, with 16 entries at least, it would cost all other steps.
        if a_log is not None:
            x *= step
        if K > 1:
            LONG: tl.constexpr = max(16, ENTRIES)
            j = tl.arange(0, LONG)
            earlier = (j >= first) & (j < phase)
            b_j = ()
            for q in tl.static_range(N // COLUMNS):
                rows_of_b = tl.load(
                    ring_b + j[:, None] * (B * N) + (q * COLUMNS + column)[None, :], earlier[:, None], 0
                )
                b_j = b_j + (rows_of_b,)  # type: ignore[assignment]  # noqa: RUF005
            scale = tl.exp(total - tl.load(ring_decay + j * H, earlier, 0))
            if a_log is not None:
                scale *= tl.load(ring_dt + j * H, earlier, 0)
            x_j = tl.load(ring_x[:, None] + j[None, :] * (X * P), inside[:, None] & earlier[None, :], 0)
            x_j = x_j.to(tl.float32) * scale[None, :]
        if AGAIN:
            held_again = ()
            for q in tl.static_range(N // COLUMNS):
                entries = tl.load(state + q * COLUMNS + tile, inside[:, None], 0)
                held_again = held_again + (entries,)  # type: ignore[assignment]  # noqa: RUF005
        else:
            held_again = held_state
        if given is not None:
            b = tl.load(given + N + n)
        b_pieces = pieces(b, N, N // COLUMNS)
        for q in tl.static_range(N // COLUMNS):
            whole = held_again[q].to(tl.float32) * tl.exp(total) + x[:, None] * b_pieces[q][None, :]
            if K > 1:
                whole += exact_dot(x_j, b_j[q], PIECES)
            rounded = whole.to(state.dtype.element_ty)
            if CLAMP:
                over = tl.sum((tl.abs(whole) > 65504).to(tl.int32))
                tl.atomic_add(saturated, over, over > 0, sem="relaxed")
                most = tl.full([1, 1], 65504, rounded.dtype)  # behind the rounding: two entries an instruction
                rounded = tl.clamp(rounded, -most, most, tl.PropagateNan.ALL)
            tl.store(own_state + q * COLUMNS + tile, rounded, inside[:, None])


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


def mamba2_step_triton(
    projected: torch.Tensor,
    mixer: Mixer,
    memory: Memory,
    rows: Rows,
    out: torch.Tensor | None = None,
    launch: Launch | None = None,
) -> torch.Tensor:
    """``mamba2_step`` in one launch, and one more each where many heads share B and C and for a norm.

    For a CUDA graph: the grid depends on shapes alone. ``out`` [rows, inner] is allocated where not given.
    ``projected`` (its last axis contiguous) has the dtype of the rings; ``memory`` is contiguous. ValueError where
    N is no power of two.
    """
    out = _launched(projected, mixer, memory, rows, out, launch)
    if mixer.norm is not None:
        part = out.shape[1] // mixer.norm_groups
        block = triton.next_power_of_2(part)
        _norm_kernel[(mixer.norm_groups, out.shape[0])](out, mixer.norm, mixer.eps, part, block, num_warps=8)
    return out


def mamba2_step_unscaled(
    projected: torch.Tensor, mixer: Mixer, memory: Memory, rows: Rows, launch: Launch | None = None
) -> tuple[torch.Tensor, Unscaled]:
    """The same for a norm over the whole row, without its launch: y times the norm's weight, and what to divide by.

    A product that follows lets the division through, so it can be done where the next norm reads the row anyway.
    """
    assert mixer.norm is not None and mixer.norm_groups == 1
    (count, _), (_, heads, dim, _) = projected.shape, memory.state.shape
    launch = launch or launch_for(memory, count)
    parts = heads * triton.cdiv(dim, launch.dims)
    squares = torch.empty(count, parts, dtype=torch.float32, device=projected.device)
    y = _launched(projected, mixer, memory, rows, None, launch, squares)
    return y, Unscaled(squares, heads * dim, mixer.eps)


def _launched(
    projected: torch.Tensor, mixer: Mixer, memory: Memory, rows: Rows, out: torch.Tensor | None, launch: Launch | None,
    squares: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """y before its norm, or with ``squares`` [rows, programs], which get the sums of y^2, times the norm's weight."""
    count, (_, heads, dim, size) = projected.shape[0], memory.state.shape
    channels, width = mixer.conv_weight.shape
    x_heads, b_groups = memory.x.shape[2] // dim, memory.b.shape[2] // size
    c_groups = (channels - x_heads * dim) // size - b_groups
    if size & (size - 1):
        raise ValueError(f"state size N = {size}: the kernel needs a power of two")
    launch = launch or launch_for(memory, count)
    if out is None:
        out = projected.new_empty(count, heads * dim)
    given, early = None, False
    if b_groups == c_groups and heads // c_groups >= SHARING_HEADS:
        given = shared_part(
            projected, mixer.conv_weight, mixer.conv_bias, memory, rows, mixer.layer, mixer.a_log is not None
        )
        early = overlaps(projected.device)
    _step_kernel[(heads * triton.cdiv(dim, launch.dims), count)](
        out, projected, mixer.conv_weight, mixer.conv_bias, mixer.d, mixer.a_log, mixer.dt_bias, mixer.z_bias,
        None if squares is None else mixer.norm, squares, given,
        memory.state, memory.conv, memory.x, memory.b, memory.dt, memory.decay, memory.saturated,
        rows.position, rows.position0, rows.sample, rows.snapshot, rows.running,
        mixer.layer, projected.stride(0), mixer.conv_weight.stride(1), mixer.conv_weight.stride(0),
        heads, dim, size, x_heads, b_groups, c_groups, memory.length, width, memory.state.dtype == torch.float16,
        launch.dims, launch.columns, entries_of(memory),
        _pieces_of(projected, memory.state), launch.again, early,
        num_warps=launch.warps, maxnreg=launch.registers, **({"launch_pdl": True} if early else {}),
    )  # fmt: skip
    return out


def _pieces_of(projected: torch.Tensor, state: torch.Tensor) -> int:
    """bf16 pieces of an fp32 factor at a commit: two for states of 16 bits, whose rounding is far larger.

    Two leave an error of 2^-17 of the terms summed, so an entry whose terms cancel may round to another neighbour than
    with all digits; three leave fp32's. None (0) in Triton's interpreter, which multiplies bf16 as if its bits were
    integers (3.6 and 3.7).
    """
    if projected.dtype != torch.bfloat16 or not projected.is_cuda:
        return 0
    return 2 if state.element_size() == 2 else 3
