"""Depthwise causal convolution of a Mamba layer, over sequences and one step at a time.

y_t = b + sum_j w_j x_{t - K + 1 + j}, with x = 0 before the start; the state is the last K - 1 inputs.
``causal_conv`` takes a batch of equal lengths (training), ``causal_conv_packed`` sequences laid end to end (prefill);
``causal_conv_triton`` is the latter in one launch, its activation and the repetition of heads included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from harness.kernels.mamba1_conv import repeat_heads
from harness.kernels.sequences import Sequences


def causal_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [batch, time, channels], weight [channels, K], bias [channels] -> [batch, time, channels]."""
    # A sum of shifted products: as fast as cuDNN's depthwise path forward, much faster backward.
    time = x.shape[1]
    padded = F.pad(x, (0, 0, weight.shape[1] - 1, 0))
    y = padded[:, :time] * weight[:, 0]
    for j in range(1, weight.shape[1]):
        y = y + padded[:, j : j + time] * weight[:, j]
    return y if bias is None else y + bias


def causal_conv_packed(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    sequences: Sequences,
    silu: bool,
    dtype: torch.dtype,
    head: int = 1,
) -> torch.Tensor:
    """[tokens, channels] in ``dtype`` from x [tokens, shared] of ``sequences``; weight [channels, K], bias [channels].

    Where shared < channels, heads of ``head`` channels of x are repeated in place first (MambaInLlama). ``silu``: an
    activation behind it. The plain twin of ``causal_conv_triton``; it computes in ``dtype``.
    """
    x = repeat_heads(x.to(dtype), weight.shape[0], head)
    weight, bias = weight.to(dtype), bias.to(dtype)
    y = torch.cat([causal_conv(x[None, first:end], weight, bias)[0] for first, end in sequences.spans()])
    return F.silu(y) if silu else y


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


# The number of tokens differs from pack to pack: specialised on it, the kernel would be compiled on the clock.
@triton.jit(do_not_specialize=["tokens"])
def _packed_kernel(
    x,
    weight,
    bias,
    position,
    y,
    tokens,
    channels,
    x_stride,
    head: tl.constexpr,
    repeat: tl.constexpr,
    width: tl.constexpr,
    silu: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """``rows`` tokens and ``block`` channels a program; a tap's rows overlap with the next one's and stay in L1."""
    token = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < channels
    shared = channel // (head * repeat) * head + channel % head
    place = tl.load(position + token, mask=token < tokens, other=-1)
    added = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    out = tl.zeros((rows, block), tl.float32) + added[None, :]
    for back in tl.static_range(width):
        live = (place >= back)[:, None] & inside[None, :]
        value = tl.load(x + (token - back)[:, None] * x_stride + shared[None, :], mask=live, other=0.0)
        tap = tl.load(weight + channel * width + (width - 1 - back), mask=inside, other=0.0)
        out += tap.to(tl.float32)[None, :] * value.to(tl.float32)
    if silu:
        out = out * tl.sigmoid(out)
    target = y + token[:, None] * channels + channel[None, :]
    tl.store(target, out.to(y.dtype.element_ty), mask=(token < tokens)[:, None] & inside[None, :])


def causal_conv_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    sequences: Sequences,
    silu: bool,
    dtype: torch.dtype,
    head: int = 1,
    rows: int = 32,
    block: int = 128,
    warps: int = 4,
) -> torch.Tensor:
    """``causal_conv_packed`` in one launch, summed in fp32; the result is made by torch.empty.

    Rows of x may be strided but each lies contiguous. ``rows`` tokens and ``block`` channels a program: 16-byte
    loads, four programs a multiprocessor, and three rows of the last program's read again. Untuned until measured.
    """
    tokens, (channels, width) = x.shape[0], weight.shape
    y = torch.empty(tokens, channels, dtype=dtype, device=x.device)
    _packed_kernel[(triton.cdiv(tokens, rows), triton.cdiv(channels, block))](
        x,
        weight,
        bias,
        sequences.position,
        y,
        tokens,
        channels,
        x.stride(0),
        head=head,
        repeat=channels // x.shape[1],
        width=width,
        silu=silu,
        rows=rows,
        block=block,
        num_warps=warps,
    )
    return y
