"""The SwiGLU gate: the kernel against its twin in float64, the twin against the layer's own words."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.kernels import swiglu as module
from harness.kernels.swiglu import swiglu, swiglu_triton

from .compiling import compile_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter cuts fp32 off to bf16 where the GPU rounds: there one step of bf16, here half.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2.0 ** (-8 if DEVICE.type == "cuda" else -7), torch.float16: 2.0**-10}


def gate_up(rows, inner, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(rows, 2 * inner, generator=generator)).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize(("rows", "inner"), [(1, 1), (3, 7), (2, 517), (5, 1024), (1, 2049)])
def test_kernel_equals_the_twin_in_float64(rows, inner, dtype):
    x = gate_up(rows, inner, dtype, seed=rows)
    before = x.clone()
    whole = torch.full((rows, inner + 5), float("nan"), dtype=dtype, device=DEVICE)
    out = whole[:, :inner]
    assert swiglu_triton(x, out) is out
    torch.testing.assert_close(out.double(), swiglu(x.double()), rtol=ROUNDING[dtype], atol=1e-6)
    torch.testing.assert_close(out, swiglu(x), rtol=2 * ROUNDING[dtype], atol=1e-6)
    assert whole[:, inner:].isnan().all() and torch.equal(x, before)


def test_twin_is_the_layer_s_gate():
    x = gate_up(4, 33, torch.float64)
    gate, up = x.chunk(2, dim=-1)
    torch.testing.assert_close(swiglu(x), F.silu(gate) * up, rtol=1e-14, atol=0)


def test_saturated_gates():
    # exp overflows on the way to a gate of 0: numpy warns of it in the interpreter, a GPU does not.
    big = torch.tensor([[-1000.0, 1000.0, 0.0, float("nan"), 2.0, 3.0, 4.0, 5.0]], device=DEVICE)
    got = swiglu_triton(big)
    assert got[0, :3].tolist() == [0.0, 3000.0, 0.0] and got[0, 3].isnan()


def test_rows_that_lie_apart_and_any_launch():
    wide = gate_up(3, 120, torch.float32)
    x = wide[:, :200]
    expected = swiglu(x)
    for launch in ((16, 1), (64, 2), (512, 8)):
        torch.testing.assert_close(swiglu_triton(x, launch=launch), expected, rtol=2e-6, atol=1e-6)


def test_shapes_that_do_not_fit_are_refused():
    x = gate_up(2, 8, torch.float32)
    for bad in ((x[:, :15],), (x, x[:, :7]), (x.T,)):
        with pytest.raises(ValueError, match="contiguous rows"):
            swiglu_triton(*bad)


@pytest.mark.parametrize("capability", [80, 90])
def test_kernel_compiles_without_a_gpu(capability):
    block, warps = module._LAUNCH[2]
    signature = dict.fromkeys(("out", "gate_up"), "*bf16") | dict.fromkeys(("out_stride", "stride", "inner"), "i32")
    compile_for(module._swiglu_kernel, signature, {"block": block}, capability, num_warps=warps)
