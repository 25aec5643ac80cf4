"""Prompts packed end to end for one prefill, without padding, and where each part of them goes.

Projections, norms and MLPs see one [tokens, width]; a mixer finds here what it needs of where prompts begin. All
indices are laid out on the host and travel in one upload. The longest prompt comes first, so that prompts of like
length, which attention takes together, lie side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from harness.kernels.attention import Group
from harness.kernels.sequences import Sequences, ring_tokens, tail_tokens
from harness.models.config import DecoderConfig
from harness.models.state import PAGE_TOKENS, PromptPages, StatePlan, put

# A prompt joins a group of attention while it is at least this share of the group's longest: in a group, places without
# a token stay fewer than tokens, and a pack of lengths from 40 to 300 makes three groups.
LEAST_SHARE = 0.5
_ALIGNED = 16  # int64 entries: a kernel is compiled anew for a pointer off 16 bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Pack:
    """Tensors of prompts in packed order, on the device: int64 ``tokens`` [total], ``places`` [n] in the state.

    ``last`` [n]: each prompt's last token, in the caller's order. ``groups`` and ``pages`` are attention's; ``tails``
    [n, width - 1] (Mamba-2) and ``rings`` [n, width] (Mamba-1) say which inputs of the convolution are kept.
    """

    tokens: torch.Tensor
    places: torch.Tensor
    last: torch.Tensor
    sequences: Sequences
    groups: tuple[Group, ...]
    pages: PromptPages
    tails: torch.Tensor
    rings: torch.Tensor


def pack_prompts(
    prompts: Sequence[Sequence[int]],
    places: Sequence[int],
    plan: StatePlan,
    config: DecoderConfig,
    device: torch.device,
) -> Pack:
    """``prompts`` for ``places`` of a state made by ``plan``: none is empty, none longer than was planned there."""
    assert len(prompts) == len(places) > 0 and all(prompts), "nothing to prefill"
    given = np.array([len(p) for p in prompts])
    order = np.argsort(-given, kind="stable")
    lengths, place = given[order], np.asarray(places)[order]
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    position = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    last = np.empty_like(bounds[1:])
    last[order] = bounds[1:] - 1
    spans = group_spans(lengths)
    arrays = [
        np.concatenate([prompts[i] for i in order]), place, last, bounds, position,
        *_page_places(lengths, place, position, plan),
        tail_tokens(lengths, 1 if config.mamba is None else config.mamba.conv),
        ring_tokens(lengths, 0 if config.mamba1 is None else config.mamba1.conv),
    ]  # fmt: skip
    for first, end in spans:
        arrays += _padded(lengths[first:end])
    tokens, at, ends, starts, inside, page, offset, whole, tails, rings, *rest = _upload(arrays, device)
    indices = iter(rest)
    groups = []
    for first, end in spans:
        spread, back = (next(indices), next(indices)) if lengths[first] != lengths[end - 1] else (None, None)
        groups.append(Group(int(bounds[first]), int(bounds[end]), end - first, int(lengths[first]), spread, back))
    sequences = Sequences(tuple(lengths.tolist()), starts, inside)
    return Pack(tokens, at, ends, sequences, tuple(groups), PromptPages(page, offset, whole), tails, rings)


def runs_kernels(x: torch.Tensor) -> bool:
    """Whether a prefill of activations like ``x`` runs on the Triton kernels: they sum in fp32."""
    return x.is_cuda and x.dtype != torch.float64


def group_spans(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Half-open ranges of prompts, the longest first, that attention takes together."""
    spans, first = [], 0
    for i, length in enumerate(lengths.tolist()):
        if length < LEAST_SHARE * lengths[first]:
            spans.append((first, i))
            first = i
    return [*spans, (first, len(lengths))]


def _padded(lengths: np.ndarray) -> list[np.ndarray]:
    """``spread`` and ``back`` of a group (``Group``); nothing where lengths are equal."""
    longest = int(lengths[0])
    if longest == lengths[-1]:
        return []
    column = np.arange(longest)
    first = np.cumsum(lengths) - lengths
    spread = first[:, None] + np.minimum(column, lengths[:, None] - 1)
    return [spread.ravel(), np.flatnonzero(column < lengths[:, None])]


def _page_places(
    lengths: np.ndarray, places: np.ndarray, position: np.ndarray, plan: StatePlan
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Page and offset of each token, and all pages of the prompts."""
    planned = np.array(plan.prompt_pages())
    needed = -(-lengths // PAGE_TOKENS)
    assert (needed <= planned[places]).all(), "a prompt is longer than its place"
    first = (np.cumsum(planned) - planned)[places]
    page = np.repeat(first, lengths) + position // PAGE_TOKENS
    whole = np.repeat(first - (np.cumsum(needed) - needed), needed) + np.arange(needed.sum())
    return page, position % PAGE_TOKENS, whole


def _upload(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """int64 copies on the device, in one transfer."""
    starts = np.cumsum([0, *(-(-a.size // _ALIGNED) * _ALIGNED for a in arrays)])
    buffer = np.zeros(starts[-1], dtype=np.int64)
    for array, start in zip(arrays, starts, strict=False):
        buffer[start : start + array.size] = array.ravel()
    sent = put(buffer, device)
    return [sent[s : s + a.size].view(a.shape) for a, s in zip(arrays, starts, strict=False)]
