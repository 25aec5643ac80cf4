"""A step's draw on the device against its plain twin: tokens, log probabilities, filters, ends and counters.

Small cases in Triton's interpreter, many more where there is a GPU. Rows that have ended hold NaN
logits, the logits' row padding is NaN, and what a step must write is poisoned.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from harness.kernels import sample as sample_module
from harness.kernels import sample_filter
from harness.kernels import sample_step as step_module
from harness.kernels.random_words import gumbel, row_words, second_words, seed_words
from harness.kernels.sample import GROUP, REDRAW, draw_triton, filtered, sample
from harness.kernels.sample_step import SampleRows, Sampling, sample_rows, sample_step, sample_step_triton

from .compiling import compile_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MANY = 5_000 if DEVICE.type == "cuda" else 16  # an interpreted row takes tens of milliseconds
SEED = 2**64 - 5
INF, NAN = float("inf"), float("nan")


def random_rows(n, steps=1, eos=(), seed=0, slots=None):
    """Running rows with counters that need all their bits; everything that a step writes is poisoned."""
    generator = torch.Generator().manual_seed(seed)
    rows = sample_rows(slots or n, steps, list(eos), DEVICE)
    rows.problem.copy_(torch.randint(-(2**63), 2**63 - 1, (slots or n,), generator=generator))
    rows.sample.copy_(torch.randint(0, 2**32, (slots or n,), generator=generator))
    rows.generated.copy_(torch.randint(0, 5000, (slots or n,), generator=generator))
    rows.ended[:n] = False
    for poisoned in (rows.position, rows.token, rows.tokens):
        poisoned.fill_(-7)
    rows.logprobs.fill_(NAN)
    return rows


def random_logits(n, vocab, dtype=torch.float32, spread=3.0, seed=0):
    """Rows that lie apart, NaN in between."""
    values = spread * torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed))
    wide = torch.full((n, vocab + 5), NAN, dtype=dtype, device=DEVICE)
    wide[:, :vocab] = values.to(DEVICE, dtype)
    return wide[:, :vocab]


def both(logits, sampling, rows):
    """The rows after a step of the kernel and of the twin."""
    twin = copy.deepcopy(rows)
    sample_step_triton(logits, rows, sampling)
    sample_step(logits, twin, sampling)
    return rows, twin


def assert_same(got: SampleRows, twin: SampleRows, tolerance=3e-6):
    for field in dataclasses.fields(SampleRows):
        mine, theirs = getattr(got, field.name), getattr(twin, field.name)
        if field.name == "logprobs":
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert torch.equal(mine, theirs), field.name


SETTINGS = [  # temperature, top_k, top_p, vocabulary, rows
    (0, 0, 1.0, 2100, 3),
    (1.0, 0, 1.0, 2100, 3),
    (0.8, 0, 1.0, 1031, 2),
    (0.8, 0, 1.0, 517, 1),
    (1.3, 7, 1.0, 61, 3),
    (0.9, 0, 0.3, 2100, 1),
    (0.7, 50, 0.8, 1031, 2),
    (0.8, 61, 0.99, 61, 1),
    (1.0, 60, 1.0, 61, 1),
    (0, 3, 0.2, 61, 1),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("temperature", "top_k", "top_p", "vocab", "rows"), SETTINGS)
def test_kernel_equals_the_twin(dtype, temperature, top_k, top_p, vocab, rows):
    logits = random_logits(rows, vocab, dtype, seed=vocab + top_k)
    sampling = Sampling(SEED, temperature, top_k, top_p, 10_000)
    got, twin = both(logits, sampling, random_rows(rows))
    assert_same(got, twin)
    assert ((got.token >= 0) & (got.token < vocab)).all()
    words = row_words(SEED, got.position, got.sample, got.problem)
    token, logprob = sample(logits.double(), words, temperature, top_k, top_p)
    assert torch.equal(got.token, token)
    torch.testing.assert_close(got.logprobs[0].double(), logprob, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (40, 0.9)])
def test_tokens_of_many_rows(top_k, top_p):
    logits = random_logits(MANY, 1090, torch.bfloat16, seed=top_k)
    got, twin = both(logits, Sampling(11, 0.8, top_k, top_p, 10_000), random_rows(MANY, seed=1))
    # Two scores within an ulp of each other may change places; none of these rows has such a pair.
    assert_same(got, twin, 2e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.0])
def test_any_split_of_the_vocabulary_gives_the_same_draw(temperature):
    vocab = 5 * GROUP + 17
    logits = random_logits(3, vocab, torch.bfloat16).clamp(max=4)  # many entries share the largest logit
    assert ((logits == 4).sum(1) > 5).all()
    tokens = []
    for warps, groups in ((1, 1), (2, 4), (1, 5), (4, 6)):
        r = random_rows(3)
        counters = r.problem, r.sample, r.generated, r.ended, r.step
        partials = draw_triton(logits, *counters, seed_words(1), temperature, (warps, groups))
        assert partials.score.shape[1] == -(-6 // groups) and r.step.item() == 1
        step_module.finish_triton(partials, None, logits, r, Sampling(1, temperature, 0, 1.0, 10_000))
        tokens.append(r.token)
        torch.testing.assert_close(r.logprobs[0], logits.float().log_softmax(-1).gather(1, r.token[:, None])[:, 0])
    assert all(torch.equal(t, tokens[0]) for t in tokens)
    assert torch.equal(tokens[0], logits.argmax(-1)) == (temperature == 0), "the first of the largest"


def test_a_draw_does_not_depend_on_batch_order_or_slot():
    logits = random_logits(4, 130)
    for sampling in (Sampling(5, 0.8, 0, 1.0, 10_000), Sampling(5, 0.8, 5, 0.9, 10_000)):
        whole = random_rows(4)
        start = copy.deepcopy(whole)
        sample_step_triton(logits, whole, sampling)
        order = torch.tensor([2, 0], device=DEVICE)
        picked = random_rows(2)
        for name in ("problem", "sample", "generated"):
            getattr(picked, name).copy_(getattr(start, name)[order])
        sample_step_triton(logits[order], picked, sampling)
        assert torch.equal(picked.token, whole.token[order])


def kept(logits, temperature, top_k, top_p):
    return torch.isfinite(filtered(logits.float() / temperature, top_k, top_p))


@pytest.mark.parametrize(("top_k", "top_p"), [(4, 1.0), (0, 0.5), (9, 0.4), (1, 1.0)])
def test_ties_at_the_borders_all_stay(top_k, top_p):
    """Logits of four values only: whole groups of equals lie at each border, zeros of both signs among them."""
    values = torch.tensor([-2.0, -0.0, 0.0, 1.0])
    logits = values[torch.randint(0, 4, (6, 23), generator=torch.Generator().manual_seed(top_k))].to(DEVICE)
    got, twin = both(logits.bfloat16(), Sampling(9, 1.0, top_k, top_p, 10_000), random_rows(6, seed=top_k))
    assert_same(got, twin)
    inside = kept(logits, 1.0, top_k, top_p)
    # Whole groups of equals: more than k entries, and more than the two that half the mass takes at most.
    assert (inside.sum(1) > (top_k if top_p == 1 else 2)).all() and not inside.all()
    assert inside.gather(1, got.token[:, None]).all()


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0, 0, 1.0), (0.8, 0, 1.0), (0.8, 5, 0.9), (0.8, 0, 0.9)])
def test_broken_rows_give_the_twin_s_token_and_no_finite_log_probability(temperature, top_k, top_p):
    logits = random_logits(7, 517, torch.bfloat16).clone()
    logits[0, 300], logits[0, 400] = NAN, INF
    logits[1] = NAN
    logits[2, 77] = INF
    logits[3] = -INF
    logits[4, 1:] = -INF  # this one is whole: its first entry is certain
    logits[5, 40:60] = -INF  # and so is this
    logits[6, 300] = 3e38  # larger than any number once it is divided by 0.8
    got, twin = both(logits, Sampling(3, temperature, top_k, top_p, 10_000), random_rows(7))
    assert_same(got, twin)
    assert got.token[:5].tolist() == [300, 0, 77, 0, 0] and got.token[6] == 300
    assert torch.isfinite(got.logprobs[0]).tolist() == [False] * 4 + [True] * 3 and got.logprobs[0, 4] == 0


def test_ends_counters_and_window():
    vocab, eos = 61, [7, 60, 13]
    logits = torch.zeros(6, vocab, device=DEVICE)
    for row, token in enumerate((7, 8, 60, 9, 10, 11)):
        logits[row, token] = 5.0
    logits[4] = NAN  # ended: nobody looks
    rows = random_rows(6, steps=3, eos=eos, slots=8)
    rows.generated.copy_(torch.tensor([3, 9, 9, 8, 4, 0, 1, 2]))
    rows.ended[4] = True
    rows.step.fill_(1)
    got, twin = both(logits, Sampling(0, 0, 0, 1.0, 10), rows)
    assert_same(got, twin)
    assert got.token.tolist() == [7, 8, 60, 9, -7, 11, -7, -7]
    assert got.tokens[1].tolist() == got.token.tolist() and (got.tokens[[0, 2]] == -7).all()
    assert got.logprobs[1].isnan().tolist() == [False] * 4 + [True, False, True, True]
    assert got.generated.tolist() == [4, 10, 10, 9, 4, 1, 1, 2]
    assert got.position.tolist() == [3, 9, 9, 8, 4, 0, -7, -7]
    # An end token, the limit, both, neither; ended before; neither; and two slots outside the bucket.
    assert got.ended.tolist() == [True, True, True, False, True, False, True, True]
    assert got.step.item() == 2


def test_a_full_window_is_not_overrun_and_no_end_token_is_needed():
    rows = random_rows(2, steps=1, eos=[])
    for _ in range(2):
        sample_step_triton(random_logits(2, 61, spread=0.0), rows, Sampling(0, 1.0, 0, 1.0, 10_000))
    first = rows.tokens.clone()
    assert rows.step.item() == 2 and torch.equal(rows.tokens, first) and not rows.ended.any()
    assert not torch.equal(rows.token, first[0]), "the second step draws at the next position"


def test_a_window_of_steps_is_the_engine_s():
    """Against the lines of the plain engine's window, on logits that follow from the last token."""
    vocab, steps, limit, eos = 61, 5, 9, [4, 50]
    table = random_logits(vocab, vocab, seed=4)
    rows = random_rows(5, steps, eos)
    rows.generated.copy_(torch.tensor([0, 6, 2, 8, 1]))
    rows.ended[2] = True
    rows.token.fill_(0)
    sampling = Sampling(77, 2.0, 0, 1.0, limit)
    generated, ended, last = rows.generated.clone(), rows.ended.clone(), rows.token.clone()
    before, tokens = generated.clone(), []
    ahead = generated[:, None] + torch.arange(steps, device=DEVICE)
    words = row_words(sampling.seed, ahead, rows.sample[:, None], rows.problem[:, None])
    for i in range(steps):
        token, _ = sample(table[last], words[:, i], 2.0)
        tokens.append(token)
        generated += ~ended
        ended |= torch.isin(token, rows.eos) | (generated >= limit)
        last = token
    for _ in range(steps):
        sample_step_triton(table[rows.token], rows, sampling)
    assert torch.equal(rows.generated, generated) and torch.equal(rows.ended, ended)
    count = generated - before
    assert count[2] == 0 and count[3] == 1 and count.max() > 2
    for row in range(5):
        assert rows.tokens[: count[row], row].tolist() == torch.stack(tokens)[: count[row], row].tolist()


def test_frequencies_follow_softmax():
    """Chi-square of draws at one position each; the limit is 5 standard deviations above the mean."""
    n = 60_000 if DEVICE.type == "cuda" else 80  # a grid has 65,535 rows
    logits = torch.tensor([0.5, -0.6, 1.0, 0.2], device=DEVICE)
    rows = random_rows(n)
    rows.problem.fill_(12345)
    rows.sample.fill_(3)
    rows.generated.copy_(torch.arange(n))
    sample_step_triton(logits.expand(n, 4).contiguous(), rows, Sampling(99, 0.9, 0, 1.0, n + 1))
    expected = n * (logits.double() / 0.9).softmax(-1).cpu()
    assert expected.min() > 5
    chi_square = ((torch.bincount(rows.token.cpu(), minlength=4) - expected) ** 2 / expected).sum()
    assert chi_square < 3 + 5 * (2 * 3) ** 0.5


def test_rows_that_do_not_fit_are_refused():
    rows = sample_rows(3, 2, [1], DEVICE)
    for change in (
        {"generated": rows.generated.int()},
        {"sample": rows.sample[:2]},
        {"ended": rows.generated},
        {"logprobs": rows.logprobs[:, :2]},
        {"eos": torch.arange(9, device=DEVICE)},
    ):
        with pytest.raises(ValueError, match="want"):
            dataclasses.replace(rows, **change)
    for logits in (torch.zeros(4, 5, device=DEVICE), torch.zeros(5, 3, device=DEVICE).T):
        with pytest.raises(ValueError, match="at most 3"):
            sample_step_triton(logits, rows, Sampling(0, 1.0, 0, 1.0, 5))


POINTERS = {
    **dict.fromkeys(("score_out", "top_out", "total_out", "score", "top_in", "total_in", "logprobs"), "*fp32"),
    **dict.fromkeys(("entry_out", "entry", "filtered_token"), "*i32"),
    **dict.fromkeys(("problem", "sample", "generated", "position", "eos", "step", "tokens"), "*i64"),
    "ended": "*i1",
    **dict.fromkeys(("inverse_temperature", "top_p"), "fp32"),
}
DRAW = {"tile": GROUP, "unit": False}
FINISH = {"block": 16, "eos_block": 8, "group": GROUP}
KERNELS = {
    "draw": (sample_module._draw_kernel, DRAW | {"greedy": False}, 1),
    "draw at 1": (sample_module._draw_kernel, DRAW | {"greedy": False, "unit": True}, 1),
    "greedy": (sample_module._draw_kernel, DRAW | {"greedy": True}, 1),
    "filter": (
        sample_filter._filter_kernel,
        {"block": 16, "tile": 4096, "group": GROUP, "redraw": REDRAW, "use_k": True, "use_p": True},
        16,
    ),
    "finish": (step_module._finish_kernel, FINISH | {"greedy": False, "filtering": False}, 4),
    "finish greedy": (step_module._finish_kernel, FINISH | {"greedy": True, "filtering": False}, 4),
    "finish filtered": (step_module._finish_kernel, FINISH | {"greedy": False, "filtering": True}, 4),
}


@pytest.mark.parametrize(("name", "capability"), [(n, c) for n in KERNELS for c in (80, 90) if c == 90 or " " not in n])
def test_kernels_compile_without_a_gpu(name, capability):
    kernel, constexprs, warps = KERNELS[name]
    signature = dict.fromkeys(kernel.arg_names, "i32") | POINTERS
    signature |= {"logits": "*bf16", "token_out": "*i64" if name.startswith("finish") else "*i32"}
    compile_for(kernel, signature, constexprs, capability, num_warps=warps)


def test_noise_words_are_the_twin_s():
    """Over equal logits a group's score is its size and its noise: the largest is the twin's, to an ulp of the logs."""
    rows = random_rows(2)
    counters = rows.problem, rows.sample, rows.generated, rows.ended, rows.step
    noise = gumbel(second_words(row_words(SEED, rows.generated, rows.sample, rows.problem), 0, 5))
    partials = draw_triton(torch.zeros(2, 5 * GROUP, device=DEVICE), *counters, seed_words(SEED), 1.0)
    expected = noise.amax(1) + math.log(GROUP)
    torch.testing.assert_close(partials.score.amax(1), expected, rtol=1e-6, atol=1e-6)
