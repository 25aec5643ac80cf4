"""Depthwise causal convolution of a Mamba layer, over a sequence and one step at a time.

y_t = b + sum_j w_j x_{t - K + 1 + j}, with x = 0 before the start; the state is the last K - 1 inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def causal_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [batch, time, channels], weight [channels, K], bias [channels] -> [batch, time, channels]."""
    # A sum of shifted products: as fast as cuDNN's depthwise path forward, much faster backward.
    time = x.shape[1]
    padded = F.pad(x, (0, 0, weight.shape[1] - 1, 0))
    y = padded[:, :time] * weight[:, 0]
    for j in range(1, weight.shape[1]):
        y = y + padded[:, j : j + time] * weight[:, j]
    return y if bias is None else y + bias


def conv_state(x: torch.Tensor, width: int) -> torch.Tensor:
    """The last width - 1 inputs of x [batch, time, channels], zeros before the start: [batch, width - 1, channels]."""
    return F.pad(x, (0, 0, width - 1, 0))[:, x.shape[1] :]


def causal_conv_step(
    x: torch.Tensor, state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """One step: x [rows, channels]; ``state`` [rows, K - 1, channels] is shifted in place."""
    y = x * weight[:, -1]
    for j in range(weight.shape[1] - 1):
        y = torch.addcmul(y, state[:, j], weight[:, j])
    if state.shape[1] > 1:
        state[:, :-1] = state[:, 1:].clone()
    state[:, -1] = x
    return y if bias is None else y + bias
