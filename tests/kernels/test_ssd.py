"""The recurrence in its forms against the sum it stands for, in float64; gradients; long texts in fp32.

The kernel over packed sequences, in Triton's interpreter without a GPU, against its twin in float64.
"""

from __future__ import annotations

import pytest
import torch

from harness.kernels import ssd as module
from harness.kernels.ssd import Launch, launch_for, ssd_chunked, ssd_packed, ssd_sequential, ssd_step, ssd_triton

from .compiling import SHARED_MEMORY, compile_all, job
from .packed import end_to_end

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def test_b_and_c_may_have_groups_of_their_own():
    """MambaInLlama's Mamba-2: B for each shared head of x, C for each head."""
    x, log_a, b, _, first = inputs(groups=2)
    *_, c, _ = inputs(groups=4, seed=1)
    y, last = ssd_sequential(x, log_a, b, c, first)
    y_chunked, last_chunked = ssd_chunked(x, log_a, b, c, 8, first)
    torch.testing.assert_close(y_chunked, y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(last_chunked, last, rtol=1e-11, atol=1e-11)


def packed(lengths, heads, dim, groups, n, dtype, scaled, seed=0):
    """Rows of x, B and C that lie apart, each by another distance, NaN between; scale, skip and the sequences."""
    x, log_a, b, _, _ = inputs(1, sum(lengths), heads, dim, groups[0], n, seed, torch.float32)
    *_, c, _ = inputs(1, sum(lengths), heads, dim, groups[1], n, seed + 1, torch.float32)

    def apart(t, gap):
        wide = torch.full((t.shape[1], t[0, 0].numel() + gap), torch.nan, dtype=dtype, device=DEVICE)
        wide[:, :-gap] = t[0].flatten(1)
        return wide[:, :-gap].unflatten(1, t.shape[2:])

    g = torch.Generator().manual_seed(seed)
    scale = torch.rand(sum(lengths), heads, generator=g).to(DEVICE) if scaled else None
    skip = torch.randn(heads, generator=g).to(DEVICE, dtype)
    return apart(x, 1), log_a[0].to(DEVICE), apart(b, 2), apart(c, 3), end_to_end(lengths, DEVICE), scale, skip


def widened(arguments):
    return [t.double() if isinstance(t, torch.Tensor) else t for t in arguments]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_packed_sequence_is_the_sequence_alone(scaled):
    x, log_a, b, c, sequences, scale, skip = widened(packed((3, 9, 1, 17), 4, 3, (2, 4), 5, torch.float64, scaled))
    y, last = ssd_packed(x, log_a, b, c, sequences, scale, skip, 8)
    entering = x if scale is None else x * scale[..., None]
    for i, (first, end) in enumerate(sequences.spans()):
        alone, state = ssd_sequential(*(t[None, first:end] for t in (entering, log_a, b, c)))
        expected = alone[0] + skip[:, None] * x[first:end]
        torch.testing.assert_close(y[first:end], expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(last[i], state[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("lengths", "heads", "dim", "groups", "n", "scaled", "dtype"),
    [
        ((16, 1, 33, 17), 2, 16, (1, 1), 16, True, torch.float32),
        ((5, 40), 4, 24, (2, 4), 12, False, torch.float32),
        ((31, 2), 2, 48, (2, 2), 32, True, torch.bfloat16),
        ((20,), 3, 8, (3, 1), 4, False, torch.bfloat16),
    ],
)
def test_the_kernel_equals_the_twin(lengths, heads, dim, groups, n, scaled, dtype):
    given = packed(lengths, heads, dim, groups, n, dtype, scaled)
    y, last = ssd_packed(*widened(given))
    got, got_last = ssd_triton(*given, Launch(16, 32, 4, 1))
    assert got.dtype == dtype and got_last.dtype == torch.float32
    # On a GPU products of 16 bits round x e^(..), the weights and the state; the interpreter cuts the bits of y off.
    near = 1e-5 if dtype == torch.float32 else 2e-2
    assert (got.double() - y).abs().max() <= near * y.abs().max()
    assert (got_last.double() - last).abs().max() <= (near if DEVICE.type == "cuda" else 1e-5) * last.abs().max()


def test_the_kernel_keeps_its_digits_behind_a_strong_decay():
    x, log_a, b, c, sequences, _, skip = packed((40, 24), 2, 16, (2, 2), 16, torch.float32, False)
    log_a = torch.full_like(log_a, -1e-3)
    log_a[:30] = -8.0
    given = x, log_a, b, c, sequences, None, skip
    y, last = ssd_packed(*widened(given))
    got, got_last = ssd_triton(*given, Launch(16, 32, 4, 1))
    assert (got.double() - y).abs().max() <= 1e-5 * y.abs().max()
    assert (got_last.double() - last).abs().max() <= 1e-5 * last.abs().max()


def test_the_kernel_compiles_for_both_gpus():
    """Llamba's heads, Mamba-2's, 96-wide ones, and fp32; what they need fits a multiprocessor's shared memory."""
    base = {"starts": "*i64"} | dict.fromkeys(("log_a", "scale", "last"), "*fp32")
    base |= dict.fromkeys(("heads", "x_stride", "b_stride", "c_stride"), "i32")
    jobs = []
    for capability in (80, 90):
        for dtype, kind, dim, n, span in (
            (torch.bfloat16, "*bf16", 64, 64, 1),
            (torch.bfloat16, "*bf16", 64, 128, 64),
            (torch.float16, "*fp16", 96, 64, 1),
            (torch.float32, "*fp32", 64, 128, 64),
        ):
            chunk, most, warps, stages = launch_for(dtype)
            constants = {"dim": dim, "n": n, "b_span": span, "c_span": span, "scaled": span > 1, "widen": False}
            constants |= {"chunk": chunk, "block": min(most, dim & -dim), "size": n}
            signature = base | dict.fromkeys(("x", "b", "c", "skip", "y"), kind)
            options = {"num_warps": warps, "num_stages": stages}
            jobs.append(job(module._packed_kernel, signature, constants, capability, **options))
    for done in compile_all(jobs):
        assert done["shared"] <= SHARED_MEMORY[80]


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
