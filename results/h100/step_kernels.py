"""The Mamba-2 decode step on a GPU: checks at full shapes, a sweep of launch parameters, and the rivals beside it.

    python results/h100/step_kernels.py --csv step.csv       (the project installed; one GPU, free of others)
    python results/h100/step_kernels.py --cells 0 1          (the two shapes with goals alone)
    for i in {0..11}; do python results/h100/step_kernels.py --compile $i 12 & done; wait     (first: on all cores)
    python results/h100/step_kernels.py --dry-run            (tiny shapes in Triton's interpreter, no timings)

Every time is a median over replays of a CUDA graph that goes through several sets of states, together far larger
than L2. A step's rows stand at all phases of the commit evenly, as samples of a problem do, so each launch holds
its share of commits; ``one phase`` is the mean over launches whose rows all stand at the same one.
"inner" leaves the convolution out (width 1): state, ring, skip, gate, what selective_state_update does.
A share is the bytes the step must move (commit and ring amortised) over its time and over the larger of the copy
ceiling of this run and 3.0 TB/s.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import itertools
import math
import os
import statistics

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from graph_times import printed_ceiling, timed
from step_rivals import conv_update, selective_state_update
from triton.runtime.errors import OutOfResources, PTXASError

from harness.kernels.mamba2_launch import Launch, default_launch, launch_for
from harness.kernels.mamba2_ring import Memory, Rows, ring_length
from harness.kernels.mamba2_step import Mixer, mamba2_step, mamba2_step_triton

SET_BYTES = 1.2e9  # all sets of states together at least: what L2 (50 MB) may keep of them is 4 %
PROMPT = 128


@dataclasses.dataclass(frozen=True)
class Cell:
    """One layer's step for ``rows`` rows; x, B and C as wide as ``shape`` (heads, dim, N) and ``groups`` say."""

    model: str
    shape: tuple[int, int, int]
    groups: int
    discrete: bool
    rows: int
    device: torch.device
    normed: bool = False
    dtype: torch.dtype = torch.bfloat16

    @property
    def inner(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def parts(self) -> tuple[int, int, int]:
        return self.inner, self.groups * self.shape[2], self.groups * self.shape[2]

    def length(self, state_dtype: torch.dtype) -> int:
        return ring_length(self.shape, sum(self.parts[:2]), state_dtype, self.dtype)

    def bytes(self, state_dtype: torch.dtype, length: int, width: int) -> float:
        """What one step must move, on average over the phases; a convolution of width 1 has no past."""
        item, heads = self.dtype.itemsize, self.shape[0]
        entry = sum(self.parts[:2]) * item + (4 if self.discrete else 8) * heads
        ring = entry * ((length - 1) / 2 + 1 - 1 / length)
        past = sum(self.parts) * item * (width if width > 1 else 0)
        ends = (sum(self.parts) + 2 * self.inner + heads) * item
        return self.rows * (math.prod(self.shape) * state_dtype.itemsize * (1 + 1 / length) + ring + past + ends)


def cells(dry: bool) -> list[Cell]:
    if dry:
        cpu = torch.device("cpu")
        return [Cell("dry-1", (2, 8, 16), 2, True, 3, cpu), Cell("dry-2", (4, 8, 16), 1, False, 3, cpu, normed=True)]
    gpu = torch.device("cuda")
    llamba, mamba2 = ("llamba-1b", (32, 64, 64), 32, True), ("mamba2-1.3b", (64, 64, 128), 1, False)
    return [
        Cell(*llamba, 512, gpu),
        Cell(*mamba2, 256, gpu, normed=True),
        Cell("llamba-3b", (32, 96, 64), 32, True, 256, gpu),
        Cell(*llamba, 64, gpu),
        Cell(*mamba2, 32, gpu, normed=True),
    ]


class Inputs:
    """Weights, memory and projections of a cell; every row ran long enough to have committed."""

    def __init__(
        self, cell: Cell, state_dtype: torch.dtype, length: int, width: int = 4, seed: int = 0, normed: bool = False
    ) -> None:
        self.cell, self.state_dtype, self.length, self.width = cell, state_dtype, length, width
        g = torch.Generator(cell.device).manual_seed(seed)
        heads, channels, rows = cell.shape[0], sum(cell.parts), cell.rows

        def random(*size: int, dtype: torch.dtype = cell.dtype) -> torch.Tensor:
            return torch.randn(size, generator=g, device=cell.device, dtype=torch.float32).to(dtype)

        exact = torch.float32
        self.mixer = Mixer(
            0,
            (random(width, channels) / 2).t(),
            random(channels),
            random(heads, dtype=exact),
            None if cell.discrete else random(heads, dtype=exact) / 2,
            None if cell.discrete else random(heads, dtype=exact) - 2,
            random(cell.inner) if cell.discrete else None,
            random(cell.inner) if normed else None,
        )
        self.memory = Memory.allocate(
            rows, 1, cell.shape, cell.parts, length, width, cell.discrete, cell.dtype, state_dtype, cell.device
        )
        for t in (self.memory.state, self.memory.conv, self.memory.x, self.memory.b):
            t.copy_(random(*t.shape, dtype=t.dtype))
        self.memory.decay.copy_(-random(*self.memory.decay.shape, dtype=exact).abs().cumsum(1) / 4)
        if self.memory.dt is not None:
            self.memory.dt.copy_(random(*self.memory.dt.shape, dtype=exact).abs())
        self.projected = random(rows, channels + cell.inner + heads)
        self.at(torch.arange(rows, device=cell.device))

    def at(self, phase: torch.Tensor) -> Inputs:
        """Put row s at phase[s] mod K."""
        count = torch.full_like(phase, PROMPT)
        position = count + 8 * self.length
        sample = (phase - position) % self.length
        self.rows = Rows(position, count, sample, torch.full_like(phase, len(phase)), torch.ones_like(phase).bool())
        return self

    def run(self, launch: Launch | None, out: torch.Tensor | None = None) -> torch.Tensor:
        return mamba2_step_triton(self.projected, self.mixer, self.memory, self.rows, out, launch)

    def copy(self) -> Inputs:
        other = object.__new__(Inputs)
        other.__dict__.update(self.__dict__)
        fields = (getattr(self.memory, f.name) for f in dataclasses.fields(Memory))
        other.memory = Memory(*(t if t is None else t.clone() for t in fields))
        return other


def sets(cell: Cell, state_dtype: torch.dtype, length: int, width: int = 4, normed: bool = False) -> list[Inputs]:
    size = cell.rows * math.prod(cell.shape) * state_dtype.itemsize
    count = min(64, max(2, math.ceil(SET_BYTES / size))) if cell.device.type == "cuda" else 1
    return [Inputs(cell, state_dtype, length, width, seed, normed) for seed in range(count)]


def check(inputs: Inputs, launch: Launch | None) -> float:
    """Largest relative error (Frobenius) of the output and of all memory against the twin; exits if it is too large."""
    mine, twin = inputs.copy(), inputs.copy()
    out = torch.full(
        (inputs.cell.rows, inputs.cell.inner), math.nan, dtype=inputs.cell.dtype, device=inputs.cell.device
    )
    got = [mine.run(launch, out), *(getattr(mine.memory, f.name) for f in dataclasses.fields(Memory))]
    y = mamba2_step(twin.projected, twin.mixer, twin.memory, twin.rows)
    expected = [y, *(getattr(twin.memory, f.name) for f in dataclasses.fields(Memory))]
    pairs = [(a.float(), b.float()) for a, b in zip(got, expected, strict=True) if a is not None and a.numel() > 1]
    off = max(((a - b).norm() / b.norm()).nan_to_num(math.inf).item() for a, b in pairs)
    limit = 3e-3 if inputs.cell.device.type == "cuda" else 2e-2  # the interpreter cuts off where the GPU rounds
    if not off < limit:
        raise SystemExit(f"{launch} is off by {off:.1e} at {inputs.cell.model}, {inputs.state_dtype}")
    return off


def launches(inputs: Inputs, search: bool, dry: bool) -> list[Launch]:
    """The table's and the default; to search, every other too that keeps 16 to 64 registers of a tile a thread."""
    cell, state_dtype = inputs.cell, inputs.state_dtype
    _, dim, size = cell.shape
    found = [launch_for(inputs.memory, cell.rows), default_launch(dim, size)]
    swept = itertools.product((16, 32, 64), (32, 64, 128), (1, 2, 4), (96, 128, 168, 255))
    if dry:
        found.append(Launch(4, 8, 2))
    for d, c, warps, registers in swept if search and not dry else ():
        kept = d * size * state_dtype.itemsize // (4 * 32 * warps)  # registers of a thread for its state
        if d <= dim and size // 4 <= c <= size and 16 <= kept <= 64 and kept + 48 <= registers <= 2 * kept + 128:
            found += [Launch(d, c, warps, registers, again) for again in (False, True)]
    return list(dict.fromkeys(found))


def sweep(inputs: list[Inputs], search: bool, dry: bool) -> list[tuple[float, Launch]]:
    """(seconds, launch), the table's first."""
    cell = inputs[0].cell
    out = torch.empty(cell.rows, cell.inner, dtype=cell.dtype, device=cell.device)
    found = []
    for launch in launches(inputs[0], search, dry):
        try:
            found.append((timed([functools.partial(i.run, launch, out) for i in inputs], cell.device), launch))
        except (OutOfResources, PTXASError) as failure:
            print(f"skipped {launch}: {failure}")
    check(inputs[0], min(found, key=lambda f: f[0])[1])
    return found


def compile_part(chosen: list[Cell], states: list[str], part: int, parts: int) -> None:
    """Compile every ``parts``-th launch: run side by side before a sweep, on all cores."""
    for cell, state in itertools.product(chosen, states):
        state_dtype = getattr(torch, state)
        inputs = Inputs(cell, state_dtype, cell.length(state_dtype))
        for launch in launches(inputs, True, False)[part::parts]:
            with contextlib.suppress(OutOfResources, PTXASError):
                inputs.run(launch)


def one_phase(inputs: list[Inputs], launch: Launch) -> list[float]:
    """Seconds of a step whose rows all stand at the same phase, for each; the last one commits."""
    taken = []
    for phase in range(inputs[0].length):
        for i in inputs:
            i.at(torch.full((i.cell.rows,), phase, device=i.cell.device))
        taken.append(timed([functools.partial(i.run, launch) for i in inputs], inputs[0].cell.device))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; its times mean nothing")
    parser.add_argument("--csv", metavar="FILE", help="write every timed launch here")
    parser.add_argument("--cells", type=int, nargs="*", metavar="N", help="cells to time, counted from 0")
    parser.add_argument("--states", nargs="*", default=["float16", "float32"], help="state dtypes")
    parser.add_argument("--no-sweep", action="store_true", help="time the table's and the default launch alone")
    parser.add_argument("--compile", type=int, nargs=2, metavar=("PART", "PARTS"), help="compile a part, time nothing")
    args = parser.parse_args()
    chosen = cells(args.dry_run)
    chosen = [chosen[n] for n in args.cells] if args.cells else chosen
    if args.compile:
        compile_part(chosen, args.states, *args.compile)
        return
    device = chosen[0].device
    ceiling = printed_ceiling(device)
    lines, rows = [], []
    for cell in chosen:
        conv = conv_update(cell, 8, timed) if device.type == "cuda" else None
        for state_dtype in (getattr(torch, s) for s in args.states):
            length = cell.length(state_dtype)
            key = (cell.model, cell.rows, str(state_dtype).removeprefix("torch."), length)

            def note(what: str, seconds: float | None, launch: Launch | None = None, least: float = 0, key=key) -> str:
                share = least / seconds / ceiling if seconds and least else None
                rows.append((*key, what, launch, seconds and seconds * 1e6, share))
                return f"{seconds * 1e6:7.1f} {f'{share:4.0%}' if share else '    '}" if seconds else "      -     "

            inputs = sets(cell, state_dtype, length)
            found = sweep(inputs, not args.no_sweep, args.dry_run)
            least = cell.bytes(state_dtype, length, 4)
            for seconds, launch in found:
                note("step", seconds, launch, least)
            best = min(found, key=lambda f: f[0])[1]
            shown = [note("best step", min(found, key=lambda f: f[0])[0], best, least)]
            phases = one_phase(inputs, best)
            shown.append(note("one phase", statistics.mean(phases), best, least))
            for phase, seconds in enumerate(phases):
                note(f"phase {phase}", seconds, best)
            del inputs
            for what, k, width, normed in (
                ("step and norm", length, 4, True),
                ("inner", length, 1, False),
                ("each step (K = 1)", 1, 4, False),
            ):
                if normed and not cell.normed:
                    shown.append(note(what, None))
                    continue
                inputs = sets(cell, state_dtype, k, width, normed)
                off = check(inputs[0], best)
                print(f"checked {key} {what}: {off:.1e}", flush=True)
                seconds = timed([functools.partial(i.run, best) for i in inputs], device)
                shown.append(note(what, seconds, best, cell.bytes(state_dtype, k, width)))
                count = len(inputs)
                del inputs
            rival = selective_state_update(cell, count, state_dtype, timed) if device.type == "cuda" else None
            shown += [note("selective_state_update", rival), note("causal_conv1d_update", conv)]
            lines.append(f"{' '.join(map(str, key)):34s} {' '.join(shown)}  {best}")
            print(lines[-1], flush=True)
    heads = ("step", "one phase", "with norm", "inner", "K = 1", "mamba_ssm", "conv1d")
    print(f"\n{'model, rows, state, K (us, share)':34s} " + " ".join(f"{h:>12s}" for h in heads) + "  launch")
    print("\n".join(lines))
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("model", "rows", "state", "k", "what", "launch", "us", "share"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
