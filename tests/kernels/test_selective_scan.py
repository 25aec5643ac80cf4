"""The scan in its forms against the recurrence as it is written down, in float64; gradients; long texts in fp32."""

from __future__ import annotations

import math

import pytest
import torch

from harness.kernels import selective_scan as module
from harness.kernels.selective_scan import (
    selective_scan,
    selective_scan_packed,
    selective_scan_sequential,
    selective_scan_triton,
    selective_step,
)

from .compiling import compile_for
from .packed import end_to_end

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def inputs(batch=2, time=37, channels=6, groups=(2, 3), state=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, channels, generator=g, dtype=dtype)
    delta = torch.rand(batch, time, channels, generator=g, dtype=dtype)
    a = -torch.rand(channels, state, generator=g, dtype=dtype) * 3
    b, c = (torch.randn(batch, time, n, state, generator=g, dtype=dtype) for n in groups)
    first = torch.randn(batch, channels, state, generator=g, dtype=dtype)
    return x, delta, a, b, c, first


def by_the_book(x, delta, a, b, c, first):
    """Number by number: h = exp(delta A) h + delta B x, y = sum C h."""
    x, delta, a, b, c, first = (t.tolist() for t in (x, delta, a, b, c, first))
    y = [[[0.0] * len(a) for _ in row] for row in x]
    for i, sequence in enumerate(x):
        for t, now in enumerate(sequence):
            for d, row in enumerate(a):
                own_b, own_c = (m[i][t][d * len(m[i][t]) // len(a)] for m in (b, c))
                for n, rate in enumerate(row):
                    h = math.exp(delta[i][t][d] * rate) * first[i][d][n] + delta[i][t][d] * own_b[n] * now[d]
                    first[i][d][n] = h
                    y[i][t][d] += own_c[n] * h
    return torch.tensor(y, dtype=torch.float64), torch.tensor(first, dtype=torch.float64)


@pytest.mark.parametrize("groups", [(1, 1), (2, 6), (3, 2)])
@pytest.mark.parametrize("time", [1, 13])
def test_sequential_and_chunked_equal_the_book(groups, time):
    x, delta, a, b, c, first = inputs(time=time, groups=groups)
    y, last = by_the_book(x, delta, a, b, c, first)
    given = (x, delta, a, b, c)
    for got in (selective_scan_sequential(*given, first), selective_scan(*given, 4, first)):
        torch.testing.assert_close(got[0], y, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got[1], last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [None, 1, 7, 64])
@pytest.mark.parametrize("time", [1, 2, 63, 64, 65, 150])
@pytest.mark.parametrize("given", [False, True])
def test_chunked_equals_sequential(chunk, time, given):
    x, delta, a, b, c, first = inputs(time=time, seed=time)
    kept = first.clone()
    state = first if given else None
    y, last = selective_scan_sequential(x, delta, a, b, c, state)
    y_chunked, last_chunked = selective_scan(x, delta, a, b, c, chunk, state)
    torch.testing.assert_close(y_chunked, y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(last_chunked, last, rtol=1e-11, atol=1e-11)
    assert torch.equal(first, kept), "the state handed in must stay as it was"


def test_steps_carry_the_state_on():
    x, delta, a, b, c, first = inputs(time=20)
    whole, last = selective_scan(x, delta, a, b, c, 8, first)
    _, state = selective_scan(x[:, :11], delta[:, :11], a, b[:, :11], c[:, :11], 8, first)
    for t in range(11, 20):
        state, y = selective_step(x[:, t], delta[:, t], a, b[:, t], c[:, t], state)
        torch.testing.assert_close(y, whole[:, t], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


def test_gradients():
    tensors = [t.requires_grad_() for t in inputs(batch=1, time=5, channels=2, groups=(1, 2), state=2)]

    def run(x, delta, a, b, c, first):
        return selective_scan(x, delta, a, b, c, 2, first)

    assert torch.autograd.gradcheck(run, tensors)


def test_sixteen_bit_inputs_are_summed_in_fp32():
    x, delta, a, b, c, _ = inputs(time=50, dtype=torch.float32)
    rounded = [t.bfloat16() for t in (x, delta, a, b, c)]
    y, last = selective_scan(*rounded)
    assert y.dtype == last.dtype == torch.float32
    exact, _ = selective_scan(*(t.double() for t in rounded))
    assert (y - exact).abs().max() / exact.abs().max() < 1e-6


def test_long_text_with_strong_and_weak_decay_keeps_its_digits_in_fp32():
    x, delta, a, b, c, _ = inputs(batch=1, time=2048)
    a = torch.logspace(-4, 1, a.numel(), dtype=a.dtype).view_as(a).neg()
    y, last = selective_scan_sequential(x, delta, a, b, c)
    got, got_last = selective_scan(*(t.float() for t in (x, delta, a, b, c)))
    assert (got - y).abs().max() / y.abs().max() < 1e-5
    assert (got_last - last).abs().max() / last.abs().max() < 1e-5


def packed(lengths, channels, groups, n, dtype, seed=0):
    """Rows that lie apart, each kind by another distance, NaN between; the sequences."""
    x, delta, a, b, c, _ = inputs(1, sum(lengths), channels, groups, n, seed, torch.float32)

    def apart(t, gap):
        wide = torch.full((t.shape[1], t[0, 0].numel() + gap), float("nan"), dtype=dtype, device=DEVICE)
        wide[:, :-gap] = t[0].flatten(1)
        return wide[:, :-gap].unflatten(1, t.shape[2:])

    return apart(x, 1), apart(delta, 2), a.to(DEVICE), apart(b, 3), apart(c, 4), end_to_end(lengths, DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("lengths", "channels", "groups", "n", "block", "unroll"),
    [((5, 1, 4), 24, (3, 6), 4, 16, 4), ((7,), 12, (1, 1), 8, 8, 2), ((1, 2), 6, (2, 3), 2, 8, 1)],
)
def test_packed_sequences_in_one_launch(dtype, lengths, channels, groups, n, block, unroll):
    given = packed(lengths, channels, groups, n, dtype)
    y, last = selective_scan_packed(*(t.double() for t in given[:-1]), given[-1])
    got, got_last = selective_scan_triton(*given, block=block, unroll=unroll)
    assert got.dtype == got_last.dtype == torch.float32
    torch.testing.assert_close(got.double(), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_last.double(), last, rtol=1e-5, atol=1e-5)


def test_a_packed_sequence_is_the_sequence_alone():
    given = packed((3, 6, 2), 6, (2, 3), 4, torch.float64)
    y, last = selective_scan_packed(*given)
    x, delta, a, b, c, _ = given
    alone, state = selective_scan_sequential(x[None, 3:9], delta[None, 3:9], a.double(), b[None, 3:9], c[None, 3:9])
    torch.testing.assert_close(y[3:9], alone[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(last[1], state[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("capability", [80, 90])
def test_scan_compiles(capability):
    signature = dict.fromkeys(("x", "delta", "a", "y", "last"), "*fp32") | dict.fromkeys("bc", "*bf16")
    signature |= dict.fromkeys(("channels", "x_stride", "delta_stride", "b_stride", "c_stride"), "i32")
    constants = {"n": 16, "b_span": 64, "c_span": 16, "block": 16, "unroll": 4}
    compile_for(module._scan_kernel, signature | {"starts": "*i64"}, constants, capability, num_warps=1)
