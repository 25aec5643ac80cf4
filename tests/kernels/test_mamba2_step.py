"""The decode step: twin against the eager layer, kernel against twin, forks, refills, stale memory, slot order.

Every ring entry, convolution row and state that a step must not read is NaN before it; kernel and twin start
from the same random memory and must leave the same memory behind.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.kernels.mamba2_launch import LAUNCHES, Launch, default_launch
from harness.kernels.mamba2_ring import Memory, Rows, ring_length
from harness.kernels.mamba2_shared import _shared_kernel
from harness.kernels.mamba2_step import (
    Mixer,
    _norm_kernel,
    _step_kernel,
    mamba2_step,
    mamba2_step_triton,
    mamba2_step_unscaled,
)

from .compiling import SHARED_MEMORY, compile_all, jobs_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclasses.dataclass(frozen=True)
class Shape:
    heads: int
    dim: int
    state: int
    groups: int
    length: int
    discrete: bool
    normed: bool = False
    dt_bias: bool = True
    width: int = 4
    kv_heads: int | None = None
    norm_groups: int = 1

    @property
    def inner(self):
        return self.heads * self.dim

    @property
    def parts(self):
        x, b = (self.kv_heads, self.kv_heads) if self.kv_heads else (self.heads, self.groups)
        return x * self.dim, b * self.state, self.groups * self.state

    @property
    def channels(self):
        return sum(self.parts)


def randn(g, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=g, dtype=torch.float64).to(DEVICE, dtype)


def random_mixer(g, s, dtype, layer=1):
    biased = s.dt_bias or not s.discrete
    return Mixer(
        layer,
        (randn(g, s.width, s.channels) / 2).to(dtype).t(),
        randn(g, s.channels, dtype=dtype) / 4,
        randn(g, s.heads, dtype=dtype),
        None if s.discrete else randn(g, s.heads, dtype=dtype) / 2,
        randn(g, s.heads, dtype=dtype) - 2 if biased else None,
        randn(g, s.inner, dtype=dtype) if s.discrete else None,
        randn(g, s.inner, dtype=dtype) if s.normed else None,
        norm_groups=s.norm_groups,
    )


def allocate(s, slots, snapshots, dtype, state_dtype, device=DEVICE):
    return Memory.allocate(
        slots,
        snapshots,
        (s.heads, s.dim, s.state),
        s.parts,
        s.length,
        s.width,
        s.discrete,
        dtype,
        state_dtype,
        device,
    )


def random_memory(g, s, slots, snapshots, dtype, state_dtype):
    """Plausible values everywhere: decays fall from entry to entry."""
    memory = allocate(s, slots, snapshots, dtype, state_dtype)
    for t in (memory.state, memory.conv, memory.x, memory.b):
        t.copy_(randn(g, *t.shape) / 2)
    memory.decay.copy_(-randn(g, *memory.decay.shape).abs().cumsum(1) / 4)
    if memory.dt is not None:
        memory.dt.copy_(randn(g, *memory.dt.shape).abs())
    return memory


def poison(memory, rows, layer):
    """NaN wherever this step must not look."""
    length, width = memory.length, memory.conv.shape[1]
    used = set()
    for slot in range(len(rows.position)):
        position, age = int(rows.position[slot]), int(rows.position[slot] - rows.position0[slot])
        phase = (position + int(rows.sample[slot]) + layer) % length
        memory.conv[slot, position % width] = torch.nan
        stale = [k for k in range(length - 1) if not phase - min(age, phase) <= k < phase]
        for t in (memory.x, memory.b, memory.dt, memory.decay):
            if t is not None:
                t[slot, stale] = torch.nan
        if rows.running[slot]:
            used.add(int(rows.snapshot[slot]) if age <= phase else slot)
    for place in set(range(len(memory.state))) - used:
        memory.state[place] = torch.nan


def cases(length, pairs, snapshots=2, running=True):
    """A row for each (age, phase), positions and samples to match, layer 1, snapshots in turn."""
    age, phase = (torch.tensor(t) for t in zip(*pairs, strict=True))
    count = torch.arange(len(pairs))
    position = age + 3 + count % 5
    sample = (phase - position - 1) % length + length * (count % 3)
    return make_rows(position, position - age, sample, len(pairs) + count % snapshots, running)


def telling(length):
    """Ages and phases at the edges: fresh, forked into the middle of a ring, full, committing with few and many."""
    last, middle = length - 1, length // 2
    pairs = [(0, 0), (0, last), (1, last), (length + 1, last), (2, middle), (length, middle)]
    return list(dict.fromkeys((age, min(phase, last)) for age, phase in pairs))


def make_rows(position, position0, sample, snapshot, running=True):
    flags = torch.as_tensor(running).expand(len(position)).contiguous()
    return Rows(*(t.to(DEVICE) for t in (position, position0, sample, snapshot, flags)))


def copy_of(memory, kind=None):
    def copied(t):
        return t if t is None else t.clone() if kind is None or t.dtype == torch.int32 else t.to(kind, copy=True)

    return Memory(*(copied(getattr(memory, f.name)) for f in dataclasses.fields(memory)))


def tensors(memory):
    return {f.name: t for f in dataclasses.fields(memory) if (t := getattr(memory, f.name)) is not None}


def widened(mixer):
    values = (getattr(mixer, f.name) for f in dataclasses.fields(mixer))
    return Mixer(*(v.double() if isinstance(v, torch.Tensor) else v for v in values))


def pick(rows, index):
    return Rows(*(getattr(rows, f.name)[index] for f in dataclasses.fields(rows)))


# Relative error in the Frobenius norm of the output and of each part of the memory: fp32 against the twin in float64,
# 16 bits against the twin in the same dtypes (equal but for roundings that fall the other way). Triton's
# interpreter cuts fp32 off to bf16 where the GPU rounds, which costs up to two more units in the last place.
CUT = 4 if DEVICE.type == "cpu" else 1
BOUNDS = {
    (torch.float32, torch.float32): 1e-6,
    (torch.bfloat16, torch.float16): 3e-3 * CUT,
    (torch.float32, torch.bfloat16): 3e-3 * CUT,
    (torch.bfloat16, torch.bfloat16): 3e-3 * CUT,
    (torch.float16, torch.float16): 3e-4,
}
FP32, MIXED, LOOSE, BF16, FP16 = BOUNDS
CASES = [
    ("llamba", Shape(2, 64, 64, 2, 8, True, dt_bias=False), None, (FP32, MIXED)),
    ("96 rows in tiles of 64", Shape(2, 96, 32, 1, 8, True), Launch(64, 32), (FP32, MIXED)),
    ("continuous, two groups", Shape(4, 8, 16, 2, 4, False), Launch(8, 8), (FP32, BF16, FP16)),
    ("mamba2, normed", Shape(2, 64, 128, 1, 16, False, normed=True), Launch(32, 32, 2), (FP32, MIXED)),
    ("shared B and C", Shape(8, 8, 16, 2, 8, False, normed=True), None, (FP32, MIXED)),
    ("shared B and C, not deferred", Shape(4, 8, 16, 1, 1, True), None, (FP32,)),
    ("shared x", Shape(4, 8, 16, 4, 3, False, normed=True, kv_heads=2, norm_groups=2), None, (FP32,)),
    ("not deferred", Shape(1, 8, 16, 1, 1, False), None, tuple(BOUNDS)),
    ("odd ring, narrow convolution", Shape(2, 8, 16, 2, 5, True, width=3), None, (FP32, LOOSE)),
]


def run_both(g, s, rows, dtype, state_dtype, launch=None):
    """Kernel and twin from the same poisoned memory: (y, memory) of each."""
    mixer, count = random_mixer(g, s, dtype), len(rows.position)
    memory = random_memory(g, s, count, 2, dtype, state_dtype)
    poison(memory, rows, mixer.layer)
    projected = randn(g, count, s.channels + s.inner + s.heads, dtype=dtype)
    exact = dtype == state_dtype == torch.float32
    kept, twin = copy_of(memory), copy_of(memory, torch.float64 if exact else None)
    out = torch.full((count, s.inner), torch.nan, dtype=dtype, device=DEVICE)
    y = mamba2_step_triton(projected, mixer, memory, rows, out, launch)
    assert y is out
    expected = mamba2_step(projected.double() if exact else projected, widened(mixer) if exact else mixer, twin, rows)
    return (y, memory), (expected, twin), kept


def assert_close(got, expected, bound):
    y, memory = got
    for name, value in {"y": y, **tensors(memory)}.items():
        other = expected[0] if name == "y" else tensors(expected[1])[name]
        assert torch.equal(value.isnan(), other.isnan()), name
        difference = (value.double() - other.double()).nan_to_num().norm()
        assert difference <= bound * other.double().nan_to_num().norm(), name
    assert not y.isnan().any()


@pytest.mark.parametrize(
    ("shape", "launch", "dtypes"),
    [
        pytest.param(shape, launch, dtypes, id=f"{name}, {dtypes[0]}, {dtypes[1]}".replace("torch.", ""))
        for name, shape, launch, kinds in CASES
        for dtypes in kinds
    ],
)
def test_kernel_equals_twin(shape, launch, dtypes):
    g = torch.Generator().manual_seed(shape.heads + shape.length)
    rows = cases(shape.length, telling(shape.length))
    got, expected, before = run_both(g, shape, rows, *dtypes, launch)
    assert_close(got, expected, BOUNDS[dtypes])
    assert not torch.equal(got[1].state.nan_to_num(), before.state.nan_to_num()), "some row must have committed"
    assert torch.equal(got[1].state[-2:].nan_to_num(), before.state[-2:].nan_to_num()), "a snapshot was written"


def test_a_norm_left_to_the_next_one():
    shape = Shape(8, 8, 16, 1, 4, False, normed=True)
    g, rows = torch.Generator().manual_seed(6), cases(4, telling(4), running=torch.tensor([True, True, False] * 2))
    mixer, memory = random_mixer(g, shape, torch.float32), random_memory(g, shape, 6, 2, torch.float32, torch.float32)
    twin, projected = copy_of(memory, torch.float64), randn(g, 6, shape.channels + 72, dtype=torch.float32)
    y, unscaled = mamba2_step_unscaled(projected, mixer, memory, rows, Launch(4, 8))
    assert unscaled.squares.shape == (6, 16)
    expected = mamba2_step(projected.double(), widened(mixer), twin, rows)
    assert_close((y * unscaled.factor(), memory), (expected, twin), 1e-6)
    assert torch.equal(y[2::3], torch.zeros_like(y[2::3]))


def test_kernel_equals_twin_at_every_age_and_phase():
    shape = Shape(1, 8, 16, 1, 4, False)
    pairs = [(age, phase) for age in range(6) for phase in range(4)]
    got, expected, _ = run_both(torch.Generator().manual_seed(0), shape, cases(4, pairs), torch.float32, torch.float32)
    assert_close(got, expected, 1e-6)


def test_steps_of_any_size_keep_their_digits():
    shape = Shape(8, 2, 2, 1, 4, True, dt_bias=False)
    g = torch.Generator().manual_seed(5)
    mixer, memory = random_mixer(g, shape, torch.float32), random_memory(g, shape, 2, 1, torch.float32, torch.float32)
    projected = randn(g, 2, shape.channels + shape.inner + shape.heads, dtype=torch.float32)
    projected[:, -8:] = torch.tensor([-60.0, -25.0, -17.0, -9.0, 0.0, 3.0, 19.0, 90.0])
    mamba2_step_triton(projected, mixer, memory, cases(4, [(0, 0), (0, 2)], snapshots=1), launch=Launch(2, 2))
    expected = -torch.nn.functional.softplus(projected[:, -8:].double()).float()
    torch.testing.assert_close(memory.decay[[0, 1], [0, 2]], expected, rtol=5e-6, atol=0)  # exp is the device's


def test_rows_that_do_not_run_leave_everything_alone():
    shape = Shape(2, 8, 16, 1, 4, True)
    running = torch.tensor([True, False] * 4)
    rows = cases(4, [(a, p) for a in (0, 5) for p in range(4)], running=running)
    got, expected, before = run_both(torch.Generator().manual_seed(1), shape, rows, torch.float32, torch.float32)
    assert_close(got, expected, 1e-6)
    assert torch.equal(got[0][1::2], torch.zeros_like(got[0][1::2]))
    for name, value in tensors(got[1]).items():
        if len(value) >= 8:
            assert torch.equal(value[1:8:2].nan_to_num(3e4), tensors(before)[name][1:8:2].nan_to_num(3e4)), name


def test_fp16_states_are_clamped_and_counted():
    shape = Shape(2, 8, 16, 1, 4, False)
    rows = cases(4, [(9, 3), (9, 2), (1, 3)])
    g = torch.Generator().manual_seed(2)
    mixer, memory = random_mixer(g, shape, torch.float32), random_memory(g, shape, 3, 2, torch.float32, torch.float16)
    memory.x.mul_(60000)
    memory.saturated.fill_(7)
    twin = copy_of(memory)
    projected = randn(g, 3, shape.channels + shape.inner + shape.heads, dtype=torch.float32)
    mamba2_step_triton(projected, mixer, memory, rows)
    mamba2_step(projected, mixer, twin, rows)
    assert 7 < int(twin.saturated) == int(memory.saturated)
    assert int((memory.state[:3].abs() == 65504).sum()) >= int(twin.saturated) - 7
    assert memory.state.isfinite().all()
    torch.testing.assert_close(memory.state, twin.state, rtol=2e-3, atol=0)


@pytest.mark.parametrize("step", [mamba2_step, mamba2_step_triton])
def test_slot_order_does_not_change_a_bit(step):
    shape = Shape(1, 8, 16, 1, 3, True)
    g = torch.Generator().manual_seed(3)
    order = torch.tensor([2, 0, 3, 1], device=DEVICE)
    rows = cases(3, [(0, 1), (2, 2), (5, 0), (1, 1)])
    mixer, memory = random_mixer(g, shape, torch.bfloat16), random_memory(g, shape, 4, 2, torch.bfloat16, torch.float16)
    turned = copy_of(memory)
    for source, target in enumerate(order.tolist()):
        for name, value in tensors(turned).items():
            if len(value) >= 4:
                value[target] = tensors(memory)[name][source]
    inverse = order.argsort()
    for t in range(3):
        now = dataclasses.replace(rows, position=rows.position + t)
        projected = randn(g, 4, shape.channels + shape.inner + shape.heads, dtype=torch.bfloat16)
        y = step(projected, mixer, memory, now)
        assert torch.equal(step(projected[inverse], mixer, turned, pick(now, inverse))[order], y)
    for name, value in tensors(memory).items():
        if len(value) >= 4:
            assert torch.equal(tensors(turned)[name][order], value[:4]), name


def test_what_the_kernel_cannot_do_is_refused():
    g = torch.Generator().manual_seed(4)
    with pytest.raises(ValueError, match="N = 24"):
        run_both(g, Shape(2, 8, 24, 1, 4, True), cases(4, [(0, 0)]), torch.float32, torch.float32)


def test_ring_lengths_of_the_known_shapes():
    half, single = torch.float16, torch.float32
    assert [ring_length((32, 64, 64), 4096, kind) for kind in (half, single)] == [8, 8]  # Llamba-1B: 7.9 and 11.1
    assert [ring_length((64, 64, 128), 4224, kind) for kind in (half, single)] == [16, 16]  # Mamba2-1.3B: 15 and 22


# A layer of Llamba-1B, of Mamba2-1.3B, and of that with groups, each of which has a norm of its own.
LLAMBA = Shape(32, 64, 64, 32, 8, True, dt_bias=False)
MAMBA2 = Shape(64, 64, 128, 1, 16, False, normed=True)
GROUPED = dataclasses.replace(MAMBA2, groups=2, norm_groups=2)


def launches(shape, state_dtype=torch.float16, launch=None, capability=90):
    """Jobs for what a step of 256 rows launches in bf16, as the engine has it (the layer's number is no constant)."""
    g, slots = torch.Generator().manual_seed(0), 256
    mixer = random_mixer(g, shape, torch.bfloat16, layer=3)
    values = (getattr(mixer, f.name) for f in dataclasses.fields(mixer))
    mixer = Mixer(*(v.to("meta") if isinstance(v, torch.Tensor) else v for v in values))
    memory = allocate(shape, slots, slots, torch.bfloat16, state_dtype, torch.device("meta"))
    with torch.device("meta"):
        vectors = (torch.empty(slots, dtype=torch.int64 if i == 2 else torch.int32) for i in range(4))
        rows = Rows(*vectors, torch.empty(slots, dtype=torch.bool))
        projected = torch.empty(slots, shape.channels + shape.inner + shape.heads, dtype=torch.bfloat16)
    step = mamba2_step_unscaled if shape.normed and shape.norm_groups == 1 else mamba2_step_triton
    # What a GPU alone does: products of bf16 pieces, and a launch that begins before what it needs is done.
    ours = {"PIECES": 2 if state_dtype.itemsize == 2 else 3, "EARLY": capability >= 90}
    return jobs_of(lambda: step(projected, mixer, memory, rows, launch=launch), capability, **ours)


def test_the_launches_of_each_form():
    step, shared, norm = (kernel.fn.__name__ for kernel in (_step_kernel, _shared_kernel, _norm_kernel))
    named = {shape: [job["name"] for job in launches(shape)] for shape in (LLAMBA, MAMBA2, GROUPED)}
    assert named == {LLAMBA: [step], MAMBA2: [shared, step], GROUPED: [shared, step, norm]}
    assert [job["name"] for job in launches(dataclasses.replace(GROUPED, groups=32))] == [step, norm]


@pytest.mark.parametrize("key", LAUNCHES, ids=str)
def test_every_launch_of_the_table_compiles_as_it_is_used(key):
    capability, _, state, size = key
    shape, state_dtype = {64: LLAMBA, 128: MAMBA2}[state], {2: torch.float16, 4: torch.float32}[size]
    jobs = launches(shape, state_dtype, LAUNCHES[key], capability)
    assert {"given", "squares"} & jobs[-1]["signature"].keys() == ({"given", "squares"} if shape is MAMBA2 else set())
    for done in compile_all(jobs):
        assert done["shared"] <= SHARED_MEMORY[capability]


@pytest.mark.parametrize(
    ("shape", "state_dtype", "capability"),
    [
        (LLAMBA, torch.float16, 80),
        (MAMBA2, torch.bfloat16, 80),
        (GROUPED, torch.float32, 80),
        (GROUPED, torch.float16, 90),
    ],
)
def test_the_default_launch_compiles(shape, state_dtype, capability):
    for done in compile_all(launches(shape, state_dtype, default_launch(shape.dim, shape.state), capability)):
        assert done["shared"] <= SHARED_MEMORY[capability]
