"""The deferred commit's published kernels beside ours: vLLM's ReplaySSM and FlashInfer's checkpointing_ssu.

    python results/h100/ring_kernels.py --csv ring.csv     (the project installed; one GPU, free of others; exit code 1
                                                            if a rival could not run, which is then said in a line)
    for i in {0..15}; do python results/h100/ring_kernels.py --compile $i 16 & done; wait   (first: on all cores)
    python results/h100/ring_kernels.py --dry-run --rivals replayssm    (in Triton's interpreter, tiny shapes)

All do the same a step: read the state, replay the ring, append this step's input, skip and gate; a K-th of the rows
commits. The convolution is left out of all: ours is the "inner" of ``step_kernels.py``. Left out of the rivals are
their cursors too, which ours works out from the positions in the launch itself. Their recurrence is the continuous
one (dt, softplus, A), for Llamba's shape as well. Sets of states and phases are ``step_kernels.py``'s: rows
stand at all phases evenly, but in "one phase", the mean over launches whose rows all stand at the same one.
A rival's launches are timed one by one; then ours, each rival's own and its fastest are timed in turn, and those
times are the ones kept. Each rival's states are larger than L2, as ours are, and none reads another's.
Before it is timed each rival runs K + 2 steps from random rings at all phases against the plain recurrence in fp32.
A share is the bytes ours must move, over the time and over the larger of this run's copy ceiling and 3.0 TB/s.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import math
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ring_rivals import PADDING, CheckpointingSSU, ReplaySSM, Rival
from step_kernels import SET_BYTES, Cell, Inputs, cells, check, printed_ceiling, sets
from torch.nn.functional import silu, softplus
from triton.runtime.errors import OutOfResources, PTXASError

from harness.bench.ceilings import aside, graph_of, spans
from harness.kernels.mamba2_launch import launch_for

Run = tuple[Cell, torch.dtype, int]  # the state's dtype, K
RIVALS: tuple[type[Rival], ...] = (ReplaySSM, CheckpointingSSU)
LIMIT = 1e-2  # of a row's norm: products, outputs and bf16 states are rounded to 8 bits
ROUNDS, SWEEP_ROUNDS = 40, 7  # on a GPU: of all that are compared; of a launch among those tried, and of one phase


@dataclasses.dataclass
class Captured:
    """A launch of one cell, ready: ``replay`` makes ``steps`` of them, each on a set of states of its own."""

    what: str
    launch: object
    replay: Callable[[], object]
    steps: int


@dataclasses.dataclass
class Side:
    """Ours or a rival's: what is to be timed in turn, and after it the mean over the phases."""

    captured: list[Captured]
    one_phase: Callable[[], float]


def grown(rival: Rival, state: torch.Tensor, x: torch.Tensor, dt: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The plain recurrence: exp(dt A) state + dt x B; x [rows, heads, dim], dt [rows, heads], b [rows, groups, N]."""
    b = b.float().repeat_interleave(rival.cell.shape[0] // rival.cell.groups, 1)
    decayed = state * (dt * rival.a[:, 0, 0]).exp()[..., None, None]
    return decayed.addcmul_((dt[..., None] * x.float())[..., None], b[:, :, None])


def replayed(rival: Rival) -> torch.Tensor:
    """The state that the committed one and the ring stand for, fp32."""
    rows = torch.arange(rival.cell.rows, device=rival.cell.device)
    state, *rings = (t[PADDING:] for t in (rival.state.float(), rival.x_ring, rival.dt_ring, rival.b_ring))
    for entry in range(int(rival.filled().max())):
        at = rival.order(entry).long()
        later = grown(rival, state, *(ring[rows, :, at] for ring in rings))
        state = torch.where((entry < rival.filled())[:, None, None, None], later, state)
    return state


def off_by_row(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative error (Frobenius) among the rows: over all of them, one that is far off would pass."""
    off = (got - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    return off.nan_to_num(math.inf).max().item()


def check_rival(rival: Rival) -> tuple[float, float]:
    """Largest error by row of the output over K + 2 steps and of the state after them; RuntimeError if too large."""
    state, output = replayed(rival), 0.0
    for _ in range(rival.length + 2):
        rival.draw()
        rival.out.fill_(math.nan)
        got = rival.run().float()
        state = grown(rival, state, rival.x, softplus(rival.dt[..., 0].float() + rival.bias[:, 0]), rival.b)
        c = rival.c.float().repeat_interleave(rival.cell.shape[0] // rival.cell.groups, 1)
        y = ((state @ c[..., None])[..., 0] + rival.d * rival.x.float()) * silu(rival.z.float())
        output = max(output, off_by_row(got, y))
        rival.advance()
    after = off_by_row(replayed(rival), state)
    for what, off in (("output", output), ("state", after)):
        if not off < LIMIT:
            where = f"{rival.cell.model}, {rival.state_dtype}, K = {rival.length}"
            raise RuntimeError(f"a row's {what} is off by {off:.1e} at {where}")
    return output, after


def graphed(calls: Sequence[Callable[[], object]], device: torch.device) -> Callable[[], object]:
    """What makes all calls in a row; on a GPU as a graph."""

    def run() -> None:
        for call in calls:
            call()

    if device.type == "cuda":
        with aside(device):
            run()
    return graph_of(run, device)


def in_turn(captured: Sequence[Captured], rounds: int, device: torch.device) -> list[tuple[float, float, float]]:
    """(median, least, most) seconds of a step of each over ``rounds`` rounds, in each of which every one is replayed.

    A round begins one further than the last and goes the other way, so that none always follows the same one; the
    first is not counted.
    """
    order: list[int] = []
    for n in range(rounds + 1):
        turn = [(n + i) % len(captured) for i in range(len(captured))]
        order += reversed(turn) if n % 2 else turn
    taken: list[list[float]] = [[] for _ in captured]
    for which, span in zip(order, spans([captured[which].replay for which in order], device), strict=True):
        taken[which].append(span / captured[which].steps)
    return [(statistics.median(t[1:]), min(t[1:]), max(t[1:])) for t in taken]


def alone(captured: Captured, device: torch.device) -> float:
    ((seconds, _, _),) = in_turn([captured], SWEEP_ROUNDS if device.type == "cuda" else 1, device)
    return seconds


def over_phases(inputs: list[Any], calls: list[Callable[[], object]], cell: Cell, length: int) -> float:
    """Mean seconds of a step whose rows all stand at the same phase."""
    taken = []
    for phase in range(length):
        for i in inputs:
            i.at(torch.full((cell.rows,), phase, device=cell.device))
        taken.append(alone(Captured("", "", graphed(calls, cell.device), len(calls)), cell.device))
    return statistics.mean(taken)


def ours(cell: Cell, state_dtype: torch.dtype, length: int) -> Side:
    """SystemExit where it is not its twin."""
    inputs = sets(cell, state_dtype, length, width=1)
    launch = launch_for(inputs[0].memory, cell.rows)
    print(f"ours: off by {check(inputs[0], launch):.1e} of its twin", flush=True)
    calls: list[Callable[[], object]] = [functools.partial(i.run, launch) for i in inputs]
    captured = [Captured("inner", launch, graphed(calls, cell.device), len(calls))]
    return Side(captured, functools.partial(over_phases, inputs, calls, cell, length))


def of_rival(kind: Callable[..., Rival], cell: Cell, state_dtype: torch.dtype, length: int) -> Side:
    """Its own launch and, where another is faster, the fastest of those tried, both checked."""
    first = kind(cell, state_dtype, length)

    def checked(rival: Rival) -> None:
        print("{}: off by {:.1e}, states {:.1e}, by row".format(rival.name, *check_rival(rival)), flush=True)

    checked(first)
    size = cell.rows * math.prod(cell.shape) * state_dtype.itemsize
    count = min(64, max(2, math.ceil(SET_BYTES / size))) if cell.device.type == "cuda" else 1
    rivals = [kind(cell, state_dtype, length, seed) for seed in range(count)]
    calls: list[Callable[[], object]] = [rival.run for rival in rivals]
    own = best = Captured(first.name, "own", graphed(calls, cell.device), count)
    tried, least, chosen = 1, alone(own, cell.device), None
    for launch, settings in first.launches(cell):
        with first.using(settings), contextlib.suppress(OutOfResources, PTXASError):
            other = Captured("", launch, graphed(calls, cell.device), count)
            tried, seconds = tried + 1, alone(other, cell.device)
            if seconds < least:
                least, best, chosen = seconds, other, settings
    captured = [own]
    if best is not own:
        with first.using(chosen):
            checked(kind(cell, state_dtype, length))
        captured.append(dataclasses.replace(best, what=f"{first.name}, best of {tried}"))

    def one_phase() -> float:
        with first.using(chosen):
            return over_phases(rivals, calls, cell, length)

    return Side(captured, one_phase)


def compile_part(runs: list[Run], part: int, parts: int) -> None:
    """Launch every ``parts``-th of Triton's kernels once; checkpointing_ssu is compiled where it is first called."""
    for n, (cell, state_dtype, length) in enumerate(runs):
        if n % parts == part:
            inputs = Inputs(cell, state_dtype, length, width=1)
            inputs.run(launch_for(inputs.memory, cell.rows))
        rival = ReplaySSM(cell, state_dtype, length)
        launches = [("own", None), *rival.launches(cell)]
        for _, settings in launches[(part - n) % parts :: parts]:
            with rival.using(settings), contextlib.suppress(OutOfResources, PTXASError):
                rival.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; its times mean nothing")
    parser.add_argument("--csv", metavar="FILE", help="write every figure here")
    parser.add_argument("--cells", type=int, nargs="*", default=[0, 1], metavar="N", help="cells of step_kernels.py")
    parser.add_argument("--states", nargs="*", default=["float16", "bfloat16", "float32"], help="state dtypes")
    names = [kind.name for kind in RIVALS]
    parser.add_argument("--rivals", nargs="*", default=names, choices=names, help="beside ours [all]")
    parser.add_argument("--compile", type=int, nargs=2, metavar=("PART", "PARTS"), help="compile a part, time nothing")
    args = parser.parse_args()
    chosen = [cells(args.dry_run)[n] for n in args.cells]
    if args.dry_run:  # in the interpreter tl.dot takes bf16 for integers
        chosen = [dataclasses.replace(cell, dtype=torch.float16) for cell in chosen]
    states = [getattr(torch, state) for state in args.states]
    runs: list[Run] = [(c, s, k) for c in chosen for s in states for k in sorted({c.length(s), 16})]
    if args.compile:
        compile_part(runs, *args.compile)
        return
    ceiling = printed_ceiling(chosen[0].device)
    told: set[str] = set()
    print(f"{'model, rows, state, K':34s} {'us':>7s} {'share':>5s} {'to ours':>8s}", flush=True)
    with open(args.csv or os.devnull, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "rows", "state", "k", "what", "launch", "us", "share"))
        for cell, state_dtype, length in runs:
            key = (cell.model, cell.rows, str(state_dtype).removeprefix("torch."), length)
            sides = [ours(cell, state_dtype, length)]
            for kind in (kind for kind in RIVALS if kind.name in args.rivals):
                try:
                    sides.append(of_rival(kind, cell, state_dtype, length))
                except Exception as failure:  # whatever one raises, the others are still to be timed
                    why = f"{kind.name} cannot run: {type(failure).__name__}: {failure}"[:400].replace("\n", " ")
                    if why not in told:
                        print(f"{why} {key}", flush=True)
                    told.add(why)
            captured = [c for side in sides for c in side.captured]
            times = in_turn(captured, 1 if args.dry_run else ROUNDS, cell.device)
            found = [
                (c.what, c.launch, median, f"; {least * 1e6:.1f} to {most * 1e6:.1f}")
                for c, (median, least, most) in zip(captured, times, strict=True)
            ]
            for side in sides:  # only now: it puts other cursors in the place of those that the graphs read
                found.append((f"{side.captured[0].what}, one phase", side.captured[-1].launch, side.one_phase(), ""))
            for what, launch, seconds, spread in found:
                row = (*key, what, launch, seconds * 1e6, cell.bytes(state_dtype, length, 1) / seconds / ceiling)
                writer.writerow(row)
                shown = f"{seconds * 1e6:7.1f} {row[-1]:5.0%} {seconds / times[0][0]:7.2f}x"
                print(f"{' '.join(map(str, key)):34s} {shown} {what}: {launch}{spread}", flush=True)
            file.flush()
    if told:
        raise SystemExit(f"ring_kernels.py: {len(told)} failures of rivals, each in a line above")


if __name__ == "__main__":
    main()
