"""The matrix products of a decode step on a GPU: what cuBLAS makes of them, and a Triton product beside it.

    for i in {0..11}; do python results/h100/product_kernels.py --compile $i 12 & done; wait    (all cores)
    python results/h100/product_kernels.py --csv products.csv

Each shape by itself, ``rows`` x depth times a weight [width, depth] as ``F.linear`` has it, in bf16: median over
replays of a CUDA graph that goes through several weights, together larger than L2, as layers do. Columns: torch.mm
through cuBLAS and through cuBLASLt, with the weight as it is and turned; the best Triton launch, K cut into ``split``
parts that a second launch adds up.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from graph_times import timed
from triton.runtime.errors import OutOfResources, PTXASError

SET_BYTES = 2e8
SHAPES = {  # model: {(depth, width): products of a layer}, and the head
    "llama-3.2-1b": [("qkv", 2048, 3072), ("out", 2048, 2048), ("gate, up", 2048, 16384), ("down", 8192, 2048)],
    "llamba-1b": [("in", 2048, 8224), ("out", 2048, 2048)],
    "mamba2-1.3b": [("in", 2048, 8512), ("out", 4096, 2048)],
    "head": [("head", 2048, 128256)],
}


@triton.jit
def _product_kernel(
    out, a, w, rows, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """out [SPLIT, rows, WIDTH] = a [rows, DEPTH] times w [WIDTH, DEPTH] turned; neighbours share a weight's tile."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.program_id(2) * (DEPTH // SPLIT) + tl.arange(0, BK)
    a_at = a + m[:, None] * DEPTH + k[None, :]
    w_at = w + n[None, :] * DEPTH + k[:, None]
    total = tl.zeros([BM, BN], tl.float32)
    for _ in range(0, DEPTH // SPLIT, BK):
        left = tl.load(a_at, (m < rows)[:, None], 0)
        right = tl.load(w_at, (n < WIDTH)[None, :], 0)
        total = tl.dot(left, right, total)
        a_at += BK
        w_at += BK
    at = (tl.program_id(2) * rows + m[:, None]) * WIDTH + n[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), (m < rows)[:, None] & (n < WIDTH)[None, :])


@triton.jit
def _sum_kernel(out, parts, size, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(SPLIT):
        total += tl.load(parts + part * size + at, at < size, 0)
    tl.store(out + at, total.to(out.dtype.element_ty), at < size)


@dataclasses.dataclass(frozen=True)
class Launch:
    bm: int
    bn: int
    bk: int
    split: int
    warps: int
    stages: int


def launches(rows: int, depth: int, width: int) -> list[Launch]:
    tiles = [
        (128, 64, 64, 4),
        (128, 128, 64, 4),
        (128, 128, 64, 8),
        (256, 64, 64, 8),
        (256, 128, 64, 8),
        (64, 128, 64, 4),
    ]
    found = []
    for (bm, bn, bk, warps), split, stages in itertools.product(tiles, (1, 2, 4, 8), (3, 4, 5)):
        programs = -(-rows // bm) * -(-width // bn) * split
        if (split == 1 or programs <= 600) and (depth // split) % bk == 0 and programs >= 60:
            found.append(Launch(bm, bn, bk, split, warps, stages))
    return found


def run(a: torch.Tensor, w: torch.Tensor, out: torch.Tensor, launch: Launch) -> None:
    (rows, depth), width, s = a.shape, w.shape[0], launch.split
    parts = out if s == 1 else torch.empty(s, rows, width, dtype=torch.float32, device=a.device)
    grid = (triton.cdiv(rows, launch.bm), triton.cdiv(width, launch.bn), s)
    _product_kernel[grid](
        parts, a, w, rows, width, depth, launch.bm, launch.bn, launch.bk, s,
        num_warps=launch.warps, num_stages=launch.stages,
    )  # fmt: skip
    if s > 1:
        _sum_kernel[(triton.cdiv(rows * width, 2048),)](out, parts, rows * width, s, 2048, num_warps=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", metavar="FILE")
    parser.add_argument("--rows", type=int, nargs="*", default=[256, 512])
    parser.add_argument("--compile", type=int, nargs=2, metavar=("PART", "PARTS"), help="compile a part, time nothing")
    args = parser.parse_args()
    device = torch.device("cuda")
    lines = []
    for (model, shapes), rows in itertools.product(SHAPES.items(), args.rows):
        for what, depth, width in shapes:
            count = max(2, min(16, int(SET_BYTES / (2 * depth * width)) + 1))
            a = torch.randn(rows, depth, device=device, dtype=torch.bfloat16)
            weights = [torch.randn(width, depth, device=device, dtype=torch.bfloat16) for _ in range(count)]
            out = torch.empty(rows, width, device=device, dtype=torch.bfloat16)
            if args.compile:
                for launch in launches(rows, depth, width)[args.compile[0] :: args.compile[1]]:
                    try:
                        run(a, weights[0], out, launch)
                    except (OutOfResources, PTXASError):
                        continue
                continue
            found: dict[str, float] = {}
            for library in ("cublas", "cublaslt"):
                torch.backends.cuda.preferred_blas_library(library)
                found[library] = timed([functools.partial(torch.mm, a, w.t(), out=out) for w in weights], device)
                turned = [w.t().contiguous() for w in weights]
                found[f"{library}, turned"] = timed(
                    [functools.partial(torch.mm, a, w, out=out) for w in turned], device
                )
                del turned
            expected = torch.mm(a, weights[0].t()).float()
            best: tuple[float, Launch | None] = (float("inf"), None)
            for launch in launches(rows, depth, width):
                calls: list[Callable[[], object]] = [functools.partial(run, a, w, out, launch) for w in weights]
                try:
                    calls[0]()
                    off = ((out.float() - expected).norm() / expected.norm()).item()
                    assert off < 1e-2, f"{launch} is off by {off}"
                    best = min(best, (timed(calls, device), launch), key=lambda b: b[0])
                except (OutOfResources, PTXASError):
                    continue
            found["triton"] = best[0]
            flop = 2.0 * rows * depth * width
            text = "  ".join(f"{n} {s * 1e6:7.1f} us {flop / s / 1e12:4.0f}" for n, s in found.items())
            print(f"{model:13s} {what:9s} {rows} x {depth} x {width}: {text}  {best[1]}", flush=True)
            lines += [(model, what, rows, depth, width, n, s * 1e6, flop / s / 1e12) for n, s in found.items()]
            del a, weights, out
    if args.csv and not args.compile:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("model", "product", "rows", "depth", "width", "how", "us", "tflop_per_s"))
            writer.writerows(lines)


if __name__ == "__main__":
    main()
