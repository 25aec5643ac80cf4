"""Decode attention on a GPU: checks at full shapes, a sweep of launch parameters, and the rivals beside it.

    python results/h100/attention_kernels.py --csv attention.csv      (the project installed; one GPU, free of others)
    python results/h100/attention_kernels.py --dry-run                (tiny shapes in Triton's interpreter, no timings)

Every time is a median over replays of a CUDA graph that goes through several sets of pools, together far
larger than L2. A share is the KV bytes a launch must read (a shared prompt's once) over its time and over the
larger of the copy ceiling of this run and 3.0 TB/s. Rivals: FlashAttention 3 as vLLM calls it, over the same
pages (left out where vLLM is not installed), and torch's SDPA over contiguous keys as a floor.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterator

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from attention_rivals import flash_attention_3, sdpa
from graph_times import printed_ceiling, timed
from triton.runtime.errors import OutOfResources

from harness.kernels import attention_decode as op
from harness.kernels.attention_plan import PAGE_TOKENS, Launch, Plan, plan, plan_with, prompt_tiles, tile_count
from harness.kernels.rope import frequencies, tables
from harness.kernels.rope_append import rope_append, rope_append_twin

SET_BYTES = 2.5e9  # all sets of pools together at least: what L2 (50 MB) may keep of them is 2 %


@dataclasses.dataclass(frozen=True)
class Cell:
    """``rows`` rows of one layer; ``sharing`` rows have the same prompt."""

    model: str
    heads: int
    kv_heads: int
    dim: int
    rows: int
    prompt: int
    generated: int
    sharing: int = 1
    dtype: torch.dtype = torch.bfloat16

    @property
    def name(self) -> str:
        shared = f", {self.sharing} share" if self.sharing > 1 else ""
        return f"{self.model} {self.rows} x ({self.prompt} + {self.generated}{shared})"

    @property
    def members(self) -> int:
        return 64 // (self.heads // self.kv_heads)

    @property
    def kv_bytes(self) -> int:
        tokens = self.rows * self.generated + self.rows // self.sharing * self.prompt
        return 2 * tokens * self.kv_heads * self.dim * torch.empty((), dtype=self.dtype).element_size()


LLAMA_1B, LLAMA_3B = ("llama-3.2-1b", 32, 8, 64), ("llama-3.2-3b", 24, 8, 128)
CELLS = [
    Cell(*LLAMA_1B, 256, 128, 1024),
    Cell(*LLAMA_1B, 512, 128, 2048),
    Cell(*LLAMA_1B, 256, 128, 4096),
    Cell(*LLAMA_1B, 64, 128, 1024),
    Cell(*LLAMA_1B, 1, 128, 4096),
    Cell(*LLAMA_1B, 256, 128, 1024, sharing=64),
    Cell(*LLAMA_1B, 256, 1024, 1024, sharing=64),
    Cell(*LLAMA_3B, 128, 128, 2048),
]
DRY_CELLS = [
    Cell("dry", 4, 2, 32, 3, 64, 70, dtype=torch.float32),
    Cell("dry", 4, 2, 32, 4, 64, 70, sharing=2, dtype=torch.float32),
]


class Inputs:
    """One set of pools and tables of a cell: own pages in random places, every row at the cell's length (this token
    included) or, ``ragged``, anywhere up to it."""

    def __init__(self, cell: Cell, seed: int, device: torch.device, ragged: bool = False) -> None:
        self.cell, self.device = cell, device
        g = torch.Generator(device).manual_seed(seed)
        rows, own = cell.rows, -(-cell.generated // PAGE_TOKENS)
        self.prompt_pages, count = -(-cell.prompt // PAGE_TOKENS), rows // cell.sharing

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=g, device=device, dtype=cell.dtype)

        page = (cell.kv_heads, PAGE_TOKENS, cell.dim)
        self.q = random(rows, cell.heads, cell.dim)
        self.k, self.v = random(rows * own, *page), random(rows * own, *page)
        self.table = torch.randperm(rows * own, generator=g, device=device).int().view(rows, own)
        top = torch.full((rows,), cell.generated - 1, device=device)
        self.generated = (torch.rand(rows, generator=g, device=device) * cell.generated).long() if ragged else top
        self.running = torch.ones(rows, dtype=torch.bool, device=device)
        self.pools = (random(count * self.prompt_pages, *page), random(count * self.prompt_pages, *page))
        self.seat(torch.arange(rows) % count)

    def seat(self, prompt_of: torch.Tensor) -> None:
        """Say which row reads which prompt, and lay out the tiles."""
        cell, count, device = self.cell, self.cell.rows // self.cell.sharing, self.device
        first, tokens = torch.arange(count) * self.prompt_pages, torch.full((count,), cell.prompt)
        tables = [first[prompt_of].int(), tokens[prompt_of].int()]
        if self.tiles:
            arrays = (prompt_of.numpy(), first.numpy(), tokens.numpy())
            tables += map(torch.from_numpy, prompt_tiles(*arrays, cell.members, self.tiles))
        self.prompt_of = prompt_of
        self.prompts = op.Prompts(*self.pools, *(t.to(device) for t in tables))

    def permute(self, order: torch.Tensor) -> None:
        """Put the rows into other slots: row ``order[i]`` goes to slot i."""
        self.q, self.table, self.generated = (t[order.to(self.device)] for t in (self.q, self.table, self.generated))
        self.seat(self.prompt_of[order])

    @property
    def tiles(self) -> int:
        cell = self.cell
        return tile_count(cell.rows, cell.rows // cell.sharing, cell.members) if cell.sharing > 1 else 0

    def arguments(self) -> tuple:
        return self.q, self.k, self.v, self.table, self.generated, self.running, self.prompts

    def plan(self) -> Plan:
        c = self.cell
        return plan(
            c.rows, c.heads, c.kv_heads, c.dim, c.dtype, c.generated, self.device, self.tiles, prompt_context=c.prompt
        )

    def run(self, p: Plan, out: torch.Tensor | None = None) -> torch.Tensor:
        return op.attention_decode(*self.arguments(), p, out)


def sets(cell: Cell, device: torch.device) -> list[Inputs]:
    count = max(2, math.ceil(SET_BYTES / cell.kv_bytes)) if device.type == "cuda" else 1
    return [Inputs(cell, seed, device) for seed in range(min(count, 128))]


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative error of a row; NaN anywhere is infinite."""
    rows = (got.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return rows.nan_to_num(math.inf).max().item()


def check(cells: list[Cell], device: torch.device) -> None:
    """Against the twins, outputs poisoned, lengths ragged, and rows bitwise equal in other slots; a miss ends it."""
    limits = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
    dtypes = limits if device.type == "cuda" else [torch.float32]
    kinds = {(c.model, c.sharing > 1, c.rows == 1): c for c in cells}.values()
    for base, dtype in itertools.product(kinds, dtypes):
        # Four bytes an element and a long context at once is more than one device holds beside float64 copies.
        cell = dataclasses.replace(base, dtype=dtype, generated=min(base.generated, 1024), rows=min(base.rows, 256))
        inputs = Inputs(cell, 99, device, ragged=True)
        p = inputs.plan()
        out = torch.full((cell.rows, cell.heads * cell.dim), math.nan, dtype=dtype, device=device)
        for poisoned in (p.value, p.top, p.total):
            poisoned.fill_(math.nan)
        off = error(inputs.run(p, out), op.attention_decode_twin(*inputs.arguments()))
        print(f"check {cell.name} {dtype}: relative error {off:.1e}")
        if not off < limits[dtype]:
            raise SystemExit(f"attention_decode is off by {off:.1e} at {cell.name}, {dtype}")
        order = torch.randperm(cell.rows, generator=torch.Generator().manual_seed(1))
        inputs.permute(order)
        if not torch.equal(inputs.run(p), out[order.to(device)]):
            raise SystemExit(f"rows change with their slots at {cell.name}, {dtype}")
        turned = rope_inputs(inputs)
        wide = [t.double() for t in turned[:5]]
        off = error(rope_append(*turned), rope_append_twin(*wide, *turned[5:]))
        off = max(off, *(error(a.flatten(1), b.flatten(1)) for a, b in zip(turned[3:5], wide[3:5], strict=True)))
        if not off < limits[dtype]:
            raise SystemExit(f"rope_append is off by {off:.1e} at {cell.name}, {dtype}")


def rope_inputs(inputs: Inputs) -> list[torch.Tensor]:
    c = inputs.cell
    qkv = torch.randn(c.rows, (c.heads + 2 * c.kv_heads) * c.dim, device=inputs.device, dtype=c.dtype)
    cos, sin = (t.to(inputs.device) for t in tables(frequencies(c.dim, 5e5), c.prompt + c.generated, torch.float32))
    state = [inputs.k, inputs.v, inputs.table, inputs.generated, inputs.running, inputs.prompts.tokens]
    return [qkv, cos, sin, *state]


def neighbours(best: Plan, default: Plan, dry: bool) -> Iterator[list[tuple[Launch, Launch | None]]]:
    """Rounds of a search by one coordinate after another; ``best`` is looked at anew for each."""
    if dry:
        yield [(Launch(2, 64, 4, 3, True), default.tiles)]
        return
    shapes = [(*s, True) for s in itertools.product((32, 64), (2, 4), (2, 3, 4, 5))]
    shapes += [(*s, False) for s in itertools.product((16, 32), (4,), (3, 5))]
    yield [(Launch(default.own.splits, *shape), default.tiles) for shape in shapes]
    yield [(dataclasses.replace(best.own, splits=n), default.tiles) for n in (1, 2, 4, 2 * default.own.splits)]
    if default.tiles:
        shapes = itertools.product((32, 64), (4, 8), (2, 3))
        yield [(best.own, Launch(default.tiles.splits, *shape, True)) for shape in shapes]
        yield [(best.own, dataclasses.replace(best.tiles, splits=n)) for n in (1, 2, 4)]


def sweep(inputs: list[Inputs], search: bool, dry: bool) -> list[tuple[float, Plan]]:
    """(seconds, plan), the planned launches first; a launch whose result is off stops the run."""
    first, device = inputs[0], inputs[0].device
    default, cell = first.plan(), first.cell
    out = first.run(default)
    expected = out.double()
    found = [(timed([lambda i=i: i.run(default, out) for i in inputs], device), default)]
    # The best so far is a plan whose fields follow the search.
    best = dataclasses.replace(default)
    for own, tiles in itertools.chain.from_iterable(neighbours(best, default, dry) if search else ()):
        p = plan_with(own, tiles, (cell.rows, cell.heads, cell.dim), device)
        try:
            off = error(first.run(p, out.fill_(math.nan)), expected)
        except OutOfResources as failure:
            print(f"skipped {own} {tiles or ''}: {failure}")
            continue
        if not off < 2e-2:
            raise SystemExit(f"{own} {tiles} is off by {off:.1e} at {cell.name}")
        found.append((timed([lambda i=i, p=p: i.run(p, out) for i in inputs], device), p))
        fastest = min(found, key=lambda f: f[0])[1]
        best.own, best.tiles = fastest.own, fastest.tiles
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; its times mean nothing")
    parser.add_argument("--csv", metavar="FILE", help="write every timed launch here")
    parser.add_argument("--cells", type=int, nargs="*", metavar="N", help=f"cells to time, 0 to {len(CELLS) - 1}")
    parser.add_argument("--no-sweep", action="store_true", help="time the planned launches alone")
    args = parser.parse_args()
    device = torch.device("cpu" if args.dry_run else "cuda")
    cells = DRY_CELLS if args.dry_run else CELLS
    check(cells, device)
    ceiling = printed_ceiling(device)
    lines, rows = [], []
    for number in args.cells if args.cells else range(len(cells)):
        cell = cells[number]
        inputs = sets(cell, device)
        found = sweep(inputs, not args.no_sweep, args.dry_run)
        append = timed([functools.partial(rope_append, *rope_inputs(i)) for i in inputs[:4]], device)
        rivals = {"flash_attention_3": flash_attention_3(inputs, timed), "sdpa": sdpa(inputs, timed)}
        for seconds, p in found:
            rows.append(
                (cell.name, "attention_decode", p.own, p.tiles, seconds * 1e6, cell.kv_bytes / seconds / ceiling)
            )
        rows += [(cell.name, who, "", "", s * 1e6, cell.kv_bytes / s / ceiling) for who, s in rivals.items() if s]
        rows.append((cell.name, "rope_append", "", "", append * 1e6, ""))
        best, p = min(found, key=lambda f: f[0])
        shown = [found[0][0], best, *rivals.values()]
        figures = "  ".join(
            f"{s * 1e6:7.1f} {cell.kv_bytes / s / ceiling:4.0%}" if s else "           -" for s in shown
        )
        lines.append(f"{cell.name:44s}  {figures}  {append * 1e6:6.1f}  {p.own} {p.tiles or ''}")
        del inputs
    print(
        f"{'cell (us, share)':44s}  {'planned':>12s}  {'best':>12s}  {'FA3':>12s}  {'SDPA':>12s}  append  best launch"
    )
    print("\n".join(lines))
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("cell", "kernel", "own", "tiles", "us", "share"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
