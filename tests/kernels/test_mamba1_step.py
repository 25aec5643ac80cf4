"""One Mamba-1 step: the twin against the layer's text, the kernel against the twin in float64, and its traps.

Everything that must not be read is NaN: a ring's row of this step, places of other rows, scratch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from unittest import mock

import numpy as np
import pytest
import torch

from harness.kernels import mamba1_conv
from harness.kernels import mamba1_step as module
from harness.kernels.mamba1_conv import Conv, Places, mamba1_conv_step, mamba1_conv_step_triton
from harness.kernels.mamba1_step import FP16_MAX, Launch, Mixer, launch_for, mamba1_step, mamba1_step_triton
from harness.kernels.sequences import ring_tokens, taken

from .compiling import compile_all, compile_for, jobs_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# One step of the dtype: Triton's interpreter cuts fp32 off to bf16 where the GPU rounds.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
WIDTH = 4


@dataclasses.dataclass
class Step:
    """One step's arguments: rows x channels in heads of n, x and B in heads that ``repeat`` heads share."""

    x: torch.Tensor
    dt: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    z: torch.Tensor
    ssm: torch.Tensor
    mixer: Mixer
    conv: Conv | None
    places: Places | None = None

    def copy(self, dtype=None):
        """The same numbers in tensors of their own, in ``dtype`` if given."""

        def fresh(value):
            if not isinstance(value, torch.Tensor):
                return value
            return value.to(dtype) if dtype and value.is_floating_point() else value.clone()

        tensors = {f.name: fresh(getattr(self, f.name)) for f in dataclasses.fields(self)}
        for name in ("mixer", "conv", "places"):
            record = tensors[name]
            tensors[name] = record and type(record)(*(fresh(t) for t in record))
        return Step(**tensors)

    def arguments(self):
        return [getattr(self, f.name) for f in dataclasses.fields(self)]


def case(rows, heads, n, repeat, dtype=torch.float32, state=torch.float32, times=1, seed=0, places=0, width=WIDTH):
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=g)

    channels, shared = heads * n, heads // repeat

    def sliced(size, gap):
        """Rows that lie apart, as slices of one projection do, each kind by another distance; NaN between."""
        row = torch.cat((randn(rows, size), torch.full((rows, gap), float("nan"))), dim=1)
        return row.to(DEVICE, dtype)[:, :size]

    x, dt, b = sliced(shared * n, 1), sliced(channels, 2), sliced(shared * n, 3)
    c, z = sliced(channels, 4), sliced(channels, 5)
    mixer = (randn(channels, n) / 2, randn(channels), randn(channels) / 2 - 1)
    ring = randn(places or rows, width, shared * n).to(DEVICE, dtype)
    position = torch.randint(width, 90, (rows,), generator=g).to(DEVICE)
    conv = (ring, position, randn(channels, width).to(DEVICE, dtype), randn(channels).to(DEVICE, dtype))
    return Step(
        x,
        dt,
        b.unflatten(1, (shared, n)),
        c.unflatten(1, (heads, n)),
        z,
        randn(places or rows, channels, n).to(DEVICE, state),
        Mixer(*(t.to(DEVICE) for t in mixer), times),
        Conv(*conv),
    )


def by_the_book(step: Step):
    """y and the new state of each row, number by number, from lists: x repeated before the convolution."""
    x, dt, b, c, z, ssm = (t.double().tolist() for t in (step.x, step.dt, step.b, step.c, step.z, step.ssm))
    a_log, d, bias = (t.double().tolist() for t in step.mixer[:3])
    ring, weight, conv_bias = (t.double().tolist() for t in (step.conv.ring, step.conv.weight, step.conv.bias))
    position, n, heads = step.conv.position.tolist(), len(a_log[0]), len(c[0])
    sources, targets = (p.tolist() for p in step.places) if step.places else [range(len(x))] * 2
    repeat, width, y = heads // len(b[0]), len(weight[0]), []

    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    old = [[list(channel) for channel in place] for place in ssm]
    for r, (source, target) in enumerate(zip(sources, targets, strict=True)):
        y.append([])
        for channel in range(len(d)):
            head, entry = divmod(channel, n)
            shared = head // repeat
            taps = [ring[source][(position[r] - j) % width][shared * n + entry] for j in range(width - 1, 0, -1)]
            taps.append(x[r][shared * n + entry])
            u = conv_bias[channel] + sum(w * t for w, t in zip(weight[channel], taps, strict=True))
            u *= sigmoid(u)
            delta = math.log1p(math.exp(dt[r][channel] + step.mixer.times * bias[channel]))
            out = d[channel] * u
            for k in range(n):
                h = math.exp(-delta * math.exp(a_log[channel][k])) * old[source][channel][k]
                h += delta * u * b[r][shared][k]
                ssm[target][channel][k] = h
                out += h * c[r][head][k]
            y[r].append(out * z[r][channel] * sigmoid(z[r][channel]))
    return torch.tensor(y, dtype=torch.float64), torch.tensor(ssm, dtype=torch.float64)


SHAPES = pytest.mark.parametrize(
    ("rows", "heads", "n", "repeat", "width"),
    [(1, 4, 16, 4, 4), (3, 3, 16, 3, 4), (5, 5, 8, 1, 2), (2, 6, 4, 2, 3)],
)


@SHAPES
@pytest.mark.parametrize("times", [1, 2])
def test_twin_equals_the_book(rows, heads, n, repeat, width, times):
    step = case(rows, heads, n, repeat, times=times, seed=rows, width=width).copy(torch.float64)
    y, ssm = by_the_book(step)
    got = mamba1_step(*step.arguments())
    torch.testing.assert_close(got.cpu(), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.ssm.cpu(), ssm, rtol=1e-12, atol=1e-12)


@SHAPES
def test_a_step_leaves_the_ring_that_a_whole_prompt_leaves(rows, heads, n, repeat, width):
    g = torch.Generator().manual_seed(0)
    xb, channels = heads * n // repeat, heads * n
    x = torch.randn(rows, 9, xb, generator=g).to(DEVICE)
    weight, bias = torch.randn(channels, width, generator=g).to(DEVICE), torch.zeros(channels, device=DEVICE)
    for advance in (mamba1_conv_step, mamba1_conv_step_triton):
        for prompt in (1, 2, 4, 7):
            ring = ring_behind(x[:, :prompt], width)
            at = torch.full((rows,), prompt, device=DEVICE)
            advance(x[:, prompt], Conv(ring, at, weight, bias), n)
            assert torch.equal(ring, ring_behind(x[:, : prompt + 1], width))


def ring_behind(x, width):
    """The ring [rows, width, xb] behind prompts x [rows, time, xb]."""
    tokens = ring_tokens(np.full(x.shape[0], x.shape[1]), width)
    return taken(x.flatten(0, 1), torch.from_numpy(tokens).to(x.device))


@pytest.mark.parametrize("state", list(ROUNDING))
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_kernel_equals_the_twin_in_float64(state, dtype):
    """An odd number of rows in pairs, channels that no block divides, heads shared and not."""
    for rows, (heads, n, repeat, width), launch in (
        (3, (6, 16, 3, 4), Launch(64, 2, 2)),
        (2, (5, 8, 1, 3), Launch(16, 1, 4)),
    ):
        step = case(rows, heads, n, repeat, dtype, state, times=2, seed=rows, width=width)
        step.conv.ring[torch.arange(rows), step.conv.position % width] = float("nan")  # what this step overwrites
        exact = step.copy(torch.float64)
        expected = mamba1_step(*exact.arguments())
        got = mamba1_step_triton(*step.arguments(), launch=launch)
        assert got.dtype == dtype
        scale = expected.abs().max().item()
        torch.testing.assert_close(got.double(), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * scale / 8)
        torch.testing.assert_close(step.ssm.double(), exact.ssm, rtol=ROUNDING[state], atol=2e-5)
        assert torch.equal(step.conv.ring.double(), exact.conv.ring), "raw inputs are kept as they came"


@pytest.mark.parametrize(
    "run",
    [mamba1_step, mamba1_step_triton, functools.partial(mamba1_step_triton, launch=Launch(16, 2, 4))],
    ids=["twin", "kernel", "two rows a program"],
)
def test_fork_without_a_copy_padding_and_places_nobody_owns(run):
    """Rows 0 and 2 take their first step from prompt 5, row 1 goes on in place 3, rows 3 and 4 are padding."""
    step = case(5, 6, 8, 3, seed=1, places=8)
    scratch, prompt, untouched = 7, 5, [4, 6]
    step.places = Places(
        torch.tensor([prompt, 3, prompt, scratch, scratch], device=DEVICE),
        torch.tensor([0, 3, 2, scratch, scratch], device=DEVICE),
    )
    step.conv.position[2] = step.conv.position[0]
    for pool in (step.ssm, step.conv.ring):
        pool[[0, 1, 2, scratch, *untouched]] = float("nan")
    before = step.copy()
    y, ssm = by_the_book(step)
    got = run(*step.arguments())
    torch.testing.assert_close(got[:3].double().cpu(), y[:3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(step.ssm[[0, 2, 3]].double().cpu(), ssm[[0, 2, 3]], rtol=1e-5, atol=1e-5)
    assert torch.equal(step.ssm[prompt], before.ssm[prompt]), "a shared prompt is never written"
    assert torch.equal(step.conv.ring[prompt], before.conv.ring[prompt])
    assert step.ssm[[1, *untouched]].isnan().all() and step.conv.ring[[1, *untouched]].isnan().all()
    for row, target in ((0, 0), (2, 2)):
        now = int(step.conv.position[row]) % WIDTH
        assert torch.equal(step.conv.ring[target, now], step.x[row])
        others = [(now + j) % WIDTH for j in range(1, WIDTH)]
        assert torch.equal(step.conv.ring[target][others], before.conv.ring[prompt][others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ungrouped_form_in_two_launches(dtype):
    step = case(3, 5, 8, 1, dtype, seed=3)
    exact = step.copy(torch.float64)
    step.b, step.c, exact.b, exact.c = (t[:, :1] for t in (step.b, step.c, exact.b, exact.c))
    u = mamba1_conv_step_triton(step.x, step.conv, 8, block=16)
    expected_u = mamba1_conv_step(exact.x, exact.conv, 8)
    torch.testing.assert_close(u.double(), expected_u, rtol=ROUNDING[dtype], atol=1e-5)
    step.x, exact.x, step.conv, exact.conv = u, u.double(), None, None
    got, expected = (run(*s.arguments()) for run, s in ((mamba1_step_triton, step), (mamba1_step, exact)))
    torch.testing.assert_close(got.double(), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    torch.testing.assert_close(step.ssm.double(), exact.ssm, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # NumPy, in Triton's interpreter
@pytest.mark.parametrize("run", [mamba1_step, mamba1_step_triton])
def test_an_fp16_state_saturates_and_says_how_often(run):
    step = case(2, 2, 16, 1, state=torch.float16)
    step.mixer.a_log.fill_(-20)
    step.ssm.fill_(1.0)
    step.ssm[0, 3, 2:5] = torch.tensor([FP16_MAX, -FP16_MAX, FP16_MAX])
    step.dt[0, 3], step.b[0] = 5.0, torch.tensor([0.0, 0.0, 100.0, -100.0] + [0.0] * 12)
    step.mixer.dt_bias.fill_(0)
    step.conv.bias[3], step.x[0, 3], step.conv.ring[0, :, 3] = 30.0, 0.0, 0.0
    saturated = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    run(*step.arguments(), saturated)
    assert saturated.item() == 2
    assert step.ssm[0, 3, :5].tolist() == [1.0, 1.0, FP16_MAX, -FP16_MAX, FP16_MAX]
    assert step.ssm.isfinite().all()


def test_softplus_keeps_the_digits_of_small_and_large_steps():
    """delta from 1e-9 to 60, seen through the state: h = delta u B from an empty one."""
    step = case(1, 8, 16, 1, seed=2)
    step.dt[0] = torch.linspace(-21, 60, 128)
    step.mixer.dt_bias.zero_()
    step.ssm.zero_()
    exact = step.copy(torch.float64)
    mamba1_step(*exact.arguments())
    mamba1_step_triton(*step.arguments())
    torch.testing.assert_close(step.ssm.double(), exact.ssm, rtol=1e-5, atol=0)


def test_a_16_bit_state_drifts_where_fp32_does_not():
    """Why fp32 is the default: slow decay and inputs with a mean, 400 steps."""
    errors = {}
    for state in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        step = case(2, 2, 16, 1, seed=5).copy(torch.float64)
        step.ssm = torch.zeros(step.ssm.shape, dtype=state, device=DEVICE)
        step.mixer.a_log.fill_(math.log(0.01))
        g = torch.Generator().manual_seed(0)
        for t in range(400):
            step.x = torch.randn(step.x.shape, generator=g, dtype=torch.float64).to(DEVICE) + 1
            step.conv.position.fill_(t)
            y = mamba1_step(*step.arguments())
        if state == torch.float64:
            reference = y
        errors[state] = ((y - reference).abs().max() / reference.abs().max()).item()
    assert errors[torch.float32] < 1e-5 < 1e-3 < errors[torch.bfloat16]
    assert errors[torch.float32] < errors[torch.float16] < errors[torch.bfloat16]


def test_every_launch_of_the_table_is_reached():
    assert launch_for(4, 64, torch.float32, torch.device("cpu")) == module.DEFAULT_LAUNCH
    below: dict[tuple[int, int], int] = {}
    for capability, most, size, launch in module.LAUNCHES:
        rows, state = below.get((capability, size), 0) // INNER + 1, {2: torch.float16, 4: torch.float32}[size]
        with mock.patch.object(torch.cuda, "get_device_capability", return_value=divmod(capability, 10)):
            assert rows * INNER <= most and launch_for(rows, INNER, state, torch.device("cuda")) is launch
        below[capability, size] = most


INNER = 3072  # channels of MambaInLlama-3B


def jobs_of_step(state, rows, launch, capability):
    """Jobs for a step of MambaInLlama-3B's layer in bf16, as the engine has it."""
    n, sizes = 16, (1024, 1024, INNER, INNER, INNER // 16)

    def empty(*shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype, device="meta")

    x, b, c, z, _ = empty(rows, sum(sizes)).split(sizes, 1)
    recurrence = (empty(*shape, dtype=torch.float32) for shape in ((INNER, n), (INNER,), (INNER,)))
    conv = Conv(empty(2 * rows, WIDTH, 1024), empty(rows, dtype=torch.int32), empty(INNER, WIDTH), empty(INNER))
    places = Places(*(empty(rows, dtype=torch.int64) for _ in range(2)))
    saturated = empty(1, dtype=torch.int32) if state == torch.float16 else None
    heads = (t.unflatten(1, (-1, n)) for t in (b, c))
    pool = empty(2 * rows, INNER, n, dtype=state)
    arguments = (x, empty(rows, INNER), *heads, z, pool, Mixer(*recurrence, 2), conv, places, saturated)
    return jobs_of(lambda: mamba1_step_triton(*arguments, launch=launch), capability, flush=True)  # as on a GPU


def test_every_launch_of_the_table_compiles_as_it_is_used():
    jobs = []
    for capability, most, size, launch in module.LAUNCHES:
        state, rows = {2: torch.float16, 4: torch.float32}[size], min(256, most // INNER)
        jobs += jobs_of_step(state, rows, launch, capability)
    compile_all([*jobs, *jobs_of_step(torch.bfloat16, 64, module.DEFAULT_LAUNCH, 80)])


@pytest.mark.parametrize("capability", [80, 90])
def test_conv_compiles(capability):
    signature = dict.fromkeys(("x", "ring", "weight", "bias", "out"), "*bf16")
    signature |= dict.fromkeys(("position", "source", "target"), "*i64")
    signature |= dict.fromkeys(("channels", "x_stride", "ring_stride"), "i32")
    constants = {"xb": 5120, "head": 16, "repeat": 1, "width": 4, "indexed": True, "block": 256}
    compile_for(mamba1_conv._conv_kernel, signature, constants, capability)
