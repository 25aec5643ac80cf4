"""Causal and paged attention against dense softmax written out, in float64; what is stale must not count.

A layout of pages is made at random: shared prompt pages, own pages in any order, pages that nobody
owns, rows without any page; all that is not a token of a row holds large finite values.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.kernels.attention import Group, Pages, causal_attention, packed_attention, paged_attention

PAGE, DIM, POISON = 8, 4, 1e30


def dense(q, k, v):
    """q [heads, dim] over k, v [kv_heads, time, dim] -> [heads, dim]."""
    repeat = q.shape[0] // k.shape[0]
    out = []
    for h in range(q.shape[0]):
        weights = (k[h // repeat] @ q[h] * q.shape[1] ** -0.5).softmax(0)
        out.append(weights @ v[h // repeat])
    return torch.stack(out)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_causal_attention_equals_dense(heads, kv_heads):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads, 11, DIM, generator=g, dtype=torch.float64)
    k, v = (torch.randn(2, kv_heads, 11, DIM, generator=g, dtype=torch.float64) for _ in range(2))
    got = causal_attention(q, k, v)
    for i in range(2):
        for t in range(11):
            expected = dense(q[i, :, t], k[i, :, : t + 1], v[i, :, : t + 1])
            torch.testing.assert_close(got[i, :, t], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
def test_packed_attention_stays_inside_each_sequence(heads, kv_heads):
    """Two of 4 tokens, then a group of 3 and 2, padded to 3; a sequence among others that hold NaN is the same."""
    lengths = (4, 4, 3, 2)
    spread, back = torch.tensor([0, 1, 2, 3, 4, 4]), torch.tensor([0, 1, 2, 3, 4])
    groups = [Group(0, 8, 2, 4, None, None), Group(8, 13, 2, 3, spread, back)]
    g = torch.Generator().manual_seed(0)
    q = torch.randn(13, heads, DIM, generator=g, dtype=torch.float64)
    k, v = (torch.randn(13, kv_heads, DIM, generator=g, dtype=torch.float64) for _ in range(2))
    got = packed_attention(q, k, v, groups)
    first = 0
    for n in lengths:
        own = slice(first, first + n)
        for t in range(n):
            expected = dense(q[first + t], *(x[first : first + t + 1].transpose(0, 1) for x in (k, v)))
            torch.testing.assert_close(got[first + t], expected, rtol=1e-12, atol=1e-12)
        alone = [torch.full_like(x, torch.nan).index_copy(0, torch.arange(13)[own], x[own]) for x in (q, k, v)]
        assert torch.equal(packed_attention(*alone, groups)[own], got[own])
        first += n


class Layout:
    """Rows 0..rows-1 with one shared prompt for each of ``groups``, and own tokens on shuffled pages."""

    def __init__(self, groups, own_tokens, prompt_tokens, kv_heads=2, repeat=2, seed=0, dtype=torch.float64):
        self.rng = np.random.default_rng(seed)
        self.rows, self.kv_heads, self.dtype = len(own_tokens), kv_heads, dtype
        self.q = self.random(self.rows, kv_heads * repeat, DIM)
        self.keys = [self.random(2, kv_heads, n, DIM) for n in own_tokens]
        self.prompts = [self.random(2, kv_heads, n, DIM) for n in prompt_tokens]
        self.groups = groups
        pieces: list[list[int]] = [[] for _ in range(self.rows)]
        own = self.own_pages(pieces)
        shared = self.prompt_pages(pieces, offset=own.rows.numel())
        self.pages = [own, shared]
        none = own.rows.numel() + shared.rows.numel()
        width = max(1, *map(len, pieces))
        self.pieces = torch.tensor([p + [none] * (width - len(p)) for p in pieces])

    def random(self, *shape):
        return torch.tensor(self.rng.standard_normal(shape), dtype=self.dtype)

    def pool(self, pages):
        return torch.full((2, pages, self.kv_heads, PAGE, DIM), POISON, dtype=self.dtype)

    def own_pages(self, pieces):
        places = [(row, first) for row, kv in enumerate(self.keys) for first in range(0, kv.shape[2], PAGE)]
        count = len(places) + 2  # two pages that nobody owns
        pool, rows, valid = self.pool(count), torch.full((count, 1), self.rows), torch.zeros(count, dtype=torch.int64)
        for page, (row, first) in zip(self.rng.permutation(count), places, strict=False):
            part = self.keys[row][:, :, first : first + PAGE]
            pool[:, page, :, : part.shape[2]] = part
            rows[page, 0], valid[page] = row, part.shape[2]
            pieces[row].append(int(page))
        return Pages(pool[0], pool[1], rows, valid)

    def prompt_pages(self, pieces, offset):
        members = max(map(len, self.groups))
        places = [(p, first) for p, kv in enumerate(self.prompts) for first in range(0, kv.shape[2], PAGE)]
        pool = self.pool(len(places))
        rows, valid = torch.full((len(places), members), self.rows), torch.zeros(len(places), dtype=torch.int64)
        for page, (prompt, first) in enumerate(places):
            part = self.prompts[prompt][:, :, first : first + PAGE]
            pool[:, page, :, : part.shape[2]] = part
            valid[page] = part.shape[2]
            for place, row in enumerate(self.groups[prompt]):
                rows[page, place] = row
                pieces[row].append(offset + page * members + place)
        return Pages(pool[0], pool[1], rows, valid)

    def expected(self, row):
        parts = [self.prompts[p] for p, group in enumerate(self.groups) if row in group] + [self.keys[row]]
        k, v = torch.cat(parts, dim=2)
        return dense(self.q[row], k, v) if k.shape[1] else torch.zeros_like(self.q[row])

    def result(self):
        return paged_attention(self.q, self.pages, self.pieces)


CASES = [
    pytest.param([[0]], [5], [3], id="one row"),
    pytest.param([[0, 1, 2]], [0, 1, 20], [PAGE], id="one prompt, a row without own tokens"),
    pytest.param([[0, 2], [3], [1, 4, 6]], [9, 1, 8, 0, 17, 0, 3], [2, 30, 8], id="three prompts, row 5 empty"),
    pytest.param([[2]], [0, 0, 0], [11], id="empty rows around one"),
]


@pytest.mark.parametrize(("groups", "own", "prompts"), CASES)
@pytest.mark.parametrize(("kv_heads", "repeat"), [(1, 3), (2, 2), (3, 1)])
def test_paged_equals_dense(groups, own, prompts, kv_heads, repeat):
    layout = Layout(groups, own, prompts, kv_heads, repeat)
    got = layout.result()
    for row in range(layout.rows):
        torch.testing.assert_close(got[row], layout.expected(row), rtol=1e-12, atol=1e-12)


def test_rows_without_pages_are_exactly_zero():
    layout = Layout([[2]], [0, 0, 0], [11])
    assert torch.equal(layout.result()[:2], torch.zeros_like(layout.q[:2]))


def test_no_pages_at_all():
    q = torch.randn(3, 4, DIM)
    empty = torch.zeros(0, 2, PAGE, DIM)
    pages = Pages(empty, empty, torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    got = paged_attention(q, [pages], torch.zeros(3, 1, dtype=torch.int64))
    assert torch.equal(got, torch.zeros_like(q))


def test_a_row_does_not_depend_on_what_the_others_hold():
    layout = Layout([[0, 1], [2, 3]], [9, 12, 1, 20], [30, 5], dtype=torch.float32)
    before = layout.result()
    layout.q[1:] *= -3
    for pages in layout.pages:
        foreign = (pages.rows != 0).all(1)
        pages.k[foreign] = 7.0
        pages.v[foreign] = -7.0
    after = layout.result()
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1:], before[1:])


def test_large_scores_do_not_overflow():
    layout = Layout([[0, 1]], [9, 3], [11], dtype=torch.float32)
    layout.q *= 1e4
    got = layout.result()
    assert torch.isfinite(got).all()
    for row in range(2):
        torch.testing.assert_close(got[row], layout.expected(row), rtol=1e-3, atol=1e-3)
