"""The Mamba-1 decode step on a GPU, as the native engine launches it: checks at full shapes and a sweep of launches.

    python results/h100/mamba1_kernels.py --csv mamba1.csv     (the project installed; one GPU, free of others)
    python results/h100/mamba1_kernels.py --quick              (the 3B shape, fp16 states; sweeps for 25 s)
    for i in {0..11}; do python results/h100/mamba1_kernels.py --compile $i 12 & done; wait    (first: on all cores)
    python results/h100/mamba1_kernels.py --dry-run            (tiny shapes in Triton's interpreter, no timings)

Every time is a median over replays of a CUDA graph that goes through several layers' states and weights, together far
larger than L2. x, B, C and z are slices of one projection, as in the engine, dt a tensor of its own. The table's launch
is held to the plain twin, every other to the table's, before it is timed. A share is the bytes a step must move (state
and ring read and written, inputs, output, weights) over its time and over the larger of this run's copy and 3.0 TB/s.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from graph_times import printed_ceiling, timed
from step_kernels import SET_BYTES
from triton.runtime.errors import OutOfResources, PTXASError

from harness.kernels.mamba1_conv import Conv, Places
from harness.kernels.mamba1_step import DEFAULT_LAUNCH, Launch, Mixer, launch_for, mamba1_step, mamba1_step_triton
from harness.models.config import Mamba1Config
from harness.models.shapes import SHAPES

BEGAN = time.monotonic()
QUICK_S = 25.0  # since the imports, which come on top, as does the compilation under way
POSITION = 1000
COLUMNS = ("model", "rows", "state", "what", "launch", "us", "bytes", "tb_per_s", "share")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One layer's step of a grouped mixer for ``rows`` rows."""

    model: str
    config: Mamba1Config
    rows: int
    device: torch.device
    dtype: torch.dtype = torch.bfloat16

    def bytes(self, state_dtype: torch.dtype) -> int:
        """What a step must move, each byte once; a place in the ring is read but for the row that is written."""
        c, item = self.config, self.dtype.itemsize
        row = 2 * c.inner * c.state * state_dtype.itemsize + c.conv * c.raw * item
        row += (2 * c.raw + 4 * c.inner) * item + 4 + 2 * 8  # x, B; dt, C, z, y; its position and places
        return self.rows * row + c.inner * (4 * (c.state + 2) + item * (c.conv + 1))


def cells(dry: bool) -> list[Cell]:
    if dry:
        return [Cell("dry", Mamba1Config(inner=64, dt_rank=4, xb=32, dt_bias_twice=True), 3, torch.device("cpu"))]
    small, large = (SHAPES[name].mamba1 for name in ("mamba-in-llama-1b", "mamba-in-llama-3b"))
    assert small is not None and large is not None
    gpu = torch.device("cuda")
    wide = [Cell("mamba-in-llama-3b", large, rows, gpu) for rows in (128, 280)]
    return [*wide, Cell("mamba-in-llama-1b", small, 256, gpu)]


class Inputs:
    """A layer's weights, pools and projection; every row keeps its state at its own place, padding at the last."""

    def __init__(self, cell: Cell, state_dtype: torch.dtype, seed: int = 0) -> None:
        self.cell, c, rows = cell, cell.config, cell.rows
        g = torch.Generator(cell.device).manual_seed(seed)

        def random(*size: int, dtype: torch.dtype = cell.dtype) -> torch.Tensor:
            return torch.randn(size, generator=g, device=cell.device, dtype=torch.float32).to(dtype)

        exact = torch.float32
        self.mixer = Mixer(
            random(*c.ssm_shape, dtype=exact) / 2,
            random(c.inner, dtype=exact),
            random(c.inner, dtype=exact) / 2 - 1,
            2 if c.dt_bias_twice else 1,
        )
        self.weight, self.bias = random(c.inner, c.conv) / 2, random(c.inner)
        self.ring, self.ssm = random(rows + 1, *c.conv_shape), random(rows + 1, *c.ssm_shape, dtype=state_dtype)
        self.saturated = None
        if state_dtype == torch.float16:
            self.saturated = torch.zeros(1, dtype=torch.int32, device=cell.device)
        projected = random(rows, 2 * c.raw + 2 * c.inner + c.dt_rank)
        x, b, cc, z, _ = projected.split((c.raw, c.raw, c.inner, c.inner, c.dt_rank), dim=-1)
        self.given = (x, random(rows, c.inner), b.unflatten(1, (-1, c.state)), cc.unflatten(1, (-1, c.state)), z)
        own = torch.arange(rows, device=cell.device)
        self.position, self.places = torch.full_like(own, POSITION, dtype=torch.int32), Places(own, own)

    @property
    def conv(self) -> Conv:
        return Conv(self.ring, self.position, self.weight, self.bias)

    def run(self, launch: Launch | None) -> torch.Tensor:
        return mamba1_step_triton(
            *self.given, self.ssm, self.mixer, self.conv, self.places, self.saturated, launch
        )  # fmt: skip

    def copy(self) -> Inputs:
        """With pools of its own."""
        other = object.__new__(Inputs)
        other.__dict__.update(self.__dict__, ring=self.ring.clone(), ssm=self.ssm.clone())
        return other

    def outcome(self, launch: Launch | None, twin: bool = False) -> list[torch.Tensor]:
        """Output and pools behind one step, which leaves these pools as they are."""
        copy = self.copy()
        if twin:
            y = mamba1_step(*copy.given, copy.ssm, copy.mixer, copy.conv, copy.places, copy.saturated)
        else:
            y = copy.run(launch)
        return [y, copy.ring, copy.ssm]


def check(got: list[torch.Tensor], expected: list[torch.Tensor], what: str, limit: float) -> None:
    """Holds the relative error (Frobenius) of output and pools to ``limit``; SystemExit if it is larger."""
    pairs = [(a.float(), b.float()) for a, b in zip(got, expected, strict=True)]
    off = max(((a - b).norm() / b.norm()).nan_to_num(math.inf).item() for a, b in pairs)
    if not off < limit:
        raise SystemExit(f"{what} is off by {off:.1e}")


def launches(cell: Cell, state_dtype: torch.dtype, search: bool) -> list[Launch]:
    """The table's and the default; to search, those too that give a thread 4 to 32 entries, the table's like first.

    On a CPU another one, whose last program has rows and channels to spare.
    """
    table = launch_for(cell.rows, cell.config.inner, state_dtype, cell.device)
    swept = itertools.product((16, 32, 64, 128, 256), (1, 2, 4), (1, 2, 4, 8)) if search else ()
    size = cell.config.state
    found = [Launch(b, r, w) for b, r, w in swept if 4 <= b * size // (32 * w) <= 32]
    if cell.device.type == "cpu":
        found = [Launch(128, 2, 4)]

    def apart(launch: Launch) -> float:
        pairs = zip(dataclasses.astuple(launch), dataclasses.astuple(table), strict=True)
        return sum(abs(math.log2(mine / theirs)) for mine, theirs in pairs)

    return list(dict.fromkeys((table, DEFAULT_LAUNCH, *sorted(found, key=apart))))


def sweep(inputs: list[Inputs], wanted: Iterable[Launch], until: float, limit: float) -> Iterator[tuple[float, Launch]]:
    """(seconds, launch) of what is ready by ``until``, the first in any case and held to the twin by ``limit``."""
    held = inputs[0].copy()  # as it was before anything was timed
    expected: list[torch.Tensor] | None = None
    for launch in wanted:
        if expected is not None and time.monotonic() > until:
            return
        try:
            got = held.outcome(launch)
            what = f"{launch} at {held.cell.model}, {held.ssm.dtype}"
            if expected is None:
                check(got, held.outcome(None, twin=True), what, limit)
                expected = got
            check(got, expected, what, 1e-3)
            yield timed([functools.partial(i.run, launch) for i in inputs], held.cell.device), launch
        except (OutOfResources, PTXASError) as failure:
            print(f"skipped {launch}: {failure}")


def compile_part(chosen: list[tuple[Cell, torch.dtype]], part: int, parts: int) -> None:
    """Compile every ``parts``-th launch: run side by side before a sweep, on all cores."""
    jobs = [(cell, state, launch) for cell, state in chosen for launch in launches(cell, state, True)]
    for (cell, state), some in itertools.groupby(jobs[part::parts], key=lambda job: job[:2]):
        inputs = Inputs(cell, state)
        for _, _, launch in some:
            try:
                inputs.run(launch)
            except (OutOfResources, PTXASError) as failure:
                print(f"skipped {launch}: {failure}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; its times mean nothing")
    parser.add_argument("--csv", metavar="FILE", help="write every timed launch here")
    parser.add_argument("--cells", type=int, nargs="*", metavar="N", help="cells to time, counted from 0")
    parser.add_argument("--states", nargs="*", help="state dtypes [float16 float32]")
    parser.add_argument("--no-sweep", action="store_true", help="time the table's and the default launch alone")
    parser.add_argument("--quick", action="store_true", help=f"3B, fp16 alone; no launch begun past {QUICK_S:g} s")
    parser.add_argument("--compile", type=int, nargs=2, metavar=("PART", "PARTS"), help="compile a part, time nothing")
    args = parser.parse_args()
    every = cells(args.dry_run)
    kept = [every[n] for n in args.cells] if args.cells else every[:2] if args.quick else every
    states = args.states or (["float16"] if args.quick else ["float16", "float32"])
    chosen = [(cell, getattr(torch, state)) for cell in kept for state in states]
    if args.compile:
        compile_part(chosen, *args.compile)
        return
    device = kept[0].device
    ceiling = printed_ceiling(device)
    rows: list[tuple[object, ...]] = []
    for number, (cell, state) in enumerate(chosen):
        now = time.monotonic()
        until = now + (BEGAN + QUICK_S - now) / (len(chosen) - number) if args.quick else math.inf
        count = 1 if device.type == "cpu" else max(2, min(64, math.ceil(2 * SET_BYTES / cell.bytes(state))))
        inputs = [Inputs(cell, state, seed) for seed in range(count)]
        wanted = launches(cell, state, not args.no_sweep)
        found = list(sweep(inputs, wanted, until, 2e-2 if args.dry_run else 3e-3))
        least, kind = cell.bytes(state), str(state).removeprefix("torch.")
        for seconds, launch in found:
            what = "table" if launch == wanted[0] else "default" if launch == DEFAULT_LAUNCH else "swept"
            rate = least / seconds
            rows.append((cell.model, cell.rows, kind, what, launch, seconds * 1e6, least, rate / 1e12, rate / ceiling))
        best = min(found, key=lambda f: f[0])
        texts = [f"{us * 1e6:.1f} us ({least / us / ceiling:.0%}) with {launch}" for us, launch in (found[0], best)]
        print(f"{cell.model} {cell.rows} {kind}: {texts[0]}, the table's; best of {len(found)}: {texts[1]}", flush=True)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)


if __name__ == "__main__":
    main()
