"""Sequences laid end to end in one tensor of tokens, without padding: where each begins, and what its end leaves.

What reads tokens alone (projections, norms, gates) needs none of this. A convolution needs ``position``, so as not to
reach over a start; a scan ``starts``; and who goes on decoding needs the last inputs of each sequence.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch


class Sequences(NamedTuple):
    """``lengths`` (all at least 1) on the host; on the device int64 ``starts`` [n + 1], the last of them the number of
    tokens, and ``position`` [tokens] of each token in its sequence."""

    lengths: tuple[int, ...]
    starts: torch.Tensor
    position: torch.Tensor

    def spans(self) -> list[tuple[int, int]]:
        """First token of each sequence and the one behind its last, on the host."""
        return list(itertools.pairwise(itertools.accumulate(self.lengths, initial=0)))


def tail_tokens(lengths: np.ndarray, width: int) -> np.ndarray:
    """Tokens that a convolution of ``width`` still needs behind each sequence, oldest first: int64 [n, width - 1].

    -1 stands for an input before the start.
    """
    return _tokens(lengths, lengths[:, None] - (width - 1) + np.arange(width - 1))


def ring_tokens(lengths: np.ndarray, width: int) -> np.ndarray:
    """The last ``width`` tokens of each sequence, the one at position t in row t mod width: int64 [n, width].

    -1 stands for an input before the start (``kernels.mamba1_conv`` describes the ring).
    """
    ends = lengths[:, None]
    return _tokens(lengths, ends - width + (np.arange(width) - ends) % width)


def _tokens(lengths: np.ndarray, position: np.ndarray) -> np.ndarray:
    first = np.cumsum(lengths) - lengths
    return np.where(position < 0, -1, first[:, None] + position)


def taken(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Rows of x [total, channels] by ``tokens`` [n, width], zeros where it holds -1: [n, width, channels]."""
    return x[tokens.clamp_min(0)].masked_fill_((tokens < 0)[..., None], 0)
