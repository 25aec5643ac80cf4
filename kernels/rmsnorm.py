"""RMSNorm of the residual stream, with the addition of a branch's output before it in the same launch.

r' = r + x (rounded to r's dtype, as the stream is stored); y = r' / sqrt(mean(r'^2) + eps) * weight,
the mean and the product in fp32, one rounding to y (Zhang and Sennrich, 2019). Without a residual r' = x.
One program holds a row in registers: the row is read once, and the sum's order depends on the width
alone, so a row's result is the same bits at any batch. A branch may come with the norm before its last product still
to be divided by (``Unscaled``): a number for each row, which a product lets through.
"""

from __future__ import annotations

import dataclasses

import torch
import triton
import triton.language as tl


@dataclasses.dataclass(frozen=True, slots=True)
class Unscaled:
    """x must be divided by sqrt(sum of a row's ``squares`` / width + eps); ``squares`` fp32 [rows, parts]."""

    squares: torch.Tensor
    width: int
    eps: float

    def factor(self) -> torch.Tensor:
        """What to multiply by, [rows, 1]."""
        return torch.rsqrt(self.squares.sum(-1, keepdim=True) / self.width + self.eps)


def rmsnorm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    unscaled: Unscaled | None = None,
) -> torch.Tensor:
    """y [rows, width] in x's dtype, from x [rows, width] and ``weight`` [width].

    ``residual`` [rows, width] becomes residual + x, in place. fp32 inside, or float64 where x is.
    """
    if unscaled is not None:
        x = x * unscaled.factor().to(x.dtype if x.dtype == torch.float64 else torch.float32)
    if residual is not None:
        residual.copy_(residual + x)
        x = residual
    wide = x if x.dtype == torch.float64 else x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.to(wide.dtype)).to(x.dtype)


@triton.jit
def _rmsnorm_kernel(
    y, x, residual, weight, squares, eps, inner, inner_eps, y_stride, x_stride, residual_stride, width, parts,
    block: tl.constexpr, add: tl.constexpr, part_block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    # Asked for before the sum needs it, so that its latency hides behind the row's.
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if squares is not None:
        part = tl.arange(0, part_block)
        square = tl.sum(tl.load(squares + row * parts + part, mask=part < parts, other=0.0), axis=0)
        value *= tl.rsqrt(square / inner + inner_eps)
    if add:
        place = residual + row * residual_stride + column
        total = (value + tl.load(place, mask=inside, other=0.0).to(tl.float32)).to(residual.dtype.element_ty)
        tl.store(place, total, mask=inside)
        value = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    tl.store(y + row * y_stride + column, (value * scale * factor).to(y.dtype.element_ty), mask=inside)


# Warps by row length: 16 bytes a thread and load in bf16 up to 2,048 (8 warps x 32 threads x 8 entries), two or four
# such loads above. By width alone, never by rows: warps set the order of the sum. Measured on an H100 alone, in bf16,
# at widths of 2,048 and 3,072 (results/h100/small.csv): 4 to 16 are equal within 3 % up to 512 rows, within 5 % at
# 1,024. Narrower rows and fp32 are untuned; other GPUs get the same numbers.
_WARPS = ((256, 1), (512, 2), (1024, 4))
_WARPS_DEFAULT = 8


def warps_for(width: int) -> int:
    """Warps of a program for rows of ``width`` entries."""
    return next((warps for limit, warps in _WARPS if width <= limit), _WARPS_DEFAULT)


def rmsnorm_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    warps: int | None = None,
    unscaled: Unscaled | None = None,
) -> torch.Tensor:
    """``rmsnorm`` in one launch: same arguments, and ``out`` [rows, width] (may be x), made if not given.

    Rows may lie apart (any row stride); entries of a row must be contiguous. fp32, bf16 or fp16.
    ``warps`` overrides the table.
    """
    rows, width = x.shape
    tensors = [t for t in (x, residual, out) if t is not None]
    if any(t.shape != x.shape or t.stride(1) != 1 for t in tensors) or weight.shape != (width,):
        shapes = ", ".join(f"{tuple(t.shape)} strides {t.stride()}" for t in (*tensors, weight))
        raise ValueError(f"rmsnorm: {shapes}; want x, residual and out alike with contiguous rows, weight [width]")
    y = torch.empty((rows, width), dtype=x.dtype, device=x.device) if out is None else out
    stream = x if residual is None else residual
    squares, parts = (None, 1) if unscaled is None else (unscaled.squares, unscaled.squares.shape[1])
    _rmsnorm_kernel[(rows,)](
        y,
        x,
        stream,
        weight.contiguous(),
        squares,
        eps,
        1 if unscaled is None else unscaled.width,
        0.0 if unscaled is None else unscaled.eps,
        y.stride(0),
        x.stride(0),
        stream.stride(0),
        width,
        parts,
        block=triton.next_power_of_2(width),
        add=residual is not None,
        part_block=triton.next_power_of_2(parts),
        num_warps=warps or warps_for(width),
    )
    return y
