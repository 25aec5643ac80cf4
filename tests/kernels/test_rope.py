"""RoPE against a rotation of complex numbers, and llama3 scaling against its definition written out, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from harness.kernels.rope import frequencies, rotate, tables


@pytest.mark.parametrize("dim", [2, 8, 64])
def test_rotation_equals_complex_multiplication(dim):
    x = torch.randn(3, 50, 4, dim, generator=torch.Generator().manual_seed(dim), dtype=torch.float64)
    cos, sin = tables(frequencies(dim, 10000.0), 50, torch.float64)
    got = rotate(x, cos[:, None], sin[:, None])
    half = dim // 2
    for t in (0, 1, 7, 49):
        angles = torch.tensor([t * 10000.0 ** (-2 * i / dim) for i in range(half)], dtype=torch.float64)
        z = torch.complex(x[:, t, :, :half], x[:, t, :, half:]) * torch.polar(torch.ones_like(angles), angles)
        torch.testing.assert_close(got[:, t], torch.cat((z.real, z.imag), dim=-1), rtol=1e-12, atol=1e-12)


def test_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cos, sin = tables(frequencies(16, 500.0), 40, torch.float64)
    at = [rotate(q, cos[t + 5], sin[t + 5]) @ rotate(k, cos[t], sin[t]) for t in (0, 3, 30)]
    torch.testing.assert_close(at[1:], [at[0]] * 2, rtol=1e-12, atol=1e-12)


def llama3(dim, theta, factor, low, high, context):
    """transformers' _compute_llama3_parameters, one frequency after the other."""
    scaled = []
    for i in range(dim // 2):
        f = theta ** (-2 * i / dim)
        wavelength = 2 * math.pi / f
        if wavelength < context / high:
            scaled.append(f)
        elif wavelength > context / low:
            scaled.append(f / factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            scaled.append((1 - smooth) * f / factor + smooth * f)
    return torch.tensor(scaled, dtype=torch.float64)


@pytest.mark.parametrize(
    "case", [(64, 5e5, 32.0, 1.0, 4.0, 8192), (128, 5e5, 32.0, 1.0, 4.0, 8192), (16, 1e4, 8.0, 1.0, 3.0, 64)]
)
def test_llama3_scaling(case):
    expected = llama3(*case)
    plain = frequencies(*case[:2])
    assert 0 < (expected != plain).sum() < len(plain), "the case must hold scaled and unscaled frequencies"
    torch.testing.assert_close(frequencies(*case), expected, rtol=1e-14, atol=0)


def test_factor_one_is_plain():
    assert torch.equal(frequencies(64, 1e4, 1.0, 1.0, 4.0, 64), frequencies(64, 1e4))
