"""The causal convolution against F.conv1d in float64: over a batch, step by step, and over sequences end to end.

The kernel, in Triton's interpreter without a GPU, against its twin in float64.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.kernels import causal_conv as module
from harness.kernels.causal_conv import causal_conv, causal_conv_packed, causal_conv_step, causal_conv_triton

from .compiling import compile_all, job
from .packed import end_to_end

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTHS = (5, 1, 2, 9, 3)


def inputs(time, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, time, 5, generator=g, dtype=torch.float64)
    weight = torch.randn(5, width, generator=g, dtype=torch.float64)
    return x, weight, torch.randn(5, generator=g, dtype=torch.float64)


def reference(x, weight, bias):
    y = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=weight.shape[1] - 1, groups=x.shape[2])
    return y[..., : x.shape[1]].transpose(1, 2)


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("time", [1, 2, 3, 17])
@pytest.mark.parametrize("with_bias", [False, True])
def test_sequence_equals_conv1d(width, time, with_bias):
    x, weight, bias = inputs(time, width)
    bias = bias if with_bias else None
    torch.testing.assert_close(causal_conv(x, weight, bias), reference(x, weight, bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("prompt", [1, 2, 3, 9])
def test_steps_behind_a_prompt_equal_the_sequence(width, prompt):
    x, weight, bias = inputs(16, width, seed=prompt)
    state = F.pad(x, (0, 0, width - 1, 0))[:, prompt : prompt + width - 1].clone()
    assert state.shape == (2, width - 1, 5)
    whole = reference(x, weight, bias)
    for t in range(prompt, 16):
        y = causal_conv_step(x[:, t], state, weight, bias)
        torch.testing.assert_close(y, whole[:, t], rtol=1e-12, atol=1e-12)
    assert torch.equal(state, x[:, 16 - width + 1 :])


def test_gradients():
    tensors = [t.requires_grad_() for t in inputs(5, 3)]
    assert torch.autograd.gradcheck(causal_conv, tensors)


def packed(channels, head, width, dtype, seed=0):
    """x of shared heads whose rows lie apart with NaN between, weights of all channels, and the sequences."""
    g = torch.Generator().manual_seed(seed)
    wide = torch.full((sum(LENGTHS), channels // 2 + 3), torch.nan, dtype=dtype, device=DEVICE)
    wide[:, :-3] = torch.randn(len(wide), channels // 2, generator=g)
    weight, bias = (torch.randn(channels, *n, generator=g).to(DEVICE, dtype) for n in ((width,), ()))
    return wide[:, :-3], weight, bias, end_to_end(LENGTHS, DEVICE), head


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("width", [2, 4])
def test_packed_sequences_do_not_reach_over_their_starts(width, silu):
    """Each sequence alone gives the same, though its neighbours hold NaN; heads 0 and 1 of channels share one of x."""
    x, weight, bias, sequences, head = packed(12, 3, width, torch.float64)
    for number, (first, end) in enumerate(sequences.spans()):
        alone = torch.full_like(x, torch.nan)
        alone[first:end] = x[first:end]
        got = causal_conv_packed(alone, weight, bias, sequences, silu, torch.float64, head)[first:end]
        repeated = x[None, first:end].unflatten(-1, (-1, head)).repeat_interleave(2, dim=-2).flatten(-2)
        expected = reference(repeated, weight, bias)[0]
        expected = F.silu(expected) if silu else expected
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12, msg=f"sequence {number}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "head", "width", "block"), [(12, 3, 4, 8), (20, 5, 2, 32), (6, 1, 3, 4)])
@pytest.mark.parametrize("silu", [False, True])
def test_the_kernel_equals_the_twin(dtype, channels, head, width, block, silu):
    x, weight, bias, sequences, head = packed(channels, head, width, dtype)
    wide = (t.double() for t in (x, weight, bias))
    expected = causal_conv_packed(*wide, sequences, silu, torch.float64, head)
    got = causal_conv_triton(x, weight, bias, sequences, silu, torch.float32, head, rows=8, block=block)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    narrow = causal_conv_triton(x, weight, bias, sequences, silu, dtype, head, rows=4, block=block)
    torch.testing.assert_close(narrow.double(), expected, rtol=1e-2, atol=1e-2)


def test_the_kernel_compiles_for_both_gpus():
    signature = dict.fromkeys(("x", "weight", "bias"), "*bf16") | {"position": "*i64"}
    signature |= dict.fromkeys(("tokens", "channels", "x_stride"), "i32")
    compile_all(
        [
            job(
                module._packed_kernel,
                signature | {"y": out},
                {"head": head, "repeat": repeat, "width": 4, "silu": True, "rows": 32, "block": 128},
                capability,
                num_warps=4,
            )
            for capability in (80, 90)
            for out, head, repeat in (("*bf16", 1, 1), ("*fp32", 16, 4))
        ]
    )
