"""Which inputs a convolution keeps behind sequences that lie end to end, told apart by their own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.kernels.sequences import ring_tokens, tail_tokens, taken

from .packed import end_to_end

LENGTHS = (5, 1, 2, 9)


def numbered():
    """Token t of sequence i holds 100 (i + 1) + t."""
    return torch.cat([100.0 * (i + 1) + torch.arange(n) for i, n in enumerate(LENGTHS)])[:, None]


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_tail_is_the_last_inputs_with_zeros_before_the_start(width):
    tails = taken(numbered(), torch.from_numpy(tail_tokens(np.array(LENGTHS), width)))[..., 0]
    for i, n in enumerate(LENGTHS):
        expected = [100 * (i + 1) + t if t >= 0 else 0 for t in range(n - width + 1, n)]
        assert tails[i].tolist() == expected


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_ring_holds_each_position_at_its_remainder(width):
    rings = taken(numbered(), torch.from_numpy(ring_tokens(np.array(LENGTHS), width)))[..., 0]
    for i, n in enumerate(LENGTHS):
        expected = [0] * width
        for t in range(max(0, n - width), n):
            expected[t % width] = 100 * (i + 1) + t
        assert rings[i].tolist() == expected


def test_what_lies_before_a_start_may_be_anything():
    x = torch.full((4, 2), torch.nan)
    x[1:] = 1
    kept = taken(x, torch.tensor([[-1, 1], [2, 3]]))
    assert torch.equal(kept, torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]]))


def test_spans_are_the_starts_on_the_host():
    sequences = end_to_end(LENGTHS, torch.device("cpu"))
    assert sequences.spans() == [(0, 5), (5, 6), (6, 8), (8, 17)]
    assert [first for first, _ in sequences.spans()] + [17] == sequences.starts.tolist()
