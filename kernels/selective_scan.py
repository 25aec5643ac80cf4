"""The selective scan of Mamba-1 (Gu and Dao, 2023, arXiv 2312.00752, equation 2): sequential, chunked and one step.

h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t,  y_t = C_t . h_t  for each channel, which has a step size
delta > 0 and a row of A < 0 of its own; its state h has N numbers. Unlike Mamba-2's, the decay differs
along the state too, so no matrix form is cheap: ``selective_scan`` runs the same steps for all chunks
at once, hands the states from chunk to chunk and runs again from there; ``selective_scan_triton`` walks through
packed prompts with the state in registers, one launch for all.
B and C have one row a group, each its own number of groups; channel d belongs to group
d * groups // channels. All sums are in fp32 at least, float64 for float64 inputs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from harness.kernels.sequences import Sequences


def selective_scan_sequential(
    x: torch.Tensor,
    delta: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y [batch, time, channels] and the last state [batch, channels, N], step by step: the reference.

    x, delta [batch, time, channels]; a [channels, N]; b, c [batch, time, groups, N]; both results are in
    fp32, or float64 for float64 inputs. ``state`` is where to begin (zero), and stays as it was.
    """
    x, delta, a, b, c = _widened(x, delta, a, b, c)
    h = x.new_zeros(x.shape[0], *a.shape) if state is None else state.to(x.dtype)
    y = []
    for t in range(x.shape[1]):
        h, out = selective_step(x[:, t], delta[:, t], a, b[:, t], c[:, t], h)
        y.append(out)
    return torch.stack(y, dim=1), h


def selective_step(
    x: torch.Tensor, delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The state [..., channels, N] behind one step, and y [..., channels]; all in the dtype of the arguments.

    x, delta [..., channels]; a [channels, N]; b, c [..., groups, N].
    """
    state = _advance(x, delta, a, b, state)
    y = (state.unflatten(-2, (c.shape[-2], -1)) * c[..., None, :]).sum(-1)
    return state, y.flatten(-2)


def selective_scan(
    x: torch.Tensor,
    delta: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    chunk: int | None = None,
    state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same arguments and results as ``selective_scan_sequential``, for prefill and training.

    2 * chunk + time / chunk steps instead of time, each over all chunks; ``chunk`` None takes the fewest.
    Padding steps have delta = 0: they leave the state alone.
    """
    x, delta, a, b, c = _widened(x, delta, a, b, c)
    time = x.shape[1]
    chunk = chunk or max(1, round(math.sqrt(time / 2)))
    pad = -time % chunk

    def split(t: torch.Tensor) -> torch.Tensor:  # [batch, time, ...] -> [batch, chunks, chunk, ...]
        return F.pad(t, (0, 0) * (t.ndim - 2) + (0, pad)).unflatten(1, (-1, chunk))

    xs, deltas, bs, cs = (split(t) for t in (x, delta, b, c))
    ends = xs.new_zeros(*xs.shape[:2], *a.shape)
    for t in range(chunk):
        ends = _advance(xs[:, :, t], deltas[:, :, t], a, bs[:, :, t], ends)

    decay = (deltas.sum(2)[..., None] * a).exp()
    starts = [x.new_zeros(x.shape[0], *a.shape) if state is None else state.to(x.dtype)]
    for m in range(xs.shape[1]):
        starts.append(decay[:, m] * starts[-1] + ends[:, m])

    h = torch.stack(starts[:-1], dim=1)
    y = []
    for t in range(chunk):
        h, out = selective_step(xs[:, :, t], deltas[:, :, t], a, bs[:, :, t], cs[:, :, t], h)
        y.append(out)
    return torch.stack(y, dim=2).flatten(1, 2)[:, :time], starts[-1]


def selective_scan_packed(
    x: torch.Tensor, delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, sequences: Sequences
) -> tuple[torch.Tensor, torch.Tensor]:
    """y [tokens, channels] and last states [n, channels, N] of n ``sequences``, from empty states.

    x, delta [tokens, channels]; b, c [tokens, groups, N]. The plain twin of ``selective_scan_triton``.
    """
    y, last = [], []
    for first, end in sequences.spans():
        x1, delta1, b1, c1 = (t[None, first:end] for t in (x, delta, b, c))
        out, state = selective_scan(x1, delta1, a, b1, c1)
        y.append(out[0])
        last.append(state[0])
    return torch.cat(y), torch.stack(last)


def _advance(
    x: torch.Tensor, delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor, state: torch.Tensor
) -> torch.Tensor:
    added = (delta * x).unflatten(-1, (b.shape[-2], -1))[..., None] * b[..., None, :]
    return (delta[..., None] * a).exp() * state + added.flatten(-3, -2)


def _widened(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return tuple(t.to(kind) for t in (x, *rest))


@triton.jit
def _scan_kernel(
    x,
    delta,
    a,
    b,
    c,
    starts,
    y,
    last,
    channels,
    x_stride,
    delta_stride,
    b_stride,
    c_stride,
    n: tl.constexpr,
    b_span: tl.constexpr,
    c_span: tl.constexpr,
    block: tl.constexpr,
    unroll: tl.constexpr,
):
    """One sequence and ``block`` channels a program. Inside ``unroll`` steps nothing is stored, so that their loads,
    which depend on no state, can all be under way at once: what a step costs is latency, not bandwidth."""
    channel = tl.program_id(0) * block + tl.arange(0, block)
    inside = channel < channels
    entry = tl.arange(0, n)
    tile = channel[:, None] * n + entry[None, :]
    rate = tl.load(a + tile, mask=inside[:, None], other=0.0).to(tl.float32) * 1.4426950408889634
    b_tile = (channel // b_span)[:, None] * n + entry[None, :]
    c_tile = (channel // c_span)[:, None] * n + entry[None, :]
    sequence = tl.program_id(1).to(tl.int64)
    first = tl.load(starts + sequence).to(tl.int64)
    end = tl.load(starts + sequence + 1).to(tl.int64)
    place = tl.arange(0, unroll)
    state = tl.zeros((block, n), tl.float32)
    for done in range(0, (end - first).to(tl.int32), unroll):
        out = tl.zeros((unroll, block), tl.float32)
        for i in tl.static_range(unroll):
            token = first + done + i
            live = inside & (token < end)
            # Behind the end delta is 0, and the state stays as it is.
            step = tl.load(delta + token * delta_stride + channel, mask=live, other=0.0).to(tl.float32)
            u = tl.load(x + token * x_stride + channel, mask=live, other=0.0).to(tl.float32)
            added = tl.load(b + token * b_stride + b_tile, mask=live[:, None], other=0.0).to(tl.float32)
            seen = tl.load(c + token * c_stride + c_tile, mask=live[:, None], other=0.0).to(tl.float32)
            state = tl.exp2(step[:, None] * rate) * state + (step * u)[:, None] * added
            out = tl.where(place[:, None] == i, tl.sum(state * seen, axis=1)[None, :], out)
        token = first + done + place
        target = y + token[:, None] * channels + channel[None, :]
        tl.store(target, out.to(y.dtype.element_ty), mask=(token < end)[:, None] & inside[None, :])
    tl.store(last + sequence * channels * n + tile, state, mask=inside[:, None])


def selective_scan_triton(
    x: torch.Tensor,
    delta: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    sequences: Sequences,
    block: int = 16,
    unroll: int = 4,
    warps: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``selective_scan_packed`` in one launch: the same arguments, results in fp32, made by torch.empty.

    Rows of x, delta, b and c may be strided but each lies contiguous; N is a power of two. ``block`` channels and
    ``unroll`` tokens at once: small blocks, so that a single prompt of a 2,048-wide layer still makes 128
    programs. Untuned until measured.
    """
    (tokens, channels), n, count = x.shape, a.shape[1], len(sequences.lengths)
    y = torch.empty(tokens, channels, dtype=torch.float32, device=x.device)
    last = torch.empty(count, channels, n, dtype=torch.float32, device=x.device)
    _scan_kernel[(triton.cdiv(channels, block), count)](
        x,
        delta,
        a,
        b,
        c,
        sequences.starts,
        y,
        last,
        channels,
        x.stride(0),
        delta.stride(0),
        b.stride(0),
        c.stride(0),
        n=n,
        b_span=channels // b.shape[1],
        c_span=channels // c.shape[1],
        block=block,
        unroll=unroll,
        num_warps=warps,
    )
    return y, last
