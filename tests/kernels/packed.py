"""Sequences laid end to end, as a pack of prompts has them on the device."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from harness.kernels.sequences import Sequences


def end_to_end(lengths: Sequence[int], device: torch.device) -> Sequences:
    starts = torch.tensor([0, *itertools.accumulate(lengths)], device=device)
    position = torch.cat([torch.arange(n, device=device) for n in lengths])
    return Sequences(tuple(lengths), starts, position)
