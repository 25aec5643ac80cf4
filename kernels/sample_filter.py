"""Top-k and top-p after the unfiltered draw, without a sort; the twin is ``sample.filtered``.

Both filters keep an entry when what lies strictly above it is small enough: fewer than k entries, or
less than top_p of the kept mass. So (1) a drawn token that passes is the answer (most rows, at the usual
settings); (2) else the border is found by search on the logits' own bits, an order-preserving integer,
four ways a pass: at most 8 passes at 16 bits and 16 at 32; (3) the row is drawn again from what is at or
above the border.

One program a row: a row's later passes come from the L2 cache. Sums run in a fixed order that does not
depend on the batch; adding in a fixed order is monotone in what is added, so the search is consistent.
The kept set is the twin's but where the mass above an entry equals top_p to within fp32 rounding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .random_words import philox_words, stream_word
from .sample import GROUP, REDRAW, Partials, best_entry, best_piece, token_of

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _ordered(raw):
    """int32 keys in the order of bf16, fp16 or fp32 values; -0 and 0 are one key, -x is minus the key of x."""
    if raw.dtype.primitive_bitwidth == 16:
        bits = raw.to(tl.int16, bitcast=True).to(tl.int32)
        return tl.where(bits < 0, -(bits & 0x7FFF), bits)
    else:
        bits = raw.to(tl.int32, bitcast=True)
        return tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


@triton.jit
def _sums_above(base, vocab_size, first, second, third, top, rate, tile: tl.constexpr, counting: tl.constexpr):
    """Sums over the entries with keys above three keys: of 1 (``counting``), or of exp2((x - top) rate)."""
    v = tl.arange(0, tile)
    raw = tl.load(base + v, mask=v < vocab_size, other=float("-inf"))
    above_first = tl.zeros((tile,), tl.float32)
    above_second = tl.zeros((tile,), tl.float32)
    above_third = tl.zeros((tile,), tl.float32)
    for _ in range(0, vocab_size, tile):
        v += tile
        following = tl.load(base + v, mask=v < vocab_size, other=float("-inf"))
        key = _ordered(raw)
        weight = tl.full((tile,), 1.0, tl.float32) if counting else tl.exp2((raw.to(tl.float32) - top) * rate)
        above_first += tl.where(key > first, weight, 0.0)
        above_second += tl.where(key > second, weight, 0.0)
        above_third += tl.where(key > third, weight, 0.0)
        raw = following
    return tl.sum(above_first, axis=0), tl.sum(above_second, axis=0), tl.sum(above_third, axis=0)


@triton.jit
def _border(base, vocab_size, low, high, target, top, rate, tile: tl.constexpr, counting: tl.constexpr):
    """The smallest key above which the sum is below ``target``; it is at or above it at ``low``, below at ``high``."""
    while high - low > 1:
        span = high - low  # int64: keys of fp32 span nearly 2^32
        first = low + (span >> 2)
        second = low + (span >> 1)
        third = low + ((3 * span) >> 2)
        one, two, three = _sums_above(
            base,
            vocab_size,
            first.to(tl.int32),
            second.to(tl.int32),
            third.to(tl.int32),
            top,
            rate,
            tile,
            counting,
        )
        # The three sums fall from one to three.
        high = tl.where(one < target, first, tl.where(two < target, second, tl.where(three < target, third, high)))
        low = tl.where(three >= target, third, tl.where(two >= target, second, tl.where(one >= target, first, low)))
    return high


@triton.jit(do_not_specialize=["seed_lo", "seed_hi"])
def _filter_kernel(
    token_out,
    score,
    entry,
    top_in,
    total_in,
    logits,
    row_stride,
    vocab_size,
    problem,
    sample,
    generated,
    ended,
    seed_lo,
    seed_hi,
    inverse_temperature,
    top_k,
    top_p,
    pieces,
    block: tl.constexpr,
    tile: tl.constexpr,
    group: tl.constexpr,
    redraw: tl.constexpr,
    use_k: tl.constexpr,
    use_p: tl.constexpr,
):
    row = tl.program_id(0)
    if tl.load(ended + row).to(tl.int32) != 0:
        return
    base = logits + row.to(tl.int64) * row_stride
    piece = tl.arange(0, block)
    inside = piece < pieces
    counters = tl.load(generated + row), tl.load(sample + row), tl.load(problem + row)
    r0, r1, r2, r3 = philox_words(counters[0], counters[1], counters[2], seed_lo, seed_hi)
    first = best_piece(score + row * pieces, entry + row * pieces, pieces, block)
    token = token_of(first, base, vocab_size, r0, r1, inverse_temperature, group)
    tops = tl.load(top_in + row * pieces + piece, mask=inside, other=float("-inf"))
    totals = tl.load(total_in + row * pieces + piece, mask=inside, other=0.0)
    # A row with a NaN or +inf has a NaN among its sums, one of nothing but -inf has no sum: both keep their token.
    if tl.sum(totals, axis=0) > 0:
        top = tl.max(tops, axis=0)
        rate = inverse_temperature * _LOG2E
        highest = _ordered(top.to(base.dtype.element_ty)).to(tl.int64)
        drawn = _ordered(tl.load(base + token)).to(tl.int64)
        none = _ordered(tl.full((), float("-inf"), tl.float32).to(base.dtype.element_ty)).to(tl.int64)
        border = none
        if use_k:
            key = drawn.to(tl.int32)
            count, _, _ = _sums_above(base, vocab_size, key, key, key, top, rate, tile, True)
            # The mass that top-p refers to is that of top-k's set: then its border is needed in any case.
            if (count >= top_k) | use_p:
                low = tl.where(count >= top_k, drawn, none - 1)
                high = tl.where(count >= top_k, highest, drawn)
                border = _border(base, vocab_size, low, high, top_k, top, rate, tile, True)
        if use_p:
            key = drawn.to(tl.int32)
            below = border - 1
            mass, _, kept = _sums_above(base, vocab_size, key, key, below.to(tl.int32), top, rate, tile, False)
            target = kept * top_p
            if (drawn < border) | (mass >= target):
                low = tl.maximum(drawn, below)
                border = _border(base, vocab_size, low, highest, target, top, rate, tile, False)
        if drawn < border:
            best = tl.full((), float("-inf"), tl.float32)
            for offset in range(0, vocab_size, tile):
                v = offset + tl.arange(0, tile)
                raw = tl.load(base + v, mask=v < vocab_size, other=float("-inf"))
                x = tl.where(_ordered(raw) >= border, raw.to(tl.float32), float("-inf"))
                if tl.max(x, axis=0) > float("-inf"):
                    found, place = best_entry(x, v, stream_word(v + redraw, r2, r3), inverse_temperature)
                    token = tl.where(found > best, place, token)
                    best = tl.maximum(found, best)
    tl.store(token_out + row, token)


# (tile, warps) by bytes of an entry: a program has a multiprocessor to itself (some 80 registers) and its bandwidth to
# fill, so many warps with a 16-byte load each and the next behind it. Measured on an H100 alone, with bf16; fp32 is
# untuned, other GPUs get the same numbers.
_LAUNCH = {2: (8192, 16), 4: (2048, 16)}


def filter_triton(
    partials: Partials,
    logits: torch.Tensor,
    problem: torch.Tensor,
    sample_index: torch.Tensor,
    generated: torch.Tensor,
    ended: torch.Tensor,
    seed_words: tuple[int, int],
    temperature: float,
    top_k: int,
    top_p: float,
    launch: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Tokens int32 [rows] drawn under top-k and top-p, given the unfiltered draw's ``partials``; one launch.

    Arguments as in ``draw_triton``, before ``generated`` moves on; ``launch`` (tile, warps) overrides the
    table. Rows that ended are left as torch.empty made them.
    """
    rows, vocab_size = logits.shape
    tile, warps = launch or _LAUNCH[logits.element_size()]
    token = torch.empty(rows, dtype=torch.int32, device=logits.device)
    pieces = partials.score.shape[1]
    _filter_kernel[(rows,)](
        token,
        partials.score,
        partials.entry,
        partials.top,
        partials.total,
        logits,
        logits.stride(0),
        vocab_size,
        problem,
        sample_index,
        generated,
        ended,
        *seed_words,
        1 / temperature,
        top_k,
        top_p,
        pieces,
        block=triton.next_power_of_2(pieces),
        tile=tile,
        group=GROUP,
        redraw=REDRAW,
        use_k=0 < top_k < vocab_size,
        use_p=top_p < 1,
        num_warps=warps,
        enable_fp_fusion=False,  # score and noise are rounded one by one, as the twin does
    )
    return token
