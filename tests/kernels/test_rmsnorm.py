"""RMSNorm with the residual's addition: the kernel against its twin in float64, the twin against the layer."""

from __future__ import annotations

import pytest
import torch

from harness.kernels import rmsnorm as module
from harness.kernels.rmsnorm import Unscaled, rmsnorm, rmsnorm_triton
from harness.models.layers import RMSNorm

from .compiling import compile_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS = 1e-5
# Triton's interpreter cuts fp32 off to bf16 where the GPU rounds: there one step of bf16, here half.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2.0 ** (-8 if DEVICE.type == "cuda" else -7), torch.float16: 2.0**-10}
KINDS = pytest.mark.parametrize("dtype", list(ROUNDING))


def inputs(rows, width, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, residual, weight = (torch.randn(n, width, generator=generator) for n in (rows, rows, 1))
    return (3 * x).to(DEVICE, dtype), (5 * residual + 1).to(DEVICE, dtype), (1 + weight[0] / 3).to(DEVICE, dtype)


def poisoned(rows, width, dtype, pad=3):
    """Rows that lie apart, everything NaN."""
    return torch.full((rows, width + pad), float("nan"), dtype=dtype, device=DEVICE)[:, :width]


@KINDS
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (2, 517), (5, 2048), (1, 3072)])
def test_kernel_equals_the_twin_in_float64(rows, width, dtype):
    x, _, weight = inputs(rows, width, dtype, seed=rows)
    before, out = x.clone(), poisoned(rows, width, dtype)
    assert rmsnorm_triton(x, weight, EPS, out=out) is out
    expected = rmsnorm(x.double(), weight.double(), EPS)
    torch.testing.assert_close(out.double(), expected, rtol=ROUNDING[dtype], atol=1e-6)
    assert torch.equal(x, before)
    assert out.untyped_storage().nbytes() == rows * (width + 3) * x.element_size()
    assert torch.as_strided(out, (rows, 3), (width + 3, 1), width).isnan().all(), "wrote beyond its rows"


@KINDS
@pytest.mark.parametrize(("rows", "width"), [(1, 3), (3, 517), (2, 2048)])
def test_the_branch_is_added_to_the_stream_first(rows, width, dtype):
    x, residual, weight = inputs(rows, width, dtype, seed=rows)
    if dtype == torch.bfloat16:  # sums that bf16 holds, so that the interpreter's cut changes nothing
        x, residual = ((4 * t.clamp(-7, 7)).round() / 4 for t in (x, residual))
    stream = poisoned(rows, width, dtype).copy_(residual)
    got = rmsnorm_triton(x, weight, EPS, stream)
    added = residual + x
    assert torch.equal(stream, added), "the stream is rounded to its dtype, exactly as torch adds"
    # The norm is that of the rounded stream: its error is one rounding, not two.
    expected = rmsnorm(added.double(), weight.double(), EPS)
    torch.testing.assert_close(got.double(), expected, rtol=ROUNDING[dtype], atol=1e-6)
    twin_stream = residual.clone()
    twin = rmsnorm(x, weight, EPS, twin_stream)
    assert torch.equal(twin_stream, added)
    torch.testing.assert_close(got, twin, rtol=2 * ROUNDING[dtype], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_twin_is_the_layer_and_the_block_s_order(dtype):
    x, residual, weight = (t.to(dtype) for t in inputs(4, 96, torch.float32))
    layer = RMSNorm(96, EPS).to(DEVICE, dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        expected = layer(residual + x)
    rounding = 1e-12 if dtype == torch.float64 else 2 * ROUNDING[dtype]
    torch.testing.assert_close(rmsnorm(x, weight, EPS, residual), expected, rtol=rounding, atol=1e-6)


@KINDS
def test_a_norm_that_is_owed_comes_first(dtype):
    """A product's output still to be divided by its input's root mean square."""
    x, residual, weight = inputs(3, 517, dtype)
    inner = torch.randn(3, 80, generator=torch.Generator().manual_seed(1)).to(DEVICE) * 4
    unscaled = Unscaled(inner.square().unflatten(1, (5, 16)).sum(-1), 80, EPS)
    stream, wide = residual.clone(), residual.double()
    got = rmsnorm_triton(x, weight, EPS, stream, unscaled=unscaled)
    factor = (inner.double().square().mean(1, keepdim=True) + EPS).rsqrt()
    expected = rmsnorm(x.double() * factor, weight.double(), EPS, wide)
    torch.testing.assert_close(stream.double(), wide, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    torch.testing.assert_close(got.double(), expected, rtol=3 * ROUNDING[dtype], atol=3 * ROUNDING[dtype])
    twin_stream = residual.clone()
    twin = rmsnorm(x, weight, EPS, twin_stream, unscaled)
    torch.testing.assert_close(stream, twin_stream, rtol=2 * ROUNDING[dtype], atol=2 * ROUNDING[dtype])
    torch.testing.assert_close(got, twin, rtol=4 * ROUNDING[dtype], atol=4 * ROUNDING[dtype])


def test_large_entries_neither_overflow_nor_lose_the_mean():
    x = torch.full((2, 300), 60000.0, dtype=torch.float16, device=DEVICE)
    x[1] = 1e-3
    weight = torch.ones(300, dtype=torch.float16, device=DEVICE)
    got = rmsnorm_triton(x, weight, EPS)
    torch.testing.assert_close(got.double(), rmsnorm(x.double(), weight.double(), EPS), rtol=2e-3, atol=0)


def test_output_may_overwrite_the_input_and_a_nan_row_stays_alone():
    x, residual, weight = inputs(3, 130, torch.float32)
    x[1, 77] = float("nan")
    expected = rmsnorm(x, weight, EPS, residual.clone())
    got = rmsnorm_triton(x, weight, EPS, residual, out=x)
    assert got is x and got[1].isnan().all()
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_a_row_has_the_same_bits_at_any_batch():
    x, residual, weight = inputs(6, 517, torch.bfloat16)
    whole = rmsnorm_triton(x, weight, EPS, residual.clone())
    assert torch.equal(rmsnorm_triton(x[4:5].clone(), weight, EPS, residual[4:5].clone()), whole[4:5])


def test_shapes_that_do_not_fit_are_refused():
    x, residual, weight = inputs(3, 8, torch.float32)
    for bad in ((x, weight[:7], EPS), (x, weight, EPS, residual[:2]), (x.T, weight[:3], EPS)):
        with pytest.raises(ValueError, match="contiguous rows"):
            rmsnorm_triton(*bad)


@pytest.mark.parametrize("capability", [80, 90])
def test_kernel_compiles_without_a_gpu(capability):
    pointers = dict.fromkeys(("y", "x", "residual", "weight"), "*bf16") | {"squares": "*fp32"}
    scalars = {"eps": "fp32", "inner_eps": "fp32"}
    scalars |= dict.fromkeys(("inner", "y_stride", "x_stride", "residual_stride", "width", "parts"), "i32")
    constexprs = {"block": 4096, "add": True, "part_block": 64}
    compile_for(module._rmsnorm_kernel, pointers | scalars, constexprs, capability, num_warps=module.warps_for(3072))
