"""Attention of one new token a row over paged keys and values: grouped-query, split along the context.

For query head h of row r, with g = h // (heads / kv_heads) and scale = dim^-1/2,

    out[r, h] = sum_t w_t v[g, t],   w = softmax_t(scale * q[r, h] . k[g, t])

over the tokens of the row's prompt and its own (generated) ones. A program runs an online softmax over
its share of a row's blocks (Flash-Decoding, Dao et al. 2023) and leaves (maximum, sum, weighted values)
in fp32; ``_combine`` adds a row's parts in a fixed order. Rows of one prompt can read its pages together
(cascade; Hydragen, Juravsky et al. 2024), or each reads its prompt by itself, in the same loop as its
own pages.

What a row gets depends on its own lengths, queries and the launch alone: bitwise the same in any slot,
in any place of any tile (a matrix instruction treats its rows alike), on any pages and beside any other
rows. It changes by rounding with the launch (so with the batch, unless the launch is pinned) and between
the two ways of reading prompts.
"""

from __future__ import annotations

import dataclasses

import torch
import triton
import triton.language as tl

from .attention_plan import PAGE_TOKENS, Launch, Plan

_PAGE = tl.constexpr(PAGE_TOKENS)
_LOG2E = tl.constexpr(1.4426950408889634)
# Where a running maximum starts. Finite, so that no inf - inf arises; a masked score is -inf, its weight exactly 0.
_LOWEST = tl.constexpr(-3.0e38)


@dataclasses.dataclass(slots=True)
class Prompts:
    """The prompts' pages and who reads them.

    k, v [pages, kv_heads, PAGE_TOKENS, dim]; ``page``, ``tokens`` int32 [slots]: first page (the others
    follow it) and length of each slot's prompt, 0 tokens for none. Where the plan has tiles, every row with
    a prompt stands in one tile: ``tile_rows`` int32 [tiles, members] (-1: empty place), ``tile_page`` and
    ``tile_tokens`` int32 [tiles] (0 tokens: empty tile), as ``prompt_tiles`` lays them out.
    """

    k: torch.Tensor
    v: torch.Tensor
    page: torch.Tensor
    tokens: torch.Tensor
    tile_rows: torch.Tensor | None = None
    tile_page: torch.Tensor | None = None
    tile_tokens: torch.Tensor | None = None


def attention_decode(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor,
    generated: torch.Tensor, running: torch.Tensor, prompts: Prompts, plan: Plan, out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """[rows, heads * dim] from turned queries q [rows, heads, dim] (a view into wider rows is fine).

    k, v [pages, kv_heads, PAGE_TOKENS, dim]: pools of generated tokens, this step's already in them
    (``rope_append``); fp32, fp16 or bf16, as q. ``table`` int [slots, own pages]; ``generated`` int
    [slots]: tokens a slot held before this step; ``running`` bool [slots]: a row that is not reads nothing
    and gets zeros. All of them are read on the device: lengths, pages and tiles may change between
    replays of a graph. ``out`` is made by torch.empty if not given.
    """
    rows, heads, dim = q.shape
    kv_heads = k.shape[1]
    assert q.stride(2) == 1 and q.stride(1) == dim and table.stride(1) == 1
    assert all(t.is_contiguous() and t.shape[1:] == (kv_heads, PAGE_TOKENS, dim) for t in (k, v, prompts.k, prompts.v))
    assert plan.value.shape[:2] == (rows, heads) and plan.value.shape[3] == dim
    out = torch.empty(rows, heads * dim, dtype=q.dtype, device=q.device) if out is None else out
    assert out.is_contiguous() and out.shape == (rows, heads * dim)
    common = {
        "kv_heads": kv_heads, "repeat": heads // kv_heads, "dim": dim, "padded": triton.next_power_of_2(dim),
        "parts": plan.parts, "widen": q.dtype == torch.bfloat16 and not q.is_cuda,
    }  # fmt: skip
    where = (table, generated, running)
    results = (out, plan.value, plan.top, plan.total, q.stride(0), table.stride(0))
    if plan.tiles:
        assert prompts.tile_rows is not None
        tiles, members = prompts.tile_rows.shape
        _launch(
            plan.tiles, tiles,
            (q, prompts.k, prompts.v, *where, None, None, prompts.tile_page, prompts.tile_tokens, prompts.tile_rows),
            results, common, members=members, first_part=plan.own.splits, folded=False,
        )  # fmt: skip
    _launch(
        plan.own, rows, (q, k, v, *where, prompts.k, prompts.v, prompts.page, prompts.tokens, None),
        results, common, members=0, first_part=0, folded=plan.tiles is None,
    )  # fmt: skip
    if plan.parts:
        tiled = plan.tiles or plan.own
        # Few parts: several heads a program; many: one. Either way some 16 parts, 4 KiB of values at dim 64.
        width = max(1, 16 // triton.next_power_of_2(plan.parts))
        _combine[(rows, triton.cdiv(heads, width))](
            plan.value, plan.top, plan.total, generated, running, prompts.tokens, out,
            heads=heads, dim=dim, padded=common["padded"], width=width, spread=triton.next_power_of_2(plan.parts),
            own_splits=plan.own.splits, own_block=plan.own.block, own_least=plan.own.least,
            tile_splits=tiled.splits, tile_block=tiled.block, tile_least=tiled.least,
            tiled=plan.tiles is not None, num_warps=4,
        )  # fmt: skip
    return out


def _launch(
    launch: Launch, units: int, inputs: tuple[object, ...], results: tuple[object, ...], common: dict[str, int],
    members: int, **constexprs: int,
) -> None:  # fmt: skip
    # The kv head is the fastest index: neighbours in time read neighbours in memory. Splits are the slowest, so that
    # the empty ones of short rows come last.
    wanted = common["repeat"] * max(1, members)
    queries = max(16 if launch.dot else 1, triton.next_power_of_2(wanted))
    _attend[(common["kv_heads"], units, launch.splits)](
        *inputs, *results, **common, **constexprs, members=members, queries=queries, splits=launch.splits,
        block=launch.block, least=launch.least, dot=launch.dot, stages=launch.stages, num_warps=launch.warps,
    )  # fmt: skip


@triton.jit
def _share(blocks, splits: tl.constexpr, least: tl.constexpr):
    return tl.maximum((blocks + splits - 1) // splits, least)


@triton.jit
def _attend(
    q, k, v, table, generated, running, prompt_k, prompt_v, prompt_page, prompt_tokens, tile_rows,
    out, value, top, total, q_stride, table_stride,
    kv_heads: tl.constexpr, repeat: tl.constexpr, dim: tl.constexpr, padded: tl.constexpr, parts: tl.constexpr,
    widen: tl.constexpr, members: tl.constexpr, queries: tl.constexpr, splits: tl.constexpr, first_part: tl.constexpr,
    block: tl.constexpr, least: tl.constexpr, folded: tl.constexpr, dot: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    unit = tl.program_id(1)  # a row, or a tile of rows (members > 0)
    split = tl.program_id(2)
    own = 0
    shared = 0
    first_page = 0
    if members > 0:
        shared = tl.load(prompt_tokens + unit)
        first_page = tl.load(prompt_page + unit)
    else:
        alive = tl.load(running + unit).to(tl.int32)
        own = (tl.load(generated + unit).to(tl.int32) + 1) * alive
        if folded:
            shared = tl.load(prompt_tokens + unit) * alive
            first_page = tl.load(prompt_page + unit)
    shared_blocks = (shared + block - 1) // block
    blocks = shared_blocks + (own + block - 1) // block
    share = _share(blocks, splits, least)
    first = split * share
    last = tl.minimum(first + share, blocks)
    if parts > 0 and first >= last:
        return

    n = tl.arange(0, queries)
    d = tl.arange(0, padded)
    t = tl.arange(0, block)
    if members > 0:
        rows = tl.load(tile_rows + unit * members + n // repeat, mask=n // repeat < members, other=-1)
        held = rows >= 0
    else:
        rows = unit + tl.zeros_like(n)
        held = n < repeat
    heads_at = head * repeat + n % repeat
    filled = held[:, None] & (d < dim)[None, :]
    queries_at = rows.to(tl.int64)[:, None] * q_stride + heads_at[:, None] * dim + d[None, :]
    turned = tl.load(q + queries_at, mask=filled, other=0.0)
    scale = dim**-0.5 * _LOG2E
    if widen:  # Triton's interpreter multiplies bf16 as if its bits were integers (3.6 and 3.7)
        turned = turned.to(tl.float32)
    if dot:
        highest = tl.full([queries], _LOWEST, tl.float32)
        result = tl.zeros([queries, padded], tl.float32)
    else:
        turned = turned.to(tl.float32)
        highest = tl.full([queries, block], _LOWEST, tl.float32)
        result = tl.zeros([queries, block, padded], tl.float32)
    # The sum of weights stays spread over the lanes until the end: one exchange between warps less in each block.
    weight = tl.zeros([queries, block], tl.float32)

    own_pages = table + unit.to(tl.int64) * table_stride
    inside = t[:, None] * dim + d[None, :]
    # A page is looked up a block ahead, and nothing in the loop may use the number before the next round: the pipeline
    # would count the look-up as a stage of its own, and fetch keys and values a block later or not ahead at all.
    page = first_page
    if members == 0:
        place = (first - shared_blocks) * block // _PAGE
        page = tl.load(own_pages + place, mask=(first >= shared_blocks) & (first < last), other=0)
    for i in tl.range(first, last, num_stages=stages):
        keys = k
        values = v
        if members > 0:
            token = i * block
            left = shared - token
            page = first_page + token // _PAGE
        elif folded:
            in_prompt = i < shared_blocks
            token = tl.where(in_prompt, i, i - shared_blocks) * block
            left = tl.where(in_prompt, shared, own) - token
            page = tl.where(in_prompt, first_page + token // _PAGE, page)
            keys = tl.where(in_prompt, prompt_k, k)
            values = tl.where(in_prompt, prompt_v, v)
        else:
            token = i * block
            left = own - token
        # 64 bits: a pool has more than 2^31 elements.
        at = (tl.cast(page, tl.int64) * kv_heads + head) * (_PAGE * dim) + token % _PAGE * dim
        if members == 0:
            place = (i + 1 - shared_blocks) * block // _PAGE
            page = tl.load(own_pages + place, mask=(i + 1 >= shared_blocks) & (i + 1 < last), other=0)
        # What lies behind the last token may be NaN, and 0 * NaN is NaN.
        real = (t < left)[:, None] if padded == dim else (t < left)[:, None] & (d < dim)[None, :]
        key = tl.load(keys + at + inside, mask=real, other=0.0)
        if widen:
            key = key.to(tl.float32)
        if dot:
            score = tl.dot(turned, tl.trans(key), input_precision="ieee") * scale
        else:
            score = tl.sum(turned[:, None, :] * key.to(tl.float32)[None, :, :], axis=2) * scale
        score = tl.where((t < left)[None, :], score, float("-inf"))
        if dot:
            new = tl.maximum(highest, tl.max(score, axis=1))
            p = tl.exp2(score - new[:, None])
            old = tl.exp2(highest - new)
            weight = weight * old[:, None] + p
            val = tl.load(values + at + inside, mask=real, other=0.0)
            p = p.to(val.dtype)
            if widen:
                p = p.to(tl.float32)
                val = val.to(tl.float32)
            result = tl.dot(p, val, acc=result * old[:, None], input_precision="ieee")
        else:
            new = tl.maximum(highest, score)
            p = tl.exp2(score - new)
            old = tl.exp2(highest - new)
            weight = weight * old + p
            val = tl.load(values + at + inside, mask=real, other=0.0).to(tl.float32)
            result = result * old[:, :, None] + p[:, :, None] * val[None, :, :]
        highest = new

    if not dot:  # the lanes' softmaxes become one
        new = tl.max(highest, axis=1)
        lane = tl.exp2(highest - new[:, None])
        weight = weight * lane
        result = tl.sum(result * lane[:, :, None], axis=1)
        highest = new
    weight = tl.sum(weight, axis=1)
    # In 64 bits, as rows * heads * parts * dim may not fit 32.
    line = rows.to(tl.int64) * (kv_heads * repeat) + heads_at
    if parts > 0:
        line = line * parts + first_part + split
        tl.store(value + line[:, None] * dim + d[None, :], result, mask=filled)
        tl.store(top + line, highest, mask=held)
        tl.store(total + line, weight, mask=held)
    else:
        result = result / tl.where(weight > 0, weight, 1.0)[:, None]
        tl.store(out + line[:, None] * dim + d[None, :], result.to(out.dtype.element_ty), mask=filled)


@triton.jit
def _combine(
    value, top, total, generated, running, prompt_tokens, out,
    heads: tl.constexpr, dim: tl.constexpr, padded: tl.constexpr, width: tl.constexpr, spread: tl.constexpr,
    own_splits: tl.constexpr, own_block: tl.constexpr, own_least: tl.constexpr,
    tile_splits: tl.constexpr, tile_block: tl.constexpr, tile_least: tl.constexpr, tiled: tl.constexpr,
):  # fmt: skip
    """Parts of a row that exist follow from its lengths: what an empty split left unwritten is never read."""
    row = tl.program_id(0)
    h = tl.program_id(1) * width + tl.arange(0, width)
    s = tl.arange(0, spread)
    d = tl.arange(0, padded)
    alive = tl.load(running + row).to(tl.int32)
    own = (tl.load(generated + row).to(tl.int32) + 1) * alive
    shared = tl.load(prompt_tokens + row) * alive
    blocks = (own + own_block - 1) // own_block
    shared_blocks = (shared + tile_block - 1) // tile_block
    # Parts behind a row's last block are cut off by the same products: splits * share reaches every block.
    if tiled:
        written = s * _share(blocks, own_splits, own_least) < blocks
        tile = s - own_splits
        written = written | ((tile >= 0) & (tile * _share(shared_blocks, tile_splits, tile_least) < shared_blocks))
        parts = own_splits + tile_splits
    else:
        blocks += shared_blocks
        written = s * _share(blocks, own_splits, own_least) < blocks
        parts = own_splits
    line = (row.to(tl.int64) * heads + h)[:, None] * parts + s[None, :]
    mask = (h < heads)[:, None] & written[None, :]
    tops = tl.load(top + line, mask=mask, other=_LOWEST)
    factor = tl.where(mask, tl.exp2(tops - tl.max(tops, axis=1)[:, None]), 0.0)
    weight = tl.sum(factor * tl.load(total + line, mask=mask, other=0.0), axis=1)
    deep = mask[:, :, None] & (d < dim)[None, None, :]
    values = tl.load(value + line[:, :, None] * dim + d[None, None, :], mask=deep, other=0.0)
    result = tl.sum(factor[:, :, None] * values, axis=1) / tl.where(weight > 0, weight, 1.0)[:, None]
    at = (row.to(tl.int64) * heads + h)[:, None] * dim + d[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=(h < heads)[:, None] & (d < dim)[None, :])


def attention_decode_twin(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor,
    generated: torch.Tensor, running: torch.Tensor, prompts: Prompts,
) -> torch.Tensor:  # fmt: skip
    """The same from gathered pages, in float64, row by row (it reads lengths on the host); tiles play no part."""
    rows, heads, dim = q.shape
    out = q.new_zeros(rows, heads, dim, dtype=torch.float64)
    own = ((generated + 1) * running).tolist()
    for row in torch.nonzero(running[:rows]).flatten().tolist():
        shared, first = int(prompts.tokens[row]), int(prompts.page[row])
        pages = table[row, : triton.cdiv(own[row], PAGE_TOKENS)].long()
        prompt_pages = slice(first, first + triton.cdiv(shared, PAGE_TOKENS))
        keys, values = (
            torch.cat((_tokens(pool[prompt_pages], shared), _tokens(mine[pages], own[row])))
            for pool, mine in ((prompts.k, k), (prompts.v, v))
        )
        grouped = q[row].double().unflatten(0, (k.shape[1], -1)) * dim**-0.5
        weights = torch.einsum("grd,tgd->grt", grouped, keys).softmax(-1)
        out[row] = torch.einsum("grt,tgd->grd", weights, values).flatten(0, 1)
    return out.flatten(1)


def _tokens(pages: torch.Tensor, count: int) -> torch.Tensor:
    """The first ``count`` tokens of pages [n, kv_heads, page, dim], float64 [count, kv_heads, dim]."""
    return pages.transpose(1, 2).flatten(0, 1)[:count].double()
