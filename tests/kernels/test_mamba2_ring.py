"""Deferred commit over whole trajectories: in float64 against the eager layer; forks, refills, moves; drift."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from harness.kernels.mamba2_ring import Memory, Rows
from harness.kernels.mamba2_step import Mixer, mamba2_step
from harness.models.config import DecoderConfig, MambaConfig
from harness.models.layers import Mamba2
from harness.models.packing import pack_prompts
from harness.models.state import MambaState, StatePlan

WIDTH, SLOTS, EPS = 12, 5, 1e-5
F64 = torch.float64


class Decoding:
    """One layer with random weights, decoded twice side by side: eager, and with a deferred commit."""

    def __init__(self, discrete, groups, length, seed=0, prompts=(1, 2, 7), **options):
        self.g = torch.Generator().manual_seed(seed)
        mamba = MambaConfig(4, 3, 8, groups, **options)
        self.layer = Mamba2(WIDTH, mamba, discrete, EPS).double().requires_grad_(False)
        for weight in self.layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=self.g, dtype=F64) / 2)
        self.number = seed % 3
        plan = StatePlan(SLOTS, 64, prompts)
        self.eager = MambaState(mamba, plan, F64, F64, torch.device("cpu"))
        self.memory = Memory.allocate(
            SLOTS, len(prompts) + 1, mamba.ssm_shape, mamba.conv_parts, length, 4, discrete, F64, F64, "cpu"
        )
        for field in dataclasses.fields(self.memory):
            t = getattr(self.memory, field.name)
            if t is not None and t.is_floating_point():
                t.fill_(torch.nan)
        self.prompts = torch.tensor(prompts)
        config = DecoderConfig(1, WIDTH, ("mamba2",), 0, 64, (0,), mamba=mamba)
        places = range(len(prompts))
        pack = pack_prompts([[0] * n for n in prompts], places, plan, config, torch.device("cpu"))
        x = torch.randn(sum(prompts), WIDTH, generator=self.g, dtype=F64)
        self.layer.prefill(x, None, self.eager, pack)
        self.memory.state[SLOTS : SLOTS + len(prompts)] = self.eager.prompt_ssm
        self.rows = Rows(*(torch.zeros(SLOTS, dtype=torch.int64) for _ in range(4)), torch.zeros(SLOTS).bool())
        layer = self.layer
        self.mixer = Mixer(
            self.number,
            layer.conv_weight,
            layer.conv_bias,
            layer.D,
            None if discrete else layer.A_log,
            layer.dt_bias,
            layer.z_bias if discrete else None,
            layer.norm.weight if layer.norm is not None else None,
            EPS,
            mamba.norm_groups,
        )

    def fork(self, slot, prompt, sample):
        self.eager.fork(torch.tensor([prompt]), torch.tensor([slot]))
        position = self.prompts[prompt]
        self.start(slot, SLOTS + prompt, sample, position, self.eager.prompt_conv[prompt])

    def start(self, slot, place, sample, position, tail):
        for field, value in zip(dataclasses.fields(Rows), (position, position, sample, place, True), strict=True):
            getattr(self.rows, field.name)[slot] = value
        self.memory.fork_conv(tail[None], torch.tensor([slot]), torch.as_tensor(position).view(1))

    def step(self, x=None):
        """One token for every running slot; asserts that both ways agree, and gives x and the deferred output."""
        x = torch.randn(SLOTS, WIDTH, generator=self.g, dtype=F64) if x is None else x
        running = self.rows.running
        y = mamba2_step(self.layer.in_proj(x), self.mixer, self.memory, self.rows)
        expected = self.layer.step(x, None, self.eager, SimpleNamespace(rows=SLOTS))
        torch.testing.assert_close(self.layer.out(y)[running], expected[running], rtol=1e-9, atol=1e-9)
        assert torch.equal(y[~running], torch.zeros_like(y[~running]))
        self.rows.position[running] += 1
        return x, y


FORMS = [
    pytest.param({"discrete": True, "groups": 4, "dt_bias": False}, id="llamba"),
    pytest.param({"discrete": True, "groups": 2, "dt_bias": True}, id="discrete"),
    pytest.param({"discrete": False, "groups": 1, "gated_norm": True}, id="mamba2"),
    pytest.param({"discrete": False, "groups": 4, "kv_heads": 2, "gated_norm": True, "norm_groups": 4}, id="shared x"),
    pytest.param({"discrete": False, "groups": 2}, id="continuous"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2, 8, 16])
def test_deferred_steps_equal_the_eager_layer(form, length):
    decoding = Decoding(length=length, seed=length, **form)
    for slot, prompt in enumerate((0, 1, 2, 2)):
        decoding.fork(slot, prompt, sample=slot + slot // 3)
    for n in range(3 * length + 2):
        if n == length:  # each slot has committed: the snapshots may be freed
            decoding.memory.state[SLOTS:] = torch.nan
        decoding.step()


@pytest.mark.parametrize("length", [3, 8])
@pytest.mark.parametrize("discrete", [True, False])
def test_refills_at_every_fill_find_no_trace_of_the_former_trajectory(length, discrete):
    decoding = Decoding(discrete, 1, length)
    decoding.fork(0, 2, 0)
    for n in range(2 * length + 1):
        decoding.fork(1 + n % 4, n % 3, sample=n)
        decoding.step()
        if n % 3 == 2:
            decoding.rows.running[1 + n % 4] = False


@pytest.mark.parametrize("discrete", [True, False])
def test_a_frozen_trajectory_forks_at_every_fill(discrete):
    length = 5
    for steps in range(1, 2 * length + 1):
        decoding = Decoding(discrete, 2, length, seed=steps)
        decoding.fork(0, 2, 1)
        for _ in range(steps):
            decoding.step()
        memory, slot, position = decoding.memory, torch.tensor([0]), decoding.rows.position[0].clone()
        before = [getattr(memory, f.name) for f in dataclasses.fields(Memory)]
        before = [t[0].clone() if t is not None else None for t in before]
        place = SLOTS + 3
        memory.freeze(decoding.rows, decoding.number, slot, torch.tensor([place]))
        for field, kept in zip(dataclasses.fields(Memory), before, strict=True):
            if kept is not None:
                assert torch.equal(getattr(memory, field.name)[0].nan_to_num(), kept.nan_to_num()), field.name
        torch.testing.assert_close(memory.state[place], decoding.eager.ssm[0], rtol=1e-11, atol=1e-11)
        for child in (2, 4):
            decoding.start(child, place, child, position, memory.conv_tail(slot, position.view(1))[0])
            decoding.eager.move(0, child)
        for _ in range(length + 2):
            _, y = decoding.step(torch.randn(1, WIDTH, generator=decoding.g, dtype=F64).expand(SLOTS, WIDTH))
            torch.testing.assert_close(y[[2, 4]], y[[0, 0]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", range(6))
def test_a_moved_slot_goes_on(steps):
    decoding = Decoding(False, 1, 3)
    decoding.fork(1, 0, 4)
    for _ in range(steps):
        decoding.step()
    decoding.memory.move(1, 3)
    decoding.eager.move(1, 3)
    for field in dataclasses.fields(Rows):
        vector = getattr(decoding.rows, field.name)
        vector[3] = vector[1]
    decoding.rows.running[1] = False
    for _ in range(5):
        decoding.step()


def test_planned_bytes_are_allocated_bytes():
    sizes = (7, 2, (4, 3, 8), (12, 16, 16), 8, 4, False, torch.bfloat16, torch.float16)
    expected = 9 * 96 * 2 + 7 * 4 * 44 * 2 + 7 * 7 * (12 + 16) * 2 + 2 * 7 * 7 * 4 * 4 + 4
    assert Memory.allocate(*sizes, "meta").nbytes == Memory.allocate(*sizes, "cpu").nbytes == expected


GAPS = (0.1, 0.02, 0.002, 0.0005, 0.0001)


def drift(steps, runs):
    """Relative error of the last 64 outputs for each 1 - a of ``GAPS`` and each (state dtype, K) of ``runs``.

    A head a decay; inputs with a mean, in fp32, the same for all; against the undeferred step in float64.
    """
    heads, dim, size = len(GAPS), 4, 16
    g = torch.Generator().manual_seed(0)
    step = (1 / (1 - torch.tensor(GAPS, dtype=F64))).log().expm1().log()
    parts = heads * dim, heads * size, heads * size
    channels = sum(parts)
    inputs = torch.randn(steps, 4, channels, generator=g) + 0.5
    last = {}
    for dtype, length, exact in [*((*run, torch.float32) for run in runs), (F64, 1, F64)]:
        memory = Memory.allocate(4, 1, (heads, dim, size), parts, length, 1, True, exact, dtype, "cpu")
        unit = torch.ones(channels, 1, dtype=exact)
        mixer = Mixer(0, unit, torch.zeros(channels, dtype=exact), torch.zeros(heads, dtype=exact))
        zero, four = torch.zeros(4, dtype=torch.int64), torch.arange(4)
        outputs = []
        for t in range(steps):
            gates = torch.ones(4, heads * dim, dtype=exact)
            projected = torch.cat((inputs[t].to(exact), gates, step.to(exact).expand(4, heads)), dim=1)
            rows = Rows(zero + t, zero, four, zero + 4, four >= 0)
            outputs.append(mamba2_step(projected, mixer, memory, rows))
        last[dtype, length] = torch.stack(outputs[-64:]).double().view(-1, heads, dim)
        assert int(memory.saturated) == 0
    reference = last.pop((F64, 1))
    norm = reference.norm(dim=(0, 2))
    return {run: ((y - reference).norm(dim=(0, 2)) / norm).tolist() for run, y in last.items()}


def test_16_bit_states_drift_less_when_they_are_rounded_less_often():
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    error = drift(1024, [(bf16, 1), (bf16, 16), (fp16, 16), (fp32, 16)])
    # About twice what 4,096 steps gave, for each of ``GAPS``.
    limits = {
        (bf16, 16): (2e-3, 3e-3, 8e-3, 1.2e-2, 1.5e-2),
        (fp16, 16): (2e-4, 4e-4, 1e-3, 1.4e-3, 2e-3),
        (fp32, 16): (1e-6, 1e-6, 1e-5, 2e-5, 2e-5),
    }
    for run, most in limits.items():
        assert all(e < limit for e, limit in zip(error[run], most, strict=True)), (run, error[run])
    for slow in (2, 3, 4):
        assert error[bf16, 1][slow] > 3 * error[bf16, 16][slow] > 6 * error[fp16, 16][slow]
