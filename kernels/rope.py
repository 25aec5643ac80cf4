"""Rotary position embedding (Su et al., 2021) in the split-half layout of Hugging Face's Llama.

For the pair (x_i, x_{i + D/2}) at position t the angle is t * f_i, f_i = theta^(-2i/D). llama3
scaling divides the low frequencies by ``factor`` and blends in between (Llama 3.1, section 3.2).
"""

from __future__ import annotations

import math

import torch


def frequencies(
    head_dim: int,
    theta: float,
    factor: float = 1.0,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    original_context: int = 8192,
) -> torch.Tensor:
    """Angles per position, float64 [head_dim / 2]; ``factor`` 1 is plain RoPE, others llama3-scaled."""
    f = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if factor == 1.0:
        return f
    wavelength = 2 * math.pi / f
    smooth = (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * f / factor + smooth * f


def tables(freq: torch.Tensor, context: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [context, head_dim]: both halves filled, so that rotating is two products and a sum."""
    angle = torch.outer(torch.arange(context, dtype=torch.float64), freq)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [..., D] turned by cos, sin [..., D] (broadcast)."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin
