"""The scalar-decay state space recurrence of Mamba-2 (Dao and Gu, 2024): sequential, chunked and one step.

S_t = a_t S_{t-1} + x_t B_t^T,  y_t = S_t C_t, with a_t = exp(log_a_t) in (0, 1] for each head.
The step size of the continuous form is already in x and log_a (x = dt * x, log_a = dt * A);
the discrete form (Llamba) has log_a = -softplus(A_log) and no step size.
``ssd_sequential`` is the reference; ``ssd_chunked`` is its matrix form for prefill and training;
``ssd_step`` advances a state in place. B and C have one row a group; head h belongs to group
h * groups // heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


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
    chunk; the products run in x's dtype, or autocast's. Padding steps have log_a = 0 and x = 0: they
    leave the state alone.
    """
    batch, time, heads, dim = x.shape
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    pad = -time % chunk
    if pad:
        x, b, c = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x, b, c))
        log_a = F.pad(log_a, (0, 0, 0, pad))
    chunks = (time + pad) // chunk

    def split(t: torch.Tensor) -> torch.Tensor:  # [batch, time, heads, n] -> [batch, heads, chunks, chunk, n]
        return t.reshape(batch, chunks, chunk, heads, -1).permute(0, 3, 1, 2, 4)

    xs, bs, cs = split(x), split(_by_head(b, heads, 2)), split(_by_head(c, heads, 2))
    cum = split(log_a.to(kind)[..., None]).squeeze(-1).cumsum(-1)
    total = cum[..., -1]

    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    decay = (cum[..., :, None] - cum[..., None, :]).masked_fill(~causal, float("-inf")).exp()
    y = ((cs @ bs.transpose(-1, -2)) * decay.to(xs.dtype)) @ xs

    # What each chunk adds to the state, then the states at the chunks' starts, by one small product.
    tail = (total[..., None] - cum).exp()
    added = (xs * tail[..., None].to(xs.dtype)).transpose(-1, -2) @ bs
    first = x.new_zeros(batch, heads, dim, b.shape[-1]) if state is None else state
    terms = torch.cat((first[:, :, None].to(kind), added.to(kind)), dim=2)
    # Over a long text the sum grows far beyond the differences that count: fp32 would lose their digits.
    reach = F.pad(total.double(), (1, 0)).cumsum(-1)
    lower = torch.ones(chunks + 1, chunks + 1, dtype=torch.bool, device=x.device).tril()
    carry = (reach[..., :, None] - reach[..., None, :]).masked_fill(~lower, float("-inf")).exp().to(kind)
    with torch.autocast(x.device.type, enabled=False):
        starts = (carry @ terms.flatten(-2)).unflatten(-1, terms.shape[-2:])
    y = y + (cs * cum.exp()[..., None].to(cs.dtype)) @ starts[:, :, :-1].to(cs.dtype).transpose(-1, -2)
    y = y.permute(0, 2, 3, 1, 4).reshape(batch, time + pad, heads, dim)[:, :time]
    return y, starts[:, :, -1]


def _by_head(t: torch.Tensor, heads: int, group_axis: int) -> torch.Tensor:
    groups = t.shape[group_axis]
    return t if groups == heads else t.repeat_interleave(heads // groups, dim=group_axis)
