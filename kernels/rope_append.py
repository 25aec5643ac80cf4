"""Rotary embedding of a step's queries and keys, and the append of its keys and values, in one launch.

For row r at position t = prompt tokens + generated tokens, with ``rope.rotate``'s pairs (x_i, x_{i + D/2}),

    y_i = x_i cos_i(t) - x_{i + D/2} sin_i(t),   y_{i + D/2} = x_{i + D/2} cos_i(t) + x_i sin_i(t)

for every head of q (in place) and of k, which goes with v to page table[r, generated // PAGE_TOKENS],
token generated % PAGE_TOKENS, of the pools. Computed in fp32, rounded once. A row that is not running
appends nothing, so it needs no scratch page.
"""

from __future__ import annotations

import dataclasses

import torch
import triton
import triton.language as tl

from .attention_plan import PAGE_TOKENS
from .rope import rotate

_PAGE = tl.constexpr(PAGE_TOKENS)


@dataclasses.dataclass(frozen=True, slots=True)
class AppendLaunch:
    """``width`` heads (of q, k and v together) and ``warps`` a program."""

    width: int
    warps: int


# By bits of an element. Untuned: on an H100 only what stands here has run, 3.1 us for 256 rows of Llama-3.2-1B in bf16
# (results/h100/attention.csv); other GPUs get the same numbers. 16 heads of 64 dims are 2 KiB in 16 bits: 16 bytes of
# each half for each of 64 threads; Llama-3.2-1B's 48 heads make three programs a row, 768 at 256 rows.
_LAUNCHES = {16: AppendLaunch(16, 2), 32: AppendLaunch(16, 4)}


def rope_append(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor,
    generated: torch.Tensor, running: torch.Tensor, prompt_tokens: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The turned queries, a view [rows, heads, dim] of ``qkv``, which is changed in place.

    ``qkv`` [rows, (heads + 2 kv_heads) * dim], rows q | k | v; ``cos``, ``sin`` [context, dim] from
    ``rope.tables`` (fp32 keeps them exact; only their first halves are read). Pools k, v [pages, kv_heads,
    PAGE_TOKENS, dim]; ``table`` int [slots, own pages]; ``generated`` int [slots]: tokens held before this
    step; ``running`` bool [slots]; ``prompt_tokens`` int [slots]. Positions stop at the last of the table,
    pages at the row's last.
    """
    return _rope_append(
        qkv, cos, sin, k, v, table, generated, running, prompt_tokens, _LAUNCHES[qkv.element_size() * 8]
    )


def _rope_append(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor,
    generated: torch.Tensor, running: torch.Tensor, prompt_tokens: torch.Tensor, launch: AppendLaunch,
) -> torch.Tensor:  # fmt: skip
    rows, (kv_heads, dim) = qkv.shape[0], (k.shape[1], k.shape[3])
    heads = qkv.shape[1] // dim - 2 * kv_heads
    assert qkv.stride(1) == 1 and table.stride(1) == 1 and cos.stride() == sin.stride() and cos.stride(1) == 1
    assert all(t.is_contiguous() and t.shape[1:] == (kv_heads, PAGE_TOKENS, dim) for t in (k, v))
    _append[(rows, triton.cdiv(heads + 2 * kv_heads, launch.width))](
        qkv, cos, sin, k, v, table, generated, running, prompt_tokens,
        qkv.stride(0), table.stride(0), table.shape[1], cos.stride(0), cos.shape[0],
        heads=heads, kv_heads=kv_heads, dim=dim, half=triton.next_power_of_2(dim // 2), width=launch.width,
        num_warps=launch.warps,
    )  # fmt: skip
    return qkv[:, : heads * dim].view(rows, heads, dim)


@triton.jit
def _append(
    qkv, cos, sin, k, v, table, generated, running, prompt_tokens,
    qkv_stride, table_stride, own_pages, rope_stride, context,
    heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, half: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    h = tl.program_id(1) * width + tl.arange(0, width)
    d = tl.arange(0, half)
    inside = d < dim // 2
    mask = (h < heads + 2 * kv_heads)[:, None] & inside[None, :]
    at = row.to(tl.int64) * qkv_stride + h[:, None] * dim + d[None, :]
    low = tl.load(qkv + at, mask=mask, other=0.0)
    high = tl.load(qkv + at + dim // 2, mask=mask, other=0.0)
    held = tl.load(generated + row).to(tl.int32)
    position = tl.minimum(tl.load(prompt_tokens + row).to(tl.int32) + held, context - 1)
    c = tl.load(cos + position * rope_stride + d, mask=inside, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + position * rope_stride + d, mask=inside, other=0.0).to(tl.float32)[None, :]
    x = low.to(tl.float32)
    y = high.to(tl.float32)
    turned_low = (x * c - y * s).to(low.dtype)
    turned_high = (y * c + x * s).to(low.dtype)

    is_q = (h < heads)[:, None] & mask
    tl.store(qkv + at, turned_low, mask=is_q)
    tl.store(qkv + at + dim // 2, turned_high, mask=is_q)
    # 64 bits: a pool has more than 2^31 elements.
    place = tl.minimum(held // _PAGE, own_pages - 1)
    page = tl.load(table + row.to(tl.int64) * table_stride + place).to(tl.int64)
    alive = tl.load(running + row).to(tl.int32) != 0
    is_k = (h >= heads)[:, None] & (h < heads + kv_heads)[:, None] & inside[None, :] & alive
    is_v = (h >= heads + kv_heads)[:, None] & mask & alive
    token = page * (kv_heads * _PAGE * dim) + held % _PAGE * dim + d[None, :]
    keys_at = token + (h - heads)[:, None] * (_PAGE * dim)
    values_at = token + (h - heads - kv_heads)[:, None] * (_PAGE * dim)
    tl.store(k + keys_at, turned_low, mask=is_k)
    tl.store(k + keys_at + dim // 2, turned_high, mask=is_k)
    tl.store(v + values_at, low, mask=is_v)
    tl.store(v + values_at + dim // 2, high, mask=is_v)


def rope_append_twin(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor,
    generated: torch.Tensor, running: torch.Tensor, prompt_tokens: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The same in plain PyTorch: fp32, or float64 where qkv is. ``qkv`` stays; returns the turned queries."""
    rows, (kv_heads, dim) = qkv.shape[0], (k.shape[1], k.shape[3])
    split = qkv.unflatten(1, (-1, dim))
    heads = split.shape[1] - 2 * kv_heads
    generated, running = generated[:rows].long(), running[:rows]
    position = (prompt_tokens[:rows].long() + generated).clamp_max(cos.shape[0] - 1)
    wide = torch.promote_types(qkv.dtype, torch.float32)
    angles = (t[position, None].to(wide) for t in (cos, sin))
    turned = rotate(split[:, : heads + kv_heads].to(wide), *angles).to(qkv.dtype)
    place = (generated // PAGE_TOKENS).clamp_max(table.shape[1] - 1)
    page = table[:rows].gather(1, place[:, None].to(table.device)).squeeze(1).long()[running]
    k[page, :, generated[running] % PAGE_TOKENS] = turned[running, heads:].to(k.dtype)
    v[page, :, generated[running] % PAGE_TOKENS] = split[running, heads + kv_heads :].to(v.dtype)
    return turned[:, :heads]
