"""The gate of a SwiGLU MLP (Shazeer, 2020): silu(gate) * up, from the fused gate-up product's output.

silu(g) = g / (1 + exp(-g)). fp32 inside and one rounding at the end; written as two torch operations
the gate is rounded once more in between.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """[rows, inner] from ``gate_up`` [rows, 2 * inner], the gate first; fp32 inside, or float64 where it is."""
    wide = gate_up if gate_up.dtype == torch.float64 else gate_up.float()
    gate, up = wide.chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


@triton.jit
def _swiglu_kernel(out, gate_up, out_stride, stride, inner, block: tl.constexpr):
    # One grid axis, a row's blocks side by side: a prefill may have more rows than a second axis holds.
    blocks = tl.cdiv(inner, block)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * block + tl.arange(0, block)
    inside = column < inner
    source = gate_up + row * stride + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + inner, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


# (block, warps) by bytes of an entry: one 16-byte load a thread of each half. Measured on an H100 alone, in bf16, at 64
# to 1,024 rows of 8,192 (results/h100/small.csv): (1024, 8) is 2 to 4 % better up to 512 rows and 3 % worse at 1,024,
# no other is better by 1 %. fp32 is untuned; other GPUs get the same numbers.
_LAUNCH = {2: (1024, 4), 4: (512, 4)}


def swiglu_triton(
    gate_up: torch.Tensor, out: torch.Tensor | None = None, launch: tuple[int, int] | None = None
) -> torch.Tensor:
    """``swiglu`` in one launch; ``out`` [rows, inner] is made if not given. fp32, bf16 or fp16.

    Rows may lie apart, entries of a row must be contiguous. ``launch`` (block, warps) overrides the table.
    """
    rows, double = gate_up.shape
    inner = double // 2
    y = torch.empty((rows, inner), dtype=gate_up.dtype, device=gate_up.device) if out is None else out
    if double % 2 or y.shape != (rows, inner) or gate_up.stride(1) != 1 or y.stride(1) != 1:
        raise ValueError(
            f"swiglu: gate_up {tuple(gate_up.shape)} strides {gate_up.stride()}, out {tuple(y.shape)} strides "
            f"{y.stride()}; want [rows, 2 * inner] and [rows, inner] with contiguous rows"
        )
    block, warps = launch or _LAUNCH[gate_up.element_size()]
    grid = (rows * triton.cdiv(inner, block),)
    _swiglu_kernel[grid](y, gate_up, y.stride(0), gate_up.stride(0), inner, block=block, num_warps=warps)
    return y
