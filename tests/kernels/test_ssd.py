"""The recurrence in its three forms against the sum it stands for, in float64; gradients; long texts in fp32."""

from __future__ import annotations

import pytest
import torch

from harness.kernels.ssd import ssd_chunked, ssd_sequential, ssd_step


def inputs(batch=2, time=37, heads=4, dim=3, groups=2, state=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, heads, dim, generator=g, dtype=dtype)
    log_a = -torch.rand(batch, time, heads, generator=g, dtype=dtype) * 2
    b, c = (torch.randn(batch, time, groups, state, generator=g, dtype=dtype) for _ in range(2))
    first = torch.randn(batch, heads, dim, state, generator=g, dtype=dtype)
    return x, log_a, b, c, first


def direct(x, log_a, b, c, first):
    """y_t = sum_{s <= t} exp(log_a_{s+1} + .. + log_a_t) (C_t . B_s) x_s, and S_0's share, term by term."""
    batch, time, heads, dim = x.shape
    groups, n = b.shape[2:]
    y, last = torch.zeros_like(x), torch.zeros(batch, heads, dim, n, dtype=x.dtype)
    for i in range(batch):
        for h in range(heads):
            group = h * groups // heads
            for t in range(time):
                for s in range(t + 1):
                    decay = log_a[i, s + 1 : t + 1, h].sum().exp()
                    y[i, t, h] += decay * (c[i, t, group] @ b[i, s, group]) * x[i, s, h]
                y[i, t, h] += log_a[i, : t + 1, h].sum().exp() * first[i, h] @ c[i, t, group]
            for s in range(time):
                last[i, h] += log_a[i, s + 1 :, h].sum().exp() * torch.outer(x[i, s, h], b[i, s, group])
            last[i, h] += log_a[i, :, h].sum().exp() * first[i, h]
    return y, last


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("time", [1, 13])
def test_sequential_and_chunked_equal_the_direct_sum(groups, time):
    x, log_a, b, c, first = inputs(time=time, groups=groups)
    y, last = direct(x, log_a, b, c, first)
    for got in (ssd_sequential(x, log_a, b, c, first), ssd_chunked(x, log_a, b, c, 4, first)):
        torch.testing.assert_close(got[0], y, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got[1], last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
@pytest.mark.parametrize("time", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("given", [False, True])
def test_chunked_equals_sequential(chunk, time, given):
    x, log_a, b, c, first = inputs(time=time, seed=time)
    kept = first.clone()
    state = first if given else None
    y, last = ssd_sequential(x, log_a, b, c, state)
    y_chunked, last_chunked = ssd_chunked(x, log_a, b, c, chunk, state)
    torch.testing.assert_close(y_chunked, y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(last_chunked, last, rtol=1e-11, atol=1e-11)
    assert torch.equal(first, kept), "the state handed in must stay as it was"


def test_steps_carry_the_state_on():
    x, log_a, b, c, first = inputs(time=20)
    whole, last = ssd_chunked(x, log_a, b, c, 8, first)
    _, state = ssd_chunked(x[:, :11], log_a[:, :11], b[:, :11], c[:, :11], 8, first)
    for t in range(11, 20):
        y = ssd_step(x[:, t], log_a[:, t], b[:, t], c[:, t], state)
        torch.testing.assert_close(y, whole[:, t], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


def test_step_keeps_the_states_own_dtype():
    x, log_a, b, c, first = inputs(dtype=torch.float32)
    state = first.clone()
    y = ssd_step(x[:, 0].bfloat16(), log_a[:, 0], b[:, 0].bfloat16(), c[:, 0].bfloat16(), state)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert not torch.equal(state, first)


def test_gradients():
    tensors = [t.requires_grad_() for t in inputs(batch=1, time=5, heads=2, dim=2, groups=1, state=2)]

    def run(x, log_a, b, c, first):
        return ssd_chunked(x, log_a, b, c, 3, first)

    assert torch.autograd.gradcheck(run, tensors)


def test_long_text_with_strong_decay_keeps_its_digits_in_fp32():
    x, log_a, b, c, _ = inputs(batch=1, time=2048, heads=2, groups=2)
    log_a = torch.full_like(log_a, -1e-3)
    log_a[:, :1000] = -8.0
    y, _ = ssd_sequential(x, log_a, b, c)
    chunked, _ = ssd_chunked(*(t.float() for t in (x, log_a, b, c)))
    assert (chunked - y).abs().max() / y.abs().max() < 2e-5


def test_autocast_runs_the_products_in_16_bits_and_the_states_in_fp32():
    x, log_a, b, c, _ = inputs(time=100, dtype=torch.float32)
    y, last = ssd_chunked(x, log_a, b, c, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_16, last_16 = ssd_chunked(x, log_a, b, c, 16)
    assert last_16.dtype == torch.float32
    assert (y_16 - y).abs().max() / y.abs().max() < 3e-2
    assert (last_16 - last).abs().max() / last.abs().max() < 3e-2
