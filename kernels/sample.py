"""One draw a row: temperature, top-k, top-p, Gumbel maximum over counter-based noise, log probability.

token = argmax_v(logits_v / T + gumbel_v) over the entries that top-k and top-p keep, the lowest index
on ties; T = 0 is argmax(logits). The noise comes from ``random_words``, so equal logits give equal
tokens at any batch size and order. The log probability is that of the token at temperature 1,
unfiltered. ``sample`` is the twin; the kernel here makes each row's partial results over pieces of the
vocabulary, ``sample_filter`` draws again where the filters drop that token, ``sample_step`` ends the step.

Kernel and twin make the same fp32 operations on equal random bits; only the two logarithms of the noise
may differ, by an ulp. Tokens therefore part where the two best perturbed scores lie within about 1e-6
of each other: once in some 10^5 to 10^6 draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .random_words import gumbel, philox_words, vocab_word, vocab_words


def sample(
    logits: torch.Tensor, words: torch.Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 [rows] and their log probabilities [rows], from logits [rows, vocab].

    ``words`` int64 [rows, 4]: the row words of each row's seed, position, sample and problem. Works
    in fp32, or float64 where the logits are. A row with a NaN gives its first NaN's index and NaN.
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if temperature == 0:
        token = scores.argmax(-1)
    else:
        noise = gumbel(vocab_words(words, logits.shape[-1]), scores.dtype)
        # A product, as in the kernel: torch divides on a CPU and multiplies by the reciprocal on a GPU.
        token = (filtered(scores * (1 / temperature), top_k, top_p) + noise).argmax(-1)
    logprob = scores.gather(-1, token[:, None]).squeeze(-1) - scores.logsumexp(-1)
    return token, logprob


def filtered(scores: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Scores with everything outside top-k and the top-p nucleus at -inf.

    The nucleus is the smallest set of largest probabilities that reaches ``top_p`` (Holtzman et al.,
    2020), taken after top-k; the likeliest entry always stays. Ties all stay, at the k-th score and at
    the nucleus' border, so that what is kept does not depend on an order among equals.
    """
    if 0 < top_k < scores.shape[-1]:
        kth = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, float("-inf"))
    if top_p < 1:
        ordered = scores.sort(dim=-1, descending=True).values
        probabilities = ordered.softmax(-1)
        outside = probabilities.cumsum(-1) - probabilities >= top_p
        border = ordered.masked_fill(outside, float("inf")).amin(-1, keepdim=True)
        scores = scores.masked_fill(scores < border, float("-inf"))
    return scores


@dataclass(frozen=True, slots=True)
class Partials:
    """What each piece of the vocabulary found, all [rows, pieces].

    ``score`` fp32 and ``entry`` int32: the largest perturbed score and where (the score is NaN and the
    entry its place where a logit is NaN); ``top`` and ``total`` fp32: the largest logit and the sum of
    exp(logit - top). Rows that ended are not written.
    """

    score: torch.Tensor
    entry: torch.Tensor
    top: torch.Tensor
    total: torch.Tensor


_LOG2E = tl.constexpr(1.4426950408889634)
# The largest noise is -log(-log(1 - 2^-24)) = 24 log 2 = 16.6355; rounded up by more than an ulp of it.
_NOISE_MAX = tl.constexpr(16.64)
# A float's bits times 2^-23 less 127 are at most its base-2 logarithm (they run straight where it bends up): with
# d = c 2^-23, -log(d) <= 150 log 2 - bits(c) 2^-23 log 2. 1e-3 more is far above the rounding of these operations.
_BOUND_START = tl.constexpr(103.9730770839918)
_BOUND_SLOPE = tl.constexpr(8.262958294867817e-08)


@triton.jit
def better_entry(x, v, r0, r1, inverse_temperature, score, entry, skip: tl.constexpr):
    """The larger of (``score``, ``entry``) and the best of a tile: logits ``x`` at entries ``v``, all above ``entry``.

    Three steps, each over fewer tiles (``skip`` False makes them all): no hash where the tile's largest
    logit with the largest noise there is would not do; no logarithms where an upper bound of each
    entry's own noise would not: with d = 1 - u, -log(-log u) <= -log(d), since -log(1 - d) >= d.
    """
    reach = tl.max(x, axis=0) * inverse_temperature + _NOISE_MAX
    if (reach >= score) | (not skip):
        word = vocab_word(v, r0, r1)
        scaled = x * inverse_temperature
        c = ((word ^ 0xFFFFFFFF) >> 9).to(tl.float32) + 0.5  # (1 - u) 2^23, exactly
        bound = tl.fma(c.to(tl.int32, bitcast=True).to(tl.float32), -_BOUND_SLOPE, scaled)
        # The last term: logits so large that the sums round by more than the margin.
        least = score - _BOUND_START - tl.abs(score) * 1e-6
        if (tl.max(bound, axis=0) >= least) | (not skip):
            u = ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
            perturbed = scaled - tl.log(-tl.log(u))
            best = tl.max(perturbed, axis=0)
            if best > score:
                entry = tl.min(tl.where(perturbed == best, v, 0x7FFFFFFF), axis=0)
                score = best
    return score, entry


@triton.jit
def best_piece(score, entry, pieces, block: tl.constexpr):
    """The entry of the largest of a row's partial scores; a NaN beats all, the lowest entry wins ties."""
    piece = tl.arange(0, block)
    inside = piece < pieces
    scores = tl.load(score + piece, mask=inside, other=float("-inf"))
    entries = tl.load(entry + piece, mask=inside, other=0x7FFFFFFF)
    broken = scores != scores
    top = tl.max(tl.where(broken, float("inf"), scores), axis=0)
    wins = tl.where(tl.max(broken.to(tl.int32), axis=0) > 0, broken.to(tl.int32), (scores == top).to(tl.int32))
    return tl.min(tl.where(wins > 0, entries, 0x7FFFFFFF), axis=0)


# One compilation serves every batch size: the length of a piece is no constant either.
@triton.jit(do_not_specialize=["seed_lo", "seed_hi", "piece_tiles"])
def _draw_kernel(
    score_out,
    entry_out,
    top_out,
    total_out,
    logits,
    row_stride,
    vocab_size,
    problem,
    sample,
    generated,
    ended,
    step,
    seed_lo,
    seed_hi,
    inverse_temperature,
    piece_tiles,
    tile: tl.constexpr,
    greedy: tl.constexpr,
    skip: tl.constexpr,
):
    # Pieces of a row are neighbours in the grid: what runs at a time is one stretch of memory.
    piece = tl.program_id(0)
    row = tl.program_id(1)
    if (piece == 0) & (row == 0):
        tl.store(step, tl.load(step) + 1)
    if tl.load(ended + row).to(tl.int32) != 0:
        return
    base = logits + row.to(tl.int64) * row_stride
    start = piece * piece_tiles * tile
    # The masks know nothing of ``stop`` but in the prefetch, as a whole: else loads would not be 16 bytes wide.
    stop = tl.minimum(start + piece_tiles * tile, vocab_size)
    v = start + tl.arange(0, tile)
    raw = tl.load(base + v, mask=v < vocab_size, other=float("-inf"))
    r0, r1 = philox_words(tl.load(generated + row), tl.load(sample + row), tl.load(problem + row), seed_lo, seed_hi)
    score = tl.full((), float("-inf"), tl.float32)
    entry = start
    top = tl.full((), float("-inf"), tl.float32)
    sums = tl.zeros((tile,), tl.float32)
    for offset in range(start, stop, tile):
        ahead = v + tile
        following = tl.load(base + ahead, mask=(ahead < vocab_size) & (offset + tile < stop), other=float("-inf"))
        x = raw.to(tl.float32)
        tile_top = tl.max(x, axis=0)
        higher = tl.maximum(top, tile_top)
        # All -inf so far: any finite reference does, and keeps -inf - -inf out.
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        sums = sums * tl.exp2((top - reference) * _LOG2E) + tl.exp2((x - reference) * _LOG2E)
        top = higher
        if greedy:
            if tile_top > score:
                entry = tl.min(tl.where(x == tile_top, v, 0x7FFFFFFF), axis=0)
                score = tile_top
        else:
            score, entry = better_entry(x, v, r0, r1, inverse_temperature, score, entry, skip)
        raw = following
        v = ahead
    total = tl.sum(sums, axis=0)
    if total != total:
        # A NaN or +inf among the logits: torch's argmax takes the first NaN before anything else.
        first = vocab_size
        for offset in range(start, stop, tile):
            v = offset + tl.arange(0, tile)
            x = tl.load(base + v, mask=v < vocab_size, other=0.0).to(tl.float32)
            first = tl.minimum(first, tl.min(tl.where(x != x, v, vocab_size), axis=0))
        if first < vocab_size:
            entry = first
            score = total
    place = row * tl.num_programs(0) + piece
    tl.store(score_out + place, score)
    tl.store(entry_out + place, entry)
    tl.store(top_out + place, top)
    tl.store(total_out + place, total)


# (tile, warps) by bytes of an entry; fp32 untuned. One warp: a tile's maxima are shuffles, without a barrier, and long
# pieces need the logarithms least. Measured on an H100 with bf16 logits (results/h100/small_kernels.py): 131 us at
# 512 x 128,256, where instructions, not the 44 us of memory, are the limit; 2 warps cost 7 % more, tiles of 256 3 %.
_LAUNCH = {2: (512, 1), 4: (256, 1)}
_PROGRAMS = 2048  # wanted in all; twice as many are 5 % slower at 512 rows


def pieces_for(rows: int, vocab_size: int, tile: int, programs: int = _PROGRAMS) -> int:
    """Tiles in a piece of the vocabulary, for about ``programs`` pieces in all rows together."""
    tiles = triton.cdiv(vocab_size, tile)
    return triton.cdiv(tiles, min(tiles, triton.cdiv(programs, rows)))


def draw_triton(
    logits: torch.Tensor,
    problem: torch.Tensor,
    sample_index: torch.Tensor,
    generated: torch.Tensor,
    ended: torch.Tensor,
    step: torch.Tensor,
    seed_words: tuple[int, int],
    temperature: float,
    skip: bool = True,
    launch: tuple[int, int, int] | None = None,
) -> Partials:
    """Each row's unfiltered draw by pieces of the vocabulary, in one launch; ``step`` [1] is raised by one.

    logits [rows, vocab], bf16, fp16 or fp32, rows any stride apart; problem, sample_index, generated int64
    and ended bool [rows or more]. Rows that ended are left out. ``launch`` (tile, warps, tiles a piece)
    overrides the table; ``skip`` False makes the noise of every entry. Makes its outputs by torch.empty.
    """
    rows, vocab_size = logits.shape
    tile, warps = _LAUNCH[logits.element_size()]
    tile, warps, piece_tiles = launch or (tile, warps, pieces_for(rows, vocab_size, tile))
    pieces = triton.cdiv(vocab_size, piece_tiles * tile)
    score, top, total = (torch.empty(rows, pieces, dtype=torch.float32, device=logits.device) for _ in range(3))
    entry = torch.empty(rows, pieces, dtype=torch.int32, device=logits.device)
    _draw_kernel[(pieces, rows)](
        score,
        entry,
        top,
        total,
        logits,
        logits.stride(0),
        vocab_size,
        problem,
        sample_index,
        generated,
        ended,
        step,
        *seed_words,
        1 / temperature if temperature else 0.0,
        piece_tiles,
        tile=tile,
        greedy=temperature == 0,
        skip=skip,
        num_warps=warps,
        enable_fp_fusion=False,  # score and noise are rounded one by one, as the twin does
    )
    return Partials(score, entry, top, total)
