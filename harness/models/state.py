"""What decoding remembers: pages of keys and values, convolution and SSM states, for slots and for prompts.

A prompt is prefilled once into its own place and never written again; ``fork`` hands it to slots:
attention layers share its pages, Mamba layers copy its snapshot. Generated tokens start on a page
of their own, so nothing is copied on write. Rows that must not count write to a scratch page.
All memory is allocated when the state is made; ``StatePlan`` says how much before.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from harness.kernels.attention import Pages
from harness.models.config import DecoderConfig, Mamba1Config, MambaConfig

PAGE_TOKENS = 64
# Copies of a row that a sampling step holds beside the logits: scores, scaled, in groups, exponentials, noise, words.
SAMPLING_COPIES = 6


@dataclasses.dataclass(frozen=True, slots=True)
class StatePlan:
    """Sizes of a state: ``slots`` rows of at most ``new_tokens`` tokens behind prompts of ``prompt_tokens`` tokens."""

    slots: int
    new_tokens: int
    prompt_tokens: tuple[int, ...]

    @property
    def slot_pages(self) -> int:
        return -(-self.new_tokens // PAGE_TOKENS)

    def prompt_pages(self) -> list[int]:
        return [-(-n // PAGE_TOKENS) for n in self.prompt_tokens]


def slot_bytes(config: DecoderConfig, new_tokens: int, dtype: torch.dtype, state_dtype: torch.dtype) -> int:
    """Bytes that one more slot needs, its logits row included."""
    pages = -(-new_tokens // PAGE_TOKENS)
    total = config.vocab_size * _bytes(dtype) + _sampling_bytes(config, dtype)
    for kind in config.layers:
        if kind == "attention":
            total += pages * PAGE_TOKENS * _token_kv_bytes(config, dtype)
        else:
            total += _mamba_bytes(config.recurrent(kind), dtype, state_dtype)
    return total


def prompt_bytes(config: DecoderConfig, tokens: int, dtype: torch.dtype, state_dtype: torch.dtype) -> int:
    """Bytes that one more distinct prompt of ``tokens`` tokens needs: the same places, filled by the prompt."""
    return slot_bytes(config, tokens, dtype, state_dtype) - _sampling_bytes(config, dtype)


def _bytes(dtype: torch.dtype) -> int:
    return torch.empty((), dtype=dtype).element_size()


def _sampling_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    return SAMPLING_COPIES * config.vocab_size * max(4, _bytes(dtype))  # in fp32 at least


def _token_kv_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    if config.attention is None:
        return 0
    return 2 * config.attention.kv_heads * config.attention.head_dim * _bytes(dtype)


def _mamba_bytes(mixer: MambaConfig | Mamba1Config, dtype: torch.dtype, state_dtype: torch.dtype) -> int:
    return math.prod(mixer.ssm_shape) * _bytes(state_dtype) + math.prod(mixer.conv_shape) * _bytes(dtype)


class MambaState:
    """Convolution inputs and SSM states of one layer, shaped as its mixer's record says."""

    def __init__(
        self,
        mixer: MambaConfig | Mamba1Config,
        plan: StatePlan,
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        conv, ssm = mixer.conv_shape, mixer.ssm_shape
        self.conv = torch.zeros(plan.slots, *conv, dtype=dtype, device=device)
        self.ssm = torch.zeros(plan.slots, *ssm, dtype=state_dtype, device=device)
        self.prompt_conv = torch.zeros(len(plan.prompt_tokens), *conv, dtype=dtype, device=device)
        self.prompt_ssm = torch.zeros(len(plan.prompt_tokens), *ssm, dtype=state_dtype, device=device)

    def write_prompts(self, places: torch.Tensor, conv: torch.Tensor, ssm: torch.Tensor) -> None:
        """What n prompts leave behind, conv [n, ...] and ssm [n, ...], into int64 ``places`` [n]."""
        self.prompt_conv[places] = conv
        self.prompt_ssm[places] = ssm.to(self.prompt_ssm.dtype)

    def rows(self, index: StepIndex) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv[: index.rows], self.ssm[: index.rows]

    def fork(self, prompts: torch.Tensor, slots: torch.Tensor) -> None:
        self.conv[slots] = self.prompt_conv[prompts]
        self.ssm[slots] = self.prompt_ssm[prompts]

    def move(self, source: int, target: int) -> None:
        self.conv[target] = self.conv[source]
        self.ssm[target] = self.ssm[source]


class PromptPages(NamedTuple):
    """Where the tokens of prompts go, int64: ``page`` and ``offset`` [tokens] of each; ``whole`` [pages]: all pages."""

    page: torch.Tensor
    offset: torch.Tensor
    whole: torch.Tensor


class AttentionState:
    """Pages of keys and values [pages, kv_heads, PAGE_TOKENS, dim] of one layer: generated tokens and prompts apart."""

    def __init__(self, config: DecoderConfig, plan: StatePlan, dtype: torch.dtype, device: torch.device) -> None:
        assert config.attention is not None
        shape = (config.attention.kv_heads, PAGE_TOKENS, config.attention.head_dim)
        pages = plan.slots * plan.slot_pages + 1
        self.k, self.v = (torch.zeros(pages, *shape, dtype=dtype, device=device) for _ in range(2))
        prompt_pages = sum(plan.prompt_pages())
        self.prompt_k, self.prompt_v = (torch.zeros(prompt_pages, *shape, dtype=dtype, device=device) for _ in range(2))

    def write_prompts(self, pages: PromptPages, k: torch.Tensor, v: torch.Tensor) -> None:
        """k, v [tokens, kv_heads, dim] of prompts fill their pages, with zeros behind the last token of each."""
        for pool, new in ((self.prompt_k, k), (self.prompt_v, v)):
            pool.index_fill_(0, pages.whole, 0)
            pool[pages.page, :, pages.offset] = new.to(pool.dtype)

    def append(self, k: torch.Tensor, v: torch.Tensor, index: StepIndex) -> None:
        """k, v [rows, kv_heads, dim] go to each row's page and offset."""
        self.k[index.page, :, index.offset] = k.to(self.k.dtype)
        # A page is read whole, with weight 0 behind its last token, and 0 * NaN would spread to the page's next owner.
        self.v[index.page, :, index.offset] = v.to(self.v.dtype).nan_to_num()

    def move_pages(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        for pool in (self.k, self.v):
            pool[targets] = pool[sources]

    def pages(self, index: StepIndex) -> list[Pages]:
        own = Pages(self.k[: index.own_pages], self.v[: index.own_pages], index.own_rows, index.own_valid)
        return [own] + [
            Pages(self.prompt_k[first:last], self.prompt_v[first:last], rows, valid)
            for first, last, rows, valid in index.prompt_ranges
        ]


@dataclasses.dataclass(slots=True)
class StepIndex:
    """Where each row of one step reads and writes; the tensors' fields are what ``kernels.attention`` takes."""

    rows: int
    position: torch.Tensor
    page: torch.Tensor
    offset: torch.Tensor
    own_pages: int
    own_rows: torch.Tensor
    own_valid: torch.Tensor
    prompt_ranges: list[tuple[int, int, torch.Tensor, torch.Tensor]]
    pieces: torch.Tensor


class PageTable:
    """Which page belongs to which slot, kept on the host; the lowest free page goes out first, so that
    the pages in use stay a short prefix of the pool and can be read in place."""

    def __init__(self, plan: StatePlan) -> None:
        self.plan = plan
        self.free = list(range(plan.slots * plan.slot_pages))
        self.scratch = plan.slots * plan.slot_pages
        self.table = np.full((plan.slots, plan.slot_pages), self.scratch, dtype=np.int64)
        self.count = np.zeros(plan.slots, dtype=np.int64)

    def reserve(self, slots: np.ndarray, tokens: np.ndarray) -> None:
        """Pages for the first ``tokens`` generated tokens of each slot (never more than the plan has)."""
        need = np.minimum(-(-tokens // PAGE_TOKENS), self.plan.slot_pages)
        for slot, wanted in zip(slots[need > self.count[slots]], need[need > self.count[slots]], strict=True):
            while self.count[slot] < wanted:
                self.table[slot, self.count[slot]] = heapq.heappop(self.free)
                self.count[slot] += 1

    def held(self) -> np.ndarray:
        """Which places of ``table`` hold a page: bool [slots, slot_pages]."""
        return np.arange(self.plan.slot_pages) < self.count[:, None]

    def release(self, slot: int) -> None:
        for page in self.table[slot, : self.count[slot]]:
            heapq.heappush(self.free, int(page))
        self.table[slot] = self.scratch
        self.count[slot] = 0

    def repack(self) -> tuple[np.ndarray, np.ndarray]:
        """Close the holes of the prefix in use once they make up a twentieth: (pages to move, where to)."""
        held = self.held()
        live = self.table[held]
        if not len(live) or live.max() + 1 <= 1.05 * len(live) + 1:
            return live[:0], live[:0]
        sources = np.sort(live[live >= len(live)])
        targets = np.setdiff1d(np.arange(len(live)), live)
        renamed = np.arange(self.scratch + 1)
        renamed[sources] = targets
        self.table[held] = renamed[live]
        self.free = list(range(len(live), self.scratch))
        return sources, targets

    def move(self, source: int, target: int) -> None:
        self.release(target)
        self.table[target], self.count[target] = self.table[source], self.count[source]
        self.table[source], self.count[source] = self.scratch, 0

    def in_use(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Length of the prefix in use, and for each of its pages the owner slot (-1: none) and first token."""
        slots, places = np.nonzero(self.held())
        pages = self.table[slots, places]
        used = int(pages.max()) + 1 if len(pages) else 0
        owner, first = np.full(used, -1, dtype=np.int64), np.zeros(used, dtype=np.int64)
        owner[pages], first[pages] = slots, places * PAGE_TOKENS
        return used, owner, first


def contiguous_ranges(pages: Sequence[int] | np.ndarray, most: int) -> list[tuple[int, int]]:
    """At most ``most`` half-open ranges that hold all ``pages`` (sorted), closing the smallest gaps."""
    if not len(pages):
        return []
    ordered = np.unique(np.asarray(pages))
    gaps = np.diff(ordered)
    widest = np.sort(np.argsort(gaps, kind="stable")[::-1][: most - 1])
    cuts = [int(c) for c in widest if gaps[c] > 1]
    starts = [0] + [c + 1 for c in cuts]
    ends = [c + 1 for c in cuts] + [len(ordered)]
    return [(int(ordered[s]), int(ordered[e - 1]) + 1) for s, e in zip(starts, ends, strict=True)]


def put(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on the device, in order with what is queued there; the host does not wait for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.clone()
