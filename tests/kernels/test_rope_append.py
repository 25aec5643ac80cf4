"""Rotation and append in one launch, against the twin in float64 and rope.rotate; nothing else may be written."""

from __future__ import annotations

import pytest
import torch

from harness.kernels import rope_append as op
from harness.kernels.attention_plan import PAGE_TOKENS
from harness.kernels.rope import frequencies, rotate, tables

from .compiling import compile_all, job

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONTEXT = 300
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


class Case:
    """Five slots, four of them rows of the launch; row 2 is at rest; pages in reverse order, pools of NaN."""

    def __init__(self, heads=4, kv_heads=2, dim=32, dtype=torch.float32, index=torch.int64, rope=torch.float32):
        g = torch.Generator().manual_seed(dim + heads)
        self.heads, self.kv_heads, self.dim = heads, kv_heads, dim
        self.generated = torch.tensor([0, 63, 64, 130, 7], dtype=index, device=DEVICE)
        self.running = torch.tensor([True, True, False, True, True], device=DEVICE)
        self.prompt_tokens = torch.tensor([5, 0, 17, 169, 1], dtype=torch.int32, device=DEVICE)
        self.table = torch.arange(14, -1, -1).view(5, 3).to(DEVICE, index)
        qkv = torch.randn(4, (heads + 2 * kv_heads) * dim, generator=g, dtype=torch.float64)
        self.qkv = qkv.to(DEVICE, dtype)
        self.cos, self.sin = (t.to(DEVICE) for t in tables(frequencies(dim, 10000.0), CONTEXT, rope))
        pools = torch.full((2, 15, kv_heads, PAGE_TOKENS, dim), float("nan"), dtype=dtype, device=DEVICE)
        self.k, self.v = pools.unbind()

    def arguments(self, wide=None):
        tensors = (self.qkv, self.cos, self.sin, self.k, self.v)
        tensors = tuple(t.clone() if wide is None else t.to(wide, copy=True) for t in tensors)
        return (*tensors, self.table, self.generated, self.running, self.prompt_tokens)

    def places(self):
        """(row, page, token) of the appended tokens, written out by hand."""
        return [(0, 14, 0), (1, 11, 63), (3, 3, 2)]


def close(got, expected, dtype):
    torch.testing.assert_close(got.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], equal_nan=True)


def test_twin_turns_and_appends_as_rope_says():
    case = Case(heads=6, kv_heads=3, rope=torch.float64)
    args = case.arguments(torch.float64)
    q = op.rope_append_twin(*args)
    split = case.qkv.double().view(4, 12, 32)
    position = [5, 63, 81, 299]
    turned = rotate(split[:, :9], case.cos[position, None], case.sin[position, None])
    assert torch.equal(q, turned[:, :6])
    for row, page, token in case.places():
        assert torch.equal(args[3][page, :, token], turned[row, 6:])
        assert torch.equal(args[4][page, :, token], split[row, 9:])
    for pool in args[3:5]:
        assert pool.isfinite().any(-1).sum() == 3 * case.kv_heads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 32), (3, 1, 64), (8, 8, 32), (4, 2, 96), (32, 8, 64)])
def test_kernel_equals_twin(heads, kv_heads, dim, dtype):
    case = Case(heads, kv_heads, dim, dtype)
    got = case.arguments()
    q = op.rope_append(*got)
    wide = case.arguments(torch.float64)
    close(q, op.rope_append_twin(*wide), dtype)
    close(got[3], wide[3], dtype)
    assert torch.equal(got[4].nan_to_num(), wide[4].nan_to_num().to(dtype))
    behind = case.heads * case.dim
    assert torch.equal(got[0][:, behind:], case.qkv[:, behind:])


def test_index_types_and_wider_rows():
    """int32 tables and counts, and qkv as a part of a wider product."""
    case = Case(index=torch.int32)
    args = list(case.arguments())
    args[0] = torch.nn.functional.pad(args[0], (0, 16), value=float("nan"))[:, :-16]
    q = op.rope_append(*args)
    wide = case.arguments(torch.float64)
    close(q, op.rope_append_twin(*wide), torch.float32)
    close(args[3], wide[3], torch.float32)


def test_positions_and_pages_stop_at_the_last():
    case = Case()
    case.prompt_tokens[3] = CONTEXT
    case.generated[0] = 3 * PAGE_TOKENS + 1
    got, wide = case.arguments(), case.arguments(torch.float64)
    close(op.rope_append(*got), op.rope_append_twin(*wide), torch.float32)
    close(got[3], wide[3], torch.float32)
    assert got[3][12, :, 1].isfinite().all()


def test_compiles():
    pointers = {"qkv": "*bf16", "cos": "*fp32", "sin": "*fp32", "k": "*bf16", "v": "*bf16", "table": "*i32"}
    counts = {"generated": "*i64", "running": "*i1", "prompt_tokens": "*i32"}
    numbers = dict.fromkeys(("qkv_stride", "table_stride", "own_pages", "rope_stride", "context"), "i32")
    constexprs = {"heads": 32, "kv_heads": 8, "dim": 64, "half": 32, "width": 16}
    signature = pointers | counts | numbers
    compile_all([job(op._append, signature, constexprs, capability, num_warps=2) for capability in (80, 90)])
