"""Prompts packed into one prefill: the logits of whole forwards, and the state that one by one leaves behind.

Pools are filled with NaN first, so that a read of what was never written shows, and what must be written is.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.bench.regress_workload import SynchronisingCalls
from harness.engine.device_state import DeviceState
from harness.kernels.sample_step import sample_rows
from harness.models import layers, mamba1
from harness.models.packing import group_spans, pack_prompts
from harness.models.state import PAGE_TOKENS, AttentionState, StatePlan

from .test_decoder import CONFIGS, GROUPED, MAMBA, VOCAB, config, random_decoder

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SLOTS = 2
# One token, shorter than the convolution, a chunk of 16 and one more, a page and one more, several pages.
LENGTHS = (3, 1, 130, 16, 65, 17, 2, 64, 16, 1)
F64 = torch.float64


def prompts(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, n).tolist() for n in lengths]


def tensors(layer):
    """Floating-point pools of a layer's state by name; a native Mamba-2 layer keeps some in its ``memory``."""
    held = {name: t for name, t in vars(layer).items() if isinstance(t, torch.Tensor)}
    if hasattr(layer, "memory"):
        fields = dataclasses.fields(layer.memory)
        held |= {f.name: t for f in fields if (t := getattr(layer.memory, f.name)) is not None}
    return {name: t for name, t in held.items() if t.is_floating_point()}


def poisoned(state):
    for layer in state.layers:
        for t in tensors(layer).values():
            t.fill_(torch.nan)
    return state


def eager(model, lengths=LENGTHS):
    return model.new_state(StatePlan(SLOTS, 8, tuple(lengths)))


def native(model, lengths=LENGTHS, state_dtype=torch.float32):
    plan, draw = StatePlan(SLOTS, 8, tuple(lengths)), sample_rows(SLOTS, 1, [], DEVICE)
    return DeviceState(model.config, plan, draw, model.embedding.weight.dtype, state_dtype, DEVICE, cascade=True)


def filled(make, model, packs, lengths=LENGTHS):
    """A state behind one prefill a pack, and the logits of each prompt."""
    state, given = poisoned(make(model)), prompts(lengths)
    logits = torch.full((len(lengths), VOCAB), torch.nan, dtype=model.embedding.weight.dtype, device=DEVICE)
    for pack in packs:
        logits[list(pack)] = model.prefill([given[p] for p in pack], state, pack)
    return state, logits


def largest_difference(a, b):
    """Relative to the largest of b; NaN only where both have it."""
    assert torch.equal(a.isnan(), b.isnan())
    return float((a - b).nan_to_num().abs().max() / b.nan_to_num().abs().max().clamp_min(1e-9))


ONE = [tuple(range(len(LENGTHS)))]
SEVERAL = [(4, 0, 9), (2,), (8, 7, 6, 5), (1, 3)]
ALONE = [(p,) for p in range(len(LENGTHS))]


@pytest.mark.parametrize("packs", [ONE, SEVERAL], ids=["one pack", "several"])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_prompts_give_the_logits_of_whole_forwards(name, packs):
    model = random_decoder(CONFIGS[name], F64).to(DEVICE)
    _, logits = filled(eager, model, packs)
    for prompt, got in zip(prompts(), logits, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([prompt], device=DEVICE))[0, -1]
        assert largest_difference(got, expected) < 1e-10


@pytest.mark.parametrize("make", [eager, native])
@pytest.mark.parametrize("name", ["attention-grouped", "mamba2-shared-heads", "mamba1-with-all", "discrete-groups"])
def test_the_state_left_behind_is_that_of_one_by_one(name, make):
    model = random_decoder(CONFIGS[name], F64 if make is eager else torch.float32).to(DEVICE)
    near = 1e-10 if make is eager else 1e-4
    (alone, first), (packed, then) = (filled(make, model, packs) for packs in (ALONE, SEVERAL))
    assert largest_difference(then, first) < near
    for expected, got in zip(alone.layers, packed.layers, strict=True):
        for key, pool in tensors(expected).items():
            assert largest_difference(tensors(got)[key], pool) < near, key
            if key.startswith("prompt_") or key == "tails":
                assert torch.isfinite(tensors(got)[key]).all(), key


def test_pages_hold_zeros_behind_the_last_token():
    """The plain engine reads pages whole: what is no token has weight 0, and 0 * NaN would be NaN."""
    model = random_decoder(CONFIGS["attention"]).to(DEVICE)
    state, _ = filled(eager, model, SEVERAL)
    layer = state.layers[0]
    assert isinstance(layer, AttentionState)
    first = 0
    for n in LENGTHS:
        pages = -(-n // PAGE_TOKENS)
        for pool in (layer.prompt_k, layer.prompt_v):
            tokens = pool[first : first + pages].transpose(1, 2).flatten(0, 1)
            assert not tokens[n:].any() and tokens[:n].any(dim=(1, 2)).all()
        first += pages


def test_a_state_that_fp16_cannot_hold_is_clamped_and_counted():
    model = random_decoder(CONFIGS["mamba1-hybrid"]).to(DEVICE)
    model.embedding.weight.data *= 1e4
    for block in model.blocks:
        block.mixer_norm.weight.data *= 1e4
    state = native(model, state_dtype=torch.float16)
    model.prefill(prompts(), state, range(len(LENGTHS)))
    layer = state.layers[0]
    assert torch.isfinite(layer.ssm).all() and int(layer.saturated) > 0


@pytest.mark.parametrize("name", ["mamba1-with-all", "mamba1", "mamba2-shared-heads", "discrete-groups"])
def test_the_kernels_take_the_place_of_the_plain_forms(monkeypatch, name):
    """As a GPU runs it: convolution and scans in the interpreter, on the layers' own strided slices."""
    lengths = (5, 1, 18)
    model = random_decoder(CONFIGS[name]).to(DEVICE)
    found = []
    for kernels in (False, True):
        for module in (layers, mamba1):
            monkeypatch.setattr(module, "runs_kernels", lambda x, kernels=kernels: kernels)
        state = poisoned(eager(model, lengths))
        found.append((state, model.prefill(prompts(lengths), state, (2, 0, 1))))
    (plain, expected), (fused, got) = found
    assert largest_difference(got, expected) < 1e-4
    for a, b in zip(fused.layers, plain.layers, strict=True):
        for key, pool in tensors(b).items():
            assert largest_difference(tensors(a)[key], pool) < 1e-4, key


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def without_launches(monkeypatch):
    """Stand-ins for the kernels, of the same results' shapes."""

    def conv(x, weight, bias, sequences, silu, dtype, head=1):
        return x.new_empty(len(x), len(weight))

    def ssd(x, log_a, b, c, sequences, scale, skip):
        return x, x.new_empty(len(sequences.lengths), *x.shape[1:], b.shape[-1])

    def scan(x, delta, a, b, c, sequences):
        return x, x.new_empty(len(sequences.lengths), *a.shape)

    for module in (layers, mamba1):
        monkeypatch.setattr(module, "runs_kernels", lambda x: True)
        monkeypatch.setattr(module, "causal_conv_triton", conv)
    monkeypatch.setattr(layers, "ssd_triton", ssd)
    monkeypatch.setattr(mamba1, "selective_scan_triton", scan)


def test_a_pass_makes_as_many_calls_for_many_prompts_as_for_few(monkeypatch):
    """Where lengths are equal, and where they differ within the bounds of a group of attention."""
    without_launches(monkeypatch)
    model = random_decoder(config(("attention", "mamba1", "mamba2", "discrete_mamba2"), GROUPED, MAMBA))
    model.rope_tables(model.embedding.weight)
    for few, many in (((20, 20), (20,) * 9), ((20, 11), (20, 19, 13, 12, 11, 10, 18))):
        counts = []
        for lengths in (few, many):
            state = eager(model, lengths)
            with Calls() as calls:
                model.prefill(prompts(lengths), state, range(len(lengths)))
            counts.append(calls.count)
        assert counts[0] == counts[1], (few, many)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_in_a_pass_waits_for_the_device(name):
    model = random_decoder(CONFIGS[name])
    given, state = prompts(), eager(model)
    with SynchronisingCalls() as calls:
        model.prefill(given, state, range(len(given)))
    assert not calls.counts


def test_prompts_of_like_length_go_together():
    def spans(*lengths):
        return [lengths[first:end] for first, end in group_spans(np.array(lengths))]

    assert spans(7) == [(7,)]
    assert spans(8, 8, 8) == [(8, 8, 8)]
    assert spans(300, 150, 149, 80, 75, 74, 1) == [(300, 150), (149, 80, 75), (74,), (1,)]


def test_indices_lie_on_sixteen_bytes():
    """Off them a kernel would be compiled anew, on the clock."""
    for lengths in ((1,), (3, 2), (7, 7, 5)):
        pack = pack_prompts(
            prompts(lengths), range(len(lengths)), StatePlan(1, 8, lengths), CONFIGS["mamba1-with-all"], DEVICE
        )
        indices = (pack.tokens, pack.places, pack.last, pack.sequences.starts, pack.sequences.position, *pack.pages)
        assert all(t.data_ptr() % 16 == 0 for t in (*indices, pack.tails, pack.rings))


def test_what_a_place_was_not_planned_for_is_refused():
    model = random_decoder(CONFIGS["attention"])
    state = eager(model, (64, 64))
    with pytest.raises(AssertionError, match="longer than its place"):
        model.prefill([[1] * 65], state, [1])
    with pytest.raises(AssertionError, match="nothing to prefill"):
        model.prefill([[1], []], state, [0, 1])
