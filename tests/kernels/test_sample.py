"""The sampling step against definitions written out: filters by brute force, frequencies against softmax."""

from __future__ import annotations

import math

import pytest
import torch

from harness.kernels import sample as module
from harness.kernels.random_words import problem_hash, row_words, second_words, uniform, vocab_words
from harness.kernels.sample import GROUP, REDRAW, filtered, sample

HASH = problem_hash("a problem") - (1 << 64 if problem_hash("a problem") >= 1 << 63 else 0)


def counters(rows):
    return torch.arange(rows), torch.full((rows,), 3), torch.full((rows,), HASH)


def random_logits(rows, vocab, seed=0, dtype=torch.float64):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3


def kept_by_definition(scores, top_k, top_p):
    """Indices that top-k, then the smallest nucleus reaching top-p, leave; scores without ties."""
    order = sorted(range(len(scores)), key=lambda v: -scores[v])
    if top_k:
        order = order[:top_k]
    weights = [math.exp(scores[v] - scores[order[0]]) for v in order]
    kept, reached = set(), 0.0
    for v, w in zip(order, weights, strict=True):
        if reached < top_p or not kept:
            kept.add(v)
        reached += w / sum(weights)
    return kept


@pytest.mark.parametrize("top_k", [0, 1, 3, 40, 41, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.01])
def test_filters_equal_their_definition(top_k, top_p):
    scores = random_logits(20, 41)
    got = filtered(scores, top_k, top_p)
    for row in range(20):
        kept = set(torch.isfinite(got[row]).nonzero().flatten().tolist())
        assert kept == kept_by_definition(scores[row].tolist(), top_k, top_p)
        assert all(got[row, v] == scores[row, v] for v in kept)


def test_ties_at_the_kth_score_all_stay():
    got = filtered(torch.tensor([[1.0, 2.0, 2.0, 3.0, 0.0]]), 2, 1.0)
    assert torch.isfinite(got).tolist() == [[False, True, True, True, False]]


def test_ties_at_the_nucleus_border_all_stay():
    """Probabilities .53, .20, .20, .07: the first two reach .6, and the third is the second's equal."""
    got = filtered(torch.tensor([[1.0, 0.0, 2.0, 1.0], [1.0, 0.0, 2.0, 1.5]]), 0, 0.6)
    assert torch.isfinite(got).tolist() == [[True, False, True, True], [False, False, True, True]]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.0, 0, 1.0), (0.7, 0, 1.0), (0.7, 3, 0.9)])
def test_a_broken_row_has_no_finite_log_probability(temperature, top_k, top_p):
    """Its token is the first NaN, else the first +inf, else entry 0; the sampler calls such a row an error."""
    logits = random_logits(4, 50, dtype=torch.float32)
    logits[0, 20], logits[0, 10], logits[0, 30] = float("nan"), float("inf"), float("nan")
    logits[1, 44] = float("inf")
    logits[2] = float("-inf")
    token, logprob = sample(logits, row_words(7, *counters(4)), temperature, top_k, top_p)
    assert token[:3].tolist() == [20, 44, 0]
    assert logprob.isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_temperature_zero_is_the_likeliest(dtype):
    logits = random_logits(9, 1001, dtype=torch.float32).to(dtype)
    token, logprob = sample(logits, row_words(7, *counters(9)), temperature=0.0, top_k=5, top_p=0.5)
    assert torch.equal(token, logits.argmax(-1))
    expected = logits.double().log_softmax(-1).gather(-1, token[:, None]).squeeze(-1)
    torch.testing.assert_close(logprob.double(), expected, rtol=1e-5, atol=1e-5)


def gumbels(words):
    return (-(-uniform(words, torch.float64).log()).log()).tolist()


@pytest.mark.parametrize("vocab", [301, GROUP, 2 * GROUP + 452])
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 50, 0.9), (2.0, 3, 1.0)])
def test_token_is_the_gumbel_maximum_by_definition(temperature, top_k, top_p, vocab):
    logits = random_logits(12, vocab)
    words = row_words(2**64 - 5, *counters(12))
    token, logprob = sample(logits, words, temperature, top_k, top_p)
    groups = range(0, vocab, GROUP)
    of_groups, of_entries = gumbels(second_words(words, 0, len(groups))), gumbels(vocab_words(words, vocab))
    again = gumbels(second_words(words, REDRAW, vocab))
    redrawn = 0
    for row in range(12):
        scores = [x / temperature for x in logits[row].tolist()]
        masses = [math.log(math.fsum(map(math.exp, scores[g : g + GROUP]))) for g in groups]
        group = max(range(len(groups)), key=lambda g, r=row, m=masses: m[g] + of_groups[r][g])
        inside = range(groups[group], min(vocab, groups[group] + GROUP))
        best = max(inside, key=lambda v, r=row, s=scores: s[v] + of_entries[r][v])
        kept = kept_by_definition(scores, top_k, top_p)
        if best not in kept:
            redrawn += 1
            best = max(kept, key=lambda v, r=row, s=scores: s[v] + again[r][v])
        assert token[row] == best
        expected = logits[row, best] - logits[row].logsumexp(0)
        torch.testing.assert_close(logprob[row], expected, rtol=1e-12, atol=1e-12)
    assert (redrawn > 0) == (top_k > 0), "some rows must come to the second draw, others to its end without"


def test_a_draw_does_not_depend_on_batch_or_order():
    logits = random_logits(16, 500, dtype=torch.float32)
    position, index, problem = counters(16)
    token, logprob = sample(logits, row_words(11, position, index, problem), 0.8, 40, 0.95)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))[:5]
    picked = sample(logits[order], row_words(11, position[order], index[order], problem[order]), 0.8, 40, 0.95)
    assert torch.equal(picked[0], token[order]) and torch.equal(picked[1], logprob[order])


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "dtype"),
    [(1.0, 0, 1.0, torch.float32), (0.6, 0, 1.0, torch.float64), (1.5, 5, 0.9, torch.float32)],
)
def test_frequencies_follow_softmax(temperature, top_k, top_p, dtype, monkeypatch):
    """Chi-square of 200 000 draws from 12 entries in three groups; the limit is 5 standard deviations above."""
    monkeypatch.setattr(module, "GROUP", 5)
    rows = 200_000
    logits = torch.linspace(-1.5, 2.0, 12, dtype=dtype)[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    token, _ = sample(logits.expand(rows, 12), row_words(99, *counters(rows)), temperature, top_k, top_p)
    scores = (logits.double() / temperature).tolist()
    kept = sorted(kept_by_definition(scores, top_k, top_p))
    counts = torch.bincount(token, minlength=12).double()
    assert counts[kept].sum() == rows, "nothing outside the filters may be drawn"
    expected = rows * torch.tensor([scores[v] for v in kept], dtype=torch.float64).softmax(0)
    chi_square = float(((counts[kept] - expected) ** 2 / expected).sum())
    freedom = len(kept) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5
