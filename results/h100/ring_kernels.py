"""The deferred commit's published kernels beside ours: vLLM's ReplaySSM and FlashInfer's checkpointing_ssu.

    python results/h100/ring_kernels.py --csv ring.csv    (the project installed; one GPU, free of others; a rival that
                                                           cannot run says why in one line and the others go on)
    for i in {0..8}; do python results/h100/ring_kernels.py --compile $i 9 & done; wait     (first: on all cores)
    python results/h100/ring_kernels.py --dry-run         (ReplaySSM's check in Triton's interpreter, tiny shapes)

All do the same a step: read the state, replay the ring, append this step's input, skip and gate; a K-th of the rows
commits. The convolution is left out of all: ours is the "inner" of ``step_kernels.py``. Left out of the rivals are
their cursors too, which ours works out from the positions in the launch itself. Their recurrence is the continuous
one (dt, softplus, A), for Llamba's shape as well. Graphs, sets of states and phases are ``step_kernels.py``'s: rows
stand at all phases evenly, but in "one phase", the mean over launches whose rows all stand at the same one.
Before it is timed each rival runs K + 2 steps from random rings at all phases against the plain recurrence in fp32.
A share is the bytes ours must move, over the time and over the larger of this run's copy ceiling and 3.0 TB/s.
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
from collections.abc import Callable, Iterator
from typing import Any

import torch
from ring_rivals import PADDING, CheckpointingSSU, ReplaySSM, Rival
from step_kernels import QUOTED_COPY, SET_BYTES, Cell, Inputs, cells, check, copy_ceiling, sets, timed
from torch.nn.functional import silu, softplus
from triton.runtime.errors import OutOfResources, PTXASError

from harness.kernels.mamba2_launch import launch_for

Figures = Iterator[tuple[str, float, object]]  # what, seconds of a step, launch
LIMIT = 3e-2  # of the output's norm: products, outputs and bf16 states are rounded to 8 bits


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


def check_rival(rival: Rival) -> tuple[float, float]:
    """Largest relative (Frobenius) and absolute error of the output over K + 2 steps; RuntimeError if too large."""
    state, relative, absolute = replayed(rival), 0.0, 0.0
    for _ in range(rival.length + 2):
        rival.draw()
        rival.out.fill_(math.nan)
        got = rival.run().float()
        state = grown(rival, state, rival.x, softplus(rival.dt[..., 0].float() + rival.bias[:, 0]), rival.b)
        c = rival.c.float().repeat_interleave(rival.cell.shape[0] // rival.cell.groups, 1)
        y = ((state @ c[..., None])[..., 0] + rival.d * rival.x.float()) * silu(rival.z.float())
        relative = max(relative, ((got - y).norm() / y.norm()).nan_to_num(math.inf).item())
        absolute = max(absolute, (got - y).abs().max().nan_to_num(math.inf).item())
        rival.advance()
    if not relative < LIMIT:
        raise RuntimeError(f"off by {relative:.1e} at {rival.cell.model}, {rival.state_dtype}, K = {rival.length}")
    return relative, absolute


def over_phases(inputs: list[Any], calls: list[Callable[[], object]], cell: Cell, length: int) -> float:
    """Mean seconds of a step whose rows all stand at the same phase."""
    taken = []
    for phase in range(length):
        for i in inputs:
            i.at(torch.full((cell.rows,), phase, device=cell.device))
        taken.append(timed(calls, cell.device))
    for i in inputs:
        i.at(torch.arange(cell.rows, device=cell.device))
    return statistics.mean(taken)


def ours(cell: Cell, state_dtype: torch.dtype, length: int) -> Figures:
    inputs = sets(cell, state_dtype, length, width=1)
    launch = launch_for(inputs[0].memory, cell.rows)
    print(f"ours: off by {check(inputs[0], launch):.1e} of its twin", flush=True)
    calls: list[Callable[[], object]] = [functools.partial(i.run, launch) for i in inputs]
    yield "inner", timed(calls, cell.device), launch
    yield "inner, one phase", over_phases(inputs, calls, cell, length), launch


def of_rival(kind: Callable[..., Rival], cell: Cell, state_dtype: torch.dtype, length: int) -> Figures:
    """Its own launch, then the fastest of those tried."""

    def checked(rival: Rival) -> Rival:
        print("{}: off by {:.1e}, at most {:.1e}".format(rival.name, *check_rival(rival)), flush=True)
        return rival

    size = cell.rows * math.prod(cell.shape) * state_dtype.itemsize
    count = min(64, max(2, math.ceil(SET_BYTES / size))) if cell.device.type == "cuda" else 1
    first = kind(cell, state_dtype, length)
    first.use(None)
    checked(first)
    rivals = [kind(cell, state_dtype, length, seed) for seed in range(count)]
    calls: list[Callable[[], object]] = [rival.run for rival in rivals]
    taken = [(timed(calls, cell.device), "own", None)]
    yield first.name, taken[0][0], "own"
    for launch, settings in first.launches(cell) if cell.device.type == "cuda" else []:
        first.use(settings)
        with contextlib.suppress(OutOfResources, PTXASError):
            taken.append((timed(calls, cell.device), launch, settings))
    seconds, launch, settings = min(taken, key=lambda t: t[0])
    first.use(settings)
    if settings is not None:
        checked(kind(cell, state_dtype, length))
        yield f"{first.name}, best of {len(taken)}", seconds, launch
    yield f"{first.name}, one phase", over_phases(rivals, calls, cell, length), launch
    first.use(None)


def compile_part(runs: list[tuple[Cell, torch.dtype, int]]) -> None:
    """Launch each of Triton's kernels once; checkpointing_ssu is compiled where it is first called."""
    for cell, state_dtype, length in runs:
        inputs, rival = Inputs(cell, state_dtype, length, width=1), ReplaySSM(cell, state_dtype, length)
        inputs.run(launch_for(inputs.memory, cell.rows))
        for _, settings in [("own", None), *rival.launches(cell)]:
            rival.use(settings)
            with contextlib.suppress(OutOfResources, PTXASError):
                rival.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; its times mean nothing")
    parser.add_argument("--csv", metavar="FILE", help="write every figure here")
    parser.add_argument("--cells", type=int, nargs="*", default=[0, 1], metavar="N", help="cells of step_kernels.py")
    parser.add_argument("--states", nargs="*", default=["float16", "bfloat16", "float32"], help="state dtypes")
    parser.add_argument("--compile", type=int, nargs=2, metavar=("PART", "PARTS"), help="compile a part, time nothing")
    args = parser.parse_args()
    chosen = [cells(args.dry_run)[n] for n in args.cells]
    if args.dry_run:  # in the interpreter tl.dot takes bf16 for integers
        chosen = [dataclasses.replace(cell, dtype=torch.float16) for cell in chosen]
    states = [getattr(torch, state) for state in args.states]
    runs = [(c, s, k) for c in chosen for s in states for k in sorted({c.length(s), 16})]
    if args.compile:
        part, parts = args.compile
        compile_part(runs[part::parts])
        return
    ceiling = max(copy_ceiling(chosen[0].device), QUOTED_COPY)
    kinds: dict[str, Callable[..., Figures]] = {
        "ours": ours,
        ReplaySSM.name: functools.partial(of_rival, ReplaySSM),
        CheckpointingSSU.name: functools.partial(of_rival, CheckpointingSSU),
    }
    if args.dry_run:
        del kinds["ours"]  # ``step_kernels.py`` has a dry run of it
    rows: list[tuple] = []
    told: set[str] = set()
    print(f"{'model, rows, state, K':34s} {'us':>7s} {'share':>5s} {'to ours':>8s}", flush=True)
    with open(args.csv or os.devnull, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "rows", "state", "k", "what", "launch", "us", "share"))
        # Rival by rival: where a launch breaks the process, what ran before it is written.
        for (name, figures), (cell, state_dtype, length) in itertools.product(kinds.items(), runs):
            key = (cell.model, cell.rows, str(state_dtype).removeprefix("torch."), length)
            least = cell.bytes(state_dtype, length, 1)
            try:
                for what, seconds, launch in figures(cell, state_dtype, length):
                    rows.append((*key, what, launch, seconds * 1e6, least / seconds / ceiling))
                    writer.writerow(rows[-1])
                    file.flush()
                    beside = next((r[6] for r in rows if r[:5] == (*key, "inner")), math.nan)
                    shown = f"{seconds * 1e6:7.1f} {rows[-1][7]:5.0%} {seconds * 1e6 / beside:7.2f}x"
                    print(f"{' '.join(map(str, key)):34s} {shown} {what}: {launch}", flush=True)
            except (Exception, SystemExit) as failure:  # whatever one raises, the next is still to be timed
                why = f"{name} cannot run: {type(failure).__name__}: {failure}"[:400]
                if why not in told:
                    print(f"{why} {key}", flush=True)
                told.add(why)


if __name__ == "__main__":
    main()
