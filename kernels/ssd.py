"""The scalar-decay state space recurrence of Mamba-2 (Dao and Gu, 2024): sequential, chunked and one step.

S_t = a_t S_{t-1} + x_t B_t^T,  y_t = S_t C_t, with a_t = exp(log_a_t) in (0, 1] for each head.
The step size of the continuous form is already in x and log_a (x = dt * x, log_a = dt * A);
the discrete form (Llamba) has log_a = -softplus(A_log) and no step size.
``ssd_sequential`` is the reference; ``ssd_chunked`` is its matrix form for prefill and training;
``ssd_step`` advances a state in place; ``ssd_packed`` runs sequences laid end to end, ``ssd_triton`` the same in one
launch. B and C have one row a group; head h belongs to group h * groups // heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from harness.kernels.sequences import Sequences


def ssd_sequential(
    x: torch.Tensor, log_a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, state: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """y [batch, time, heads, dim] and the last state [batch, heads, dim, N], step by step.

    x [batch, time, heads, dim]; log_a [batch, time, heads]; b, c [batch, time, groups, N].
    """
    batch, time, heads, dim = x.shape
    s = x.new_zeros(batch, heads, dim, b.shape[-1]) if state is None else state.clone()
    y = torch.empty_like(x)
    for t in range(time):
        y[:, t] = ssd_step(x[:, t], log_a[:, t], b[:, t], c[:, t], s)
    return y, s


def ssd_step(
    x: torch.Tensor, log_a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, state: torch.Tensor
) -> torch.Tensor:
    """y [rows, heads, dim]; ``state`` [rows, heads, dim, N] is advanced in place, in its own dtype.

    x [rows, heads, dim]; log_a [rows, heads]; b, c [rows, groups, N].
    """
    heads, kind = x.shape[1], state.dtype
    b, c = (_by_head(t, heads, 1).to(kind) for t in (b, c))
    state.mul_(log_a.to(kind).exp()[..., None, None])
    state.addcmul_(x.to(kind)[..., None], b[:, :, None, :])
    return (state @ c[..., None]).squeeze(-1).to(x.dtype)


def ssd_chunked(
    x: torch.Tensor,
    log_a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    chunk: int = 64,
    state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same arguments and results as ``ssd_sequential``, as products over chunks of ``chunk`` steps.

    Decays are summed in fp32 inside a chunk (float64 for float64 inputs) and in float64 from chunk to
    chunk; the products run in x's dtype, or autocast's, those of B and C once for all heads of a group. Padding steps
    have log_a = 0 and x = 0: they leave the state alone.
    """
    batch, time, heads, dim = x.shape
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    if b.shape[2] != c.shape[2]:
        b, c = _by_head(b, heads, 2), _by_head(c, heads, 2)
    groups = b.shape[2]
    pad = -time % chunk
    if pad:
        x, b, c = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x, b, c))
        log_a = F.pad(log_a, (0, 0, 0, pad))
    # Letters of the products: batch, m chunks, l and s steps of a chunk, groups, r heads of a group, dim, n = N.
    xs = x.unflatten(1, (-1, chunk)).unflatten(3, (groups, -1))
    bs, cs = (t.unflatten(1, (-1, chunk)) for t in (b, c))
    chunks = xs.shape[1]
    by_step = log_a.to(kind).unflatten(1, (-1, chunk)).unflatten(3, (groups, -1))
    cum = by_step.permute(0, 3, 4, 1, 2).cumsum(-1)  # [batch, groups, heads of a group, chunks, chunk]
    total = cum[..., -1]

    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    decay = (cum[..., :, None] - cum[..., None, :]).masked_fill(~causal, float("-inf")).exp()
    weights = torch.einsum("bmlgn,bmsgn->bgmls", cs, bs)[:, :, None] * decay.to(xs.dtype)
    y = torch.einsum("bgrmls,bmsgrd->bmlgrd", weights, xs)

    # What each chunk adds to the state, then the states at the chunks' starts, by one small product.
    tail = (total[..., None] - cum).exp().permute(0, 3, 4, 1, 2)[..., None]
    added = torch.einsum("bmlgrd,bmlgn->bgrmdn", xs * tail.to(xs.dtype), bs)
    first = x.new_zeros(batch, heads, dim, b.shape[-1]) if state is None else state
    terms = torch.cat((first.unflatten(1, (groups, -1))[:, :, :, None].to(kind), added.to(kind)), dim=3)
    # Over a long text the sum grows far beyond the differences that count: fp32 would lose their digits.
    reach = F.pad(total.double(), (1, 0)).cumsum(-1)
    lower = torch.ones(chunks + 1, chunks + 1, dtype=torch.bool, device=x.device).tril()
    carry = (reach[..., :, None] - reach[..., None, :]).masked_fill(~lower, float("-inf")).exp().to(kind)
    with torch.autocast(x.device.type, enabled=False):
        starts = (carry @ terms.flatten(-2)).unflatten(-1, terms.shape[-2:])
    passed = torch.einsum("bmlgn,bgrmdn->bmlgrd", cs, starts[:, :, :, :-1].to(cs.dtype))
    y = y + passed * cum.exp().permute(0, 3, 4, 1, 2)[..., None].to(passed.dtype)
    return y.flatten(3, 4).flatten(1, 2)[:, :time], starts[:, :, :, -1].flatten(1, 2)


def ssd_packed(
    x: torch.Tensor,
    log_a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    sequences: Sequences,
    scale: torch.Tensor | None,
    skip: torch.Tensor,
    chunk: int = 64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y_t = S_t C_t + skip x_t with S_t = a_t S_{t-1} + scale_t x_t B_t^T of ``sequences``, each from an empty state.

    x [tokens, heads, dim]; log_a and ``scale`` (None for 1) [tokens, heads]; b, c [tokens, groups, N]; ``skip``
    [heads]. Gives y in x's dtype and the last states [n, heads, dim, N] in fp32, float64 for float64 inputs. The plain
    twin of ``ssd_triton``.
    """
    scaled = x if scale is None else (x * scale[..., None]).to(x.dtype)
    y, last = [], []
    for first, end in sequences.spans():
        own = slice(first, end)
        out, state = ssd_chunked(scaled[None, own], log_a[None, own], b[None, own], c[None, own], chunk)
        y.append(out[0])
        last.append(state[0])
    return torch.cat(y) + skip.to(x.dtype)[:, None] * x, torch.stack(last)


def _by_head(t: torch.Tensor, heads: int, group_axis: int) -> torch.Tensor:
    groups = t.shape[group_axis]
    return t if groups == heads else t.repeat_interleave(heads // groups, dim=group_axis)


@triton.jit
def _packed_kernel(
    x,
    log_a,
    b,
    c,
    starts,
    scale,
    skip,
    y,
    last,
    heads,
    x_stride,
    b_stride,
    c_stride,
    dim: tl.constexpr,
    n: tl.constexpr,
    b_span: tl.constexpr,
    c_span: tl.constexpr,
    scaled: tl.constexpr,
    widen: tl.constexpr,
    chunk: tl.constexpr,
    block: tl.constexpr,
    size: tl.constexpr,
):
    """One sequence, one head and ``block`` of its channels a program: chunk after chunk, the state in registers.

    So no state goes to memory but the last one, and prompts and heads fill the device.
    """
    head = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(0) * block + tl.arange(0, block)
    entry = tl.arange(0, size)
    step = tl.arange(0, chunk)
    first = tl.load(starts + sequence).to(tl.int64)
    length = (tl.load(starts + sequence + 1) - first).to(tl.int32)
    direct = tl.load(skip + head).to(tl.float32)
    state = tl.zeros((block, size), tl.float32)
    for done in range(0, length, chunk):
        # A chunk's own offsets fit 32 bits, which halves what addresses take of the registers.
        live = step < length - done
        row = first + done
        head_row = row * heads + head
        real = live[:, None] & (channel < dim)[None, :]
        wide = live[:, None] & (entry < n)[None, :]
        xs = tl.load(x + row * x_stride + head * dim + (step[:, None] * x_stride + channel[None, :]), real, 0.0)
        b_at = b + row * b_stride + head // b_span * n
        bs = tl.load(b_at + (step[:, None] * b_stride + entry[None, :]), mask=wide, other=0.0)
        c_at = c + row * c_stride + head // c_span * n
        cs = tl.load(c_at + (step[:, None] * c_stride + entry[None, :]), mask=wide, other=0.0)
        if widen:  # Triton's interpreter multiplies bf16 as if its bits were integers (3.6 and 3.7)
            xs, bs, cs = xs.to(tl.float32), bs.to(tl.float32), cs.to(tl.float32)
        # Behind the end the decay is 1 and x is 0: the state stays as it is.
        fall = tl.load(log_a + head_row + step * heads, mask=live, other=0.0).to(tl.float32)
        reach = tl.cumsum(fall, axis=0)
        total = tl.sum(fall, axis=0)
        gap = reach[:, None] - reach[None, :]
        weights = tl.dot(cs, tl.trans(bs), input_precision="ieee")
        weights *= tl.where(step[:, None] >= step[None, :], tl.exp(gap), 0.0)
        tail = tl.exp(total - reach)
        if scaled:
            size_of_step = tl.load(scale + head_row + step * heads, mask=live, other=0.0).to(tl.float32)
            weights *= size_of_step[None, :]
            tail *= size_of_step
        out = tl.dot(cs, tl.trans(state).to(cs.dtype), input_precision="ieee") * tl.exp(reach)[:, None]
        out = tl.dot(weights.to(xs.dtype), xs, acc=out, input_precision="ieee") + direct * xs.to(tl.float32)
        y_at = y + head_row * dim + (step[:, None] * (heads * dim) + channel[None, :])
        tl.store(y_at, out.to(y.dtype.element_ty), mask=real)
        late = (xs.to(tl.float32) * tail[:, None]).to(xs.dtype)
        state = tl.dot(tl.trans(late), bs, acc=state * tl.exp(total), input_precision="ieee")
    last_at = last + ((sequence * heads + head) * dim + channel)[:, None] * n + entry[None, :]
    tl.store(last_at, state, mask=(channel < dim)[:, None] & (entry < n)[None, :])


class Launch(NamedTuple):
    """Steps of a chunk, channels of a head a program (both powers of two from 16 on), warps and stages."""

    chunk: int
    block: int
    warps: int
    stages: int


def launch_for(dtype: torch.dtype) -> Launch:
    """The largest tiles whose registers hold state, weights and inputs (ptxas, sm_90). Untuned until measured.

    16 bits: 64 x 64 products on the tensor cores, 50 to 91 KB of shared memory. fp32 multiplies without them, and only
    the state of 32 channels fits.
    """
    return Launch(32, 32, 8, 1) if dtype == torch.float32 else Launch(64, 64, 4, 2)


def ssd_triton(
    x: torch.Tensor,
    log_a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    sequences: Sequences,
    scale: torch.Tensor | None,
    skip: torch.Tensor,
    launch: Launch | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``ssd_packed`` in one launch, results made by torch.empty; products in x's dtype, everything else in fp32.

    Rows of x, b and c may be strided but each lies contiguous; log_a and ``scale`` are contiguous, fp32. ``launch``
    None takes ``launch_for``'s.
    """
    (tokens, heads, dim), n = x.shape, b.shape[2]
    chunk, most, warps, stages = launch or launch_for(x.dtype)
    # A power of two that divides the head where it can (96 makes three tiles of 32); a product's side is 16 at least.
    block = max(16, min(most, dim & -dim))
    y = torch.empty(tokens, heads, dim, dtype=x.dtype, device=x.device)
    last = torch.empty(len(sequences.lengths), heads, dim, n, dtype=torch.float32, device=x.device)
    _packed_kernel[(triton.cdiv(dim, block), heads, len(sequences.lengths))](
        x,
        log_a,
        b,
        c,
        sequences.starts,
        log_a if scale is None else scale,
        skip,
        y,
        last,
        heads,
        x.stride(0),
        b.stride(0),
        c.stride(0),
        dim=dim,
        n=n,
        b_span=heads // b.shape[1],
        c_span=heads // c.shape[1],
        scaled=scale is not None,
        widen=x.dtype == torch.bfloat16 and not x.is_cuda,
        chunk=chunk,
        block=block,
        size=max(16, triton.next_power_of_2(n)),
        num_warps=warps,
        num_stages=stages,
    )
    return y, last
