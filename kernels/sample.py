"""One draw a row: temperature, top-k, top-p, Gumbel maxima over counter-based noise, log probability.

In two maxima, as exact as one over the vocabulary and without noise for every entry: of groups of
``GROUP`` entries, argmax_g(log sum_{v in g} exp(logits_v / T) + gumbel_g), then of that group's entries,
argmax_v(logits_v / T + gumbel_v); the lowest index on ties. Where top-k or top-p drops that token, the
row is drawn again from what they keep, by noise of its own: p_v + P(dropped) p_v / P(kept) = p_v / P(kept),
as it must be. T = 0 is argmax(logits). The noise comes from ``random_words``, so equal logits
give equal tokens at any batch size and order. The log probability is that of the token at temperature 1,
unfiltered. ``sample`` is the twin; the kernel here makes each row's partial results over pieces of the
vocabulary, ``sample_filter`` draws again, ``sample_step`` ends the step.

The two sum and take logarithms in fp32 in their own ways: tokens part where two scores of groups, or of
entries, lie within about 1e-6 of each other, once in some 10^5 to 10^6 draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .random_words import entry_words, gumbel, philox_words, second_words, stream_word, vocab_words, word_gumbel

DRAWS = 2  # version of what a seed means; in 1 one maximum went over all entries
GROUP = 1024  # entries; part of it
REDRAW = -(2**31)  # of the second stream, whose first words are the groups' (2^31 as an int32)


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
        # A product, as in the kernel: torch divides on a CPU and multiplies by the reciprocal on a GPU.
        scaled = scores * (1 / temperature)
        token = _drawn(scaled, words)
        if 0 < top_k < scores.shape[-1] or top_p < 1:
            kept = filtered(scaled, top_k, top_p)
            again = (kept + gumbel(second_words(words, REDRAW, scores.shape[-1]), scores.dtype)).argmax(-1)
            token = torch.where(kept.gather(-1, token[:, None]).squeeze(-1) == float("-inf"), again, token)
    # The largest goes first: the logarithm of a sum of large logits is rounded as coarsely as they are.
    below = scores - scores.amax(-1, keepdim=True)
    return token, below.gather(-1, token[:, None]).squeeze(-1) - below.logsumexp(-1)


def _drawn(scaled: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Tokens int64 [rows] from all entries of ``scaled`` [rows, vocab]."""
    vocab_size = scaled.shape[-1]
    if vocab_size <= GROUP:
        return (scaled + gumbel(vocab_words(words, vocab_size), scaled.dtype)).argmax(-1)
    groups = F.pad(scaled, (0, -vocab_size % GROUP), value=float("-inf")).unflatten(-1, (-1, GROUP))
    noise = gumbel(second_words(words, 0, groups.shape[1]), scaled.dtype)
    start = GROUP * (groups.logsumexp(-1) + noise).argmax(-1, keepdim=True)
    entries = start + torch.arange(GROUP, device=scaled.device)
    inside = groups.flatten(1).gather(-1, entries)
    within = inside + gumbel(entry_words(words, entries.to(torch.int32)), scaled.dtype)
    return start.squeeze(-1) + within.argmax(-1)


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

    ``score`` fp32 and ``entry`` int32: the largest perturbed score of a group and the group's first entry. At
    temperature 0 the largest logit and its own entry. Where a logit is no number, the first NaN, or else the first
    +inf: that entry, and but for temperature 0 2^30 more, which says that nothing is left to draw.
    ``top`` and ``total`` fp32: the largest logit and the sum of exp(logit - top). Rows that ended are not written.
    """

    score: torch.Tensor
    entry: torch.Tensor
    top: torch.Tensor
    total: torch.Tensor


_LOG2E = tl.constexpr(1.4426950408889634)
_EXACT = tl.constexpr(1 << 30)


@triton.jit
def _finite(top):
    """What to subtract from logits up to ``top``: where all are -inf any number does and keeps -inf - -inf out."""
    return tl.where(top == float("-inf"), 0.0, top)


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


@triton.jit
def best_entry(x, v, word, inverse_temperature):
    """The largest score of entries ``v``, logits ``x`` perturbed by noise from ``word``, and the first to have it."""
    perturbed = x * inverse_temperature + word_gumbel(word)
    best = tl.max(perturbed, axis=0)
    return best, tl.min(tl.where(perturbed == best, v, 0x7FFFFFFF), axis=0)


@triton.jit
def token_of(entry, base, vocab_size, r0, r1, inverse_temperature, group: tl.constexpr):
    """The token drawn from the group that begins at ``entry``, or the one that ``entry`` says to be certain."""
    token = entry - _EXACT
    if entry < _EXACT:
        v = entry + tl.arange(0, group)
        x = tl.load(base + v, mask=v < vocab_size, other=float("-inf")).to(tl.float32)
        _, token = best_entry(x, v, stream_word(v, r0, r1), inverse_temperature)
    return token


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
    unit: tl.constexpr,
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
    counters = tl.load(generated + row), tl.load(sample + row), tl.load(problem + row)
    _, _, r2, r3 = philox_words(counters[0], counters[1], counters[2], seed_lo, seed_hi)
    score = tl.full((), float("-inf"), tl.float32)
    entry = start
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for offset in range(start, stop, tile):
        ahead = v + tile
        following = tl.load(base + ahead, mask=(ahead < vocab_size) & (offset + tile < stop), other=float("-inf"))
        x = raw.to(tl.float32)
        tile_top = tl.max(x, axis=0)
        reference = _finite(tile_top)
        below = x - reference
        mass = tl.sum(tl.exp2(below * _LOG2E), axis=0)
        higher = tl.maximum(top, tile_top)
        total = total * tl.exp2((top - _finite(higher)) * _LOG2E)
        total += mass * tl.exp2((tile_top - _finite(higher)) * _LOG2E)
        top = higher
        if greedy:
            if tile_top > score:
                entry = tl.min(tl.where(x == tile_top, v, 0x7FFFFFFF), axis=0)
                score = tile_top
        else:
            weight = mass
            if not unit:
                weight = tl.sum(tl.exp2(below * (inverse_temperature * _LOG2E)), axis=0)
            group = tl.full((), 0, tl.int32) + offset // tile  # interpreted, offset is Python's
            noise = word_gumbel(stream_word(group, r2, r3))
            perturbed = reference * inverse_temperature + tl.log(weight) + noise
            entry = tl.where(perturbed > score, offset, entry)
            score = tl.maximum(perturbed, score)
        raw = following
        v = ahead
    if total != total:
        # A NaN or +inf among the logits: torch's argmax takes the first NaN before anything else, then the first +inf.
        first_nan = vocab_size
        first_inf = vocab_size
        for offset in range(start, stop, tile):
            v = offset + tl.arange(0, tile)
            x = tl.load(base + v, mask=v < vocab_size, other=0.0).to(tl.float32)
            first_nan = tl.minimum(first_nan, tl.min(tl.where(x != x, v, vocab_size), axis=0))
            first_inf = tl.minimum(first_inf, tl.min(tl.where(x == float("inf"), v, vocab_size), axis=0))
        entry = tl.where(first_nan < vocab_size, first_nan, first_inf)
        if not greedy:
            entry += _EXACT
        score = tl.where(first_nan < vocab_size, total, float("inf"))
    place = row * tl.num_programs(0) + piece
    tl.store(score_out + place, score)
    tl.store(entry_out + place, entry)
    tl.store(top_out + place, top)
    tl.store(total_out + place, total)


# Warps by bytes of an entry, and programs wanted in all. One warp: a tile's sums are shuffles, without a barrier.
# Measured on an H100 alone, with bf16 logits (results/h100/small_kernels.py): 51 us at 512 x 128,256, 85 % of copy
# bandwidth; 2 warps cost 14 % more, 4 warps 66 %, 4,096 programs 14 %. fp32 is untuned; other GPUs get the same
# numbers.
_WARPS = {2: 1, 4: 1}
_PROGRAMS = 8192


def pieces_for(rows: int, vocab_size: int, programs: int = _PROGRAMS) -> int:
    """Groups in a piece of the vocabulary, for about ``programs`` pieces in all rows together."""
    groups = triton.cdiv(vocab_size, GROUP)
    return triton.cdiv(groups, min(groups, triton.cdiv(programs, rows)))


def draw_triton(
    logits: torch.Tensor,
    problem: torch.Tensor,
    sample_index: torch.Tensor,
    generated: torch.Tensor,
    ended: torch.Tensor,
    step: torch.Tensor,
    seed_words: tuple[int, int],
    temperature: float,
    launch: tuple[int, int] | None = None,
) -> Partials:
    """Each row's unfiltered draw of a group by pieces of the vocabulary, in one launch; ``step`` [1] is raised by one.

    logits [rows, vocab], bf16, fp16 or fp32, rows any stride apart; problem, sample_index, generated int64
    and ended bool [rows or more]. Rows that ended are left out. ``launch`` (warps, groups a piece)
    overrides the table. Makes its outputs by torch.empty.
    """
    rows, vocab_size = logits.shape
    warps, piece_tiles = launch or (_WARPS[logits.element_size()], pieces_for(rows, vocab_size))
    pieces = triton.cdiv(vocab_size, piece_tiles * GROUP)
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
        tile=GROUP,
        greedy=temperature == 0,
        unit=temperature == 1,
        num_warps=warps,
    )
    return Partials(score, entry, top, total)
