"""The causal convolution against F.conv1d in float64, over a sequence, step by step, and across the two."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.kernels.causal_conv import causal_conv, causal_conv_step, conv_state


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
    state = conv_state(x[:, :prompt], width)
    assert state.shape == (2, width - 1, 5)
    whole = reference(x, weight, bias)
    for t in range(prompt, 16):
        y = causal_conv_step(x[:, t], state, weight, bias)
        torch.testing.assert_close(y, whole[:, t], rtol=1e-12, atol=1e-12)
    assert torch.equal(state, conv_state(x, width))


def test_gradients():
    tensors = [t.requires_grad_() for t in inputs(5, 3)]
    assert torch.autograd.gradcheck(causal_conv, tensors)
