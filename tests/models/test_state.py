"""Page bookkeeping and the memory plan: no page twice, the lowest first, and the bytes that were announced."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig
from harness.models.decoder import Decoder
from harness.models.state import (
    PAGE_TOKENS,
    SAMPLING_COPIES,
    AttentionState,
    PageTable,
    StatePlan,
    contiguous_ranges,
    prompt_bytes,
    slot_bytes,
)


def pages_of(table, slot):
    return table.table[slot, : table.count[slot]].tolist()


def reserve(table, slot, tokens):
    table.reserve(np.array([slot]), np.array([tokens]))


def test_pages_go_out_lowest_first_and_come_back():
    table = PageTable(StatePlan(slots=3, new_tokens=4 * PAGE_TOKENS, prompt_tokens=(1,)))
    reserve(table, 0, 1)
    table.reserve(np.array([0, 1]), np.array([1, 2 * PAGE_TOKENS]))
    reserve(table, 0, PAGE_TOKENS + 1)
    assert (pages_of(table, 0), pages_of(table, 1)) == ([0, 3], [1, 2])
    table.release(1)
    reserve(table, 2, 1)
    assert pages_of(table, 2) == [1]
    table.move(0, 1)
    assert (pages_of(table, 0), pages_of(table, 1)) == ([], [0, 3])
    used, owner, first = table.in_use()
    assert (used, owner.tolist(), first.tolist()) == (4, [1, 2, -1, 1], [0, 0, 0, PAGE_TOKENS])


def test_random_lifecycles_never_share_or_lose_a_page():
    plan = StatePlan(slots=5, new_tokens=3 * PAGE_TOKENS - 7, prompt_tokens=(1,))
    table, rng = PageTable(plan), np.random.default_rng(0)
    for _ in range(500):
        slot = int(rng.integers(5))
        if rng.random() < 0.3:
            table.release(slot)
        elif rng.random() < 0.2 and not table.count[(slot + 1) % 5]:
            table.move(slot, (slot + 1) % 5)
        else:
            reserve(table, slot, int(rng.integers(1, 1000)))
        out = [page for s in range(5) for page in pages_of(table, s)]
        assert sorted(out + table.free) == list(range(15))
        assert (table.count <= plan.slot_pages).all()
        assert table.in_use()[0] == (max(out) + 1 if out else 0)


def test_ranges_hold_all_pages_and_close_the_smallest_gaps():
    assert contiguous_ranges([], 2) == []
    assert contiguous_ranges([5, 3, 4], 2) == [(3, 6)]
    assert contiguous_ranges([0, 1, 3, 9], 2) == [(0, 4), (9, 10)]
    assert contiguous_ranges([0, 1, 3, 9], 1) == [(0, 10)]
    for pages in itertools.combinations(range(7), 3):
        ranges = contiguous_ranges(pages, 2)
        assert len(ranges) <= 2 and ranges == sorted(ranges)
        assert all(any(a <= page < b for a, b in ranges) for page in pages)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_announced_bytes_are_the_allocated_ones(dtype):
    config = DecoderConfig(
        100,
        32,
        ("attention", "mamba2", "mamba1", "attention", "discrete_mamba2"),
        48,
        512,
        (2,),
        attention=AttentionConfig(4, 2, 8),
        mamba=MambaConfig(4, 8, 16, 2),
        mamba1=Mamba1Config(inner=48, dt_rank=3, state=8, xb=16),
    )
    plan = StatePlan(slots=5, new_tokens=130, prompt_tokens=(1, 64, 65, 200))
    state = Decoder(config).to(dtype).new_state(plan)
    allocated = scratch = 0
    for layer in state.layers:
        tensors = [t for t in vars(layer).values() if isinstance(t, torch.Tensor)]
        allocated += sum(t.nbytes for t in tensors)
        if isinstance(layer, AttentionState):
            scratch += layer.k[0].nbytes + layer.v[0].nbytes
    planned = 5 * slot_bytes(config, 130, dtype, torch.float32)
    planned += sum(prompt_bytes(config, n, dtype, torch.float32) for n in plan.prompt_tokens)
    logits = (plan.slots + len(plan.prompt_tokens)) * config.vocab_size * dtype.itemsize
    logits += 5 * SAMPLING_COPIES * config.vocab_size * 4  # planned, allocated while sampling
    assert planned - logits == allocated - scratch


def test_repack_closes_holes_and_keeps_every_slot_its_pages():
    table = PageTable(StatePlan(6, 4 * PAGE_TOKENS, (1,)))
    table.reserve(np.arange(6), np.full(6, 4 * PAGE_TOKENS))
    contents = np.arange(table.scratch + 1)  # stands for what a page holds
    before = {slot: contents[table.table[slot]].tolist() for slot in (1, 4, 5)}
    for slot in (0, 2, 3):
        table.release(slot)
    sources, targets = table.repack()
    contents[targets] = contents[sources]
    used, owner, _ = table.in_use()
    assert used == 12 and (owner >= 0).all()
    assert {slot: contents[table.table[slot]].tolist() for slot in (1, 4, 5)} == before
    table.reserve(np.array([0]), np.array([PAGE_TOKENS]))
    assert table.table[0, 0] == 12
    assert [len(t) for t in table.repack()] == [0, 0]
