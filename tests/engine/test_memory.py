"""Which batch fits, worked out from bytes; and messages that carry the numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.engine import memory
from harness.engine.device_state import DeviceState, Mamba1Slots, MambaSlots, planned_bytes
from harness.engine.memory import SPARE_SHARE, available_bytes, check_batch, largest_batch, needed_bytes, room
from harness.kernels.sample_step import sample_rows
from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig
from harness.models.decoder import Decoder
from harness.models.state import AttentionState, StatePlan
from harness.records import InputError

ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_dim=8)
MAMBA = MambaConfig(heads=4, head_dim=8, state=16, groups=2)
LAYERS = ("attention", "discrete_mamba2", "attention")
CONFIG = DecoderConfig(40, 16, LAYERS, 24, 512, (2,), 1, ATTENTION, MAMBA)
# fp32: logits; two attention layers of 64-token pages, keys and values; one SSM state, three convolution inputs.
# A slot also samples: six fp32 copies of its row.
SAMPLING, LOGITS, PAGE, STATE = 6 * 40 * 4, 40 * 4, 2 * 64 * 2 * 2 * 8 * 4, 4 * 8 * 16 * 4 + 3 * (32 + 2 * 2 * 16) * 4


@pytest.fixture(scope="module")
def decoder():
    return Decoder(CONFIG)


@pytest.mark.parametrize("slots", [1, 2, 17])
def test_the_largest_batch_is_what_fits_beside_the_prompts(decoder, slots):
    prompts, new_tokens = [10, 65], 129
    fixed = (LOGITS + PAGE + STATE) + (LOGITS + 2 * PAGE + STATE)
    each = SAMPLING + LOGITS + 3 * PAGE + STATE
    need = (fixed + slots * each) / (1 - SPARE_SHARE)
    assert largest_batch(decoder, prompts, new_tokens, free_bytes=int(need) + 2) == slots
    if slots > 1:
        assert largest_batch(decoder, prompts, new_tokens, free_bytes=int(need) - 2) == slots - 1


@pytest.mark.parametrize(("engine", "free", "kept_back"), [("native", 20, 3), ("native", 80, 6), ("eager", 80, 12)])
def test_a_share_is_kept_back_but_natively_at_most_6_gib(decoder, engine, free, kept_back):
    gib = 2**30
    assert room(free * gib, engine) == pytest.approx((free - kept_back) * gib)
    most = largest_batch(decoder, [64], 64, engine, free_bytes=free * gib)
    need = needed_bytes(CONFIG, torch.float32, [64], 64, most, engine, torch.float32)
    assert (free - kept_back - 0.01) * gib < need <= (free - kept_back) * gib


def test_float64_takes_twice_the_bytes():
    free = 50_000_000
    single, double = Decoder(CONFIG), Decoder(CONFIG).double()
    assert largest_batch(single, [], 64, free_bytes=free) // 2 == largest_batch(double, [], 64, free_bytes=free)


def test_not_even_one_slot_fits(decoder):
    slot = (SAMPLING + LOGITS + 157 * PAGE + STATE) / 2**30
    fixed = 100 * (LOGITS + PAGE + STATE) / 2**30
    with pytest.raises(InputError) as caught:
        largest_batch(decoder, [64] * 100, 10_000, free_bytes=2**20)
    message = str(caught.value)
    for part in ("0.00 GiB free", "100 prompts", f"{fixed:.2f} GiB", f"{slot:.3f} GiB", "lower max_new_tokens"):
        assert part in message
    assert "\n" not in message


def test_a_batch_that_does_not_fit_names_both_numbers(decoder, monkeypatch):
    each, fixed = SAMPLING + LOGITS + PAGE + STATE, LOGITS + PAGE + STATE
    monkeypatch.setattr(memory, "available_bytes", lambda device: int((fixed + 3 * each) / (1 - SPARE_SHARE)) + 2)
    check_batch(decoder, [5], 64, 3)
    with pytest.raises(InputError) as caught:
        check_batch(decoder, [5], 64, 4)
    assert str(caught.value) == "budget.batch = 4: memory holds 3 slots of 64 tokens; use 3 or max"


def test_the_machine_says_what_is_free():
    assert 2**20 < available_bytes(torch.device("cpu")) < 2**50


def test_the_native_engine_plans_what_it_allocates():
    prompts, new_tokens, slots = (10, 65), 129, 5
    mamba1 = Mamba1Config(inner=32, dt_rank=4, state=16, xb=16)
    config = dataclasses.replace(CONFIG, layers=(*LAYERS, "mamba1"), mamba1=mamba1)
    decoder = Decoder(config)
    draw = sample_rows(slots, 1, [], "cpu")
    plan = StatePlan(slots, new_tokens, prompts)
    state = DeviceState(config, plan, draw, torch.float32, torch.float32, torch.device("cpu"), cascade=True)
    attention = [layer for layer in state.layers if isinstance(layer, AttentionState)]
    held = sum(t.nbytes for layer in attention for t in (layer.k, layer.v, layer.prompt_k, layer.prompt_v))
    held += sum(layer.memory.nbytes + layer.tails.nbytes for layer in state.layers if isinstance(layer, MambaSlots))
    (own,) = (layer for layer in state.layers if isinstance(layer, Mamba1Slots))
    # A place for each slot and prompt, and one for padding: a state of 32 x 16, a ring of 4 inputs of 16 channels.
    assert own.ring.nbytes + own.ssm.nbytes == 8 * (32 * 16 + 4 * 16) * 4
    held += own.ring.nbytes + own.ssm.nbytes
    logits = (slots + len(prompts)) * config.vocab_size * 4
    planned = planned_bytes(config, prompts, new_tokens, slots, torch.float32, torch.float32)
    assert held + logits < planned < 1.5 * (held + logits)
    free = int(planned / (1 - SPARE_SHARE)) + 2
    assert largest_batch(decoder, prompts, new_tokens, "native", free_bytes=free) == slots
    assert largest_batch(decoder, prompts, new_tokens, "native", free_bytes=free - 4) == slots - 1
