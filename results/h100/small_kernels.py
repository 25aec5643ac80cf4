"""RMSNorm, SwiGLU and sampling on a GPU: checks at full shapes, times beside torch's, a sweep of launch parameters.

    python results/h100/small_kernels.py --csv small.csv [--sweep]   (the project installed; one GPU, free of others)
    python results/h100/small_kernels.py --dry-run                   (tiny shapes in Triton's interpreter, no timings)

Every time is a median over replays of a CUDA graph that goes through several sets of buffers, together larger
than L2 four times over. A share is the bytes a call must move over its time and over the larger of the copy
ceiling of this run and 3.0 TB/s. Logits: ``flat`` are normal with deviation 1, as random weights give them;
``peaked`` have a deviation of 3 and twenty entries some 15 higher, as a trained model's do.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import os
import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import triton
from triton.runtime.errors import OutOfResources

from harness.kernels.random_words import row_words, seed_words
from harness.kernels.rmsnorm import rmsnorm, rmsnorm_triton
from harness.kernels.sample import Partials, draw_triton, pieces_for, sample
from harness.kernels.sample_filter import filter_triton
from harness.kernels.sample_step import SampleRows, Sampling, sample_rows, sample_step, sample_step_triton
from harness.kernels.swiglu import swiglu, swiglu_triton

QUOTED_COPY = 3.0e12  # bytes/s, read and written, of an H100 80GB HBM3
SET_BYTES = 2e8  # all sets of buffers together at least: four times the 50 MB of L2
CALLS, REPLAYS = 24, 20
SAMPLINGS = {  # temperature, top_k, top_p
    "greedy": (0.0, 0, 1.0),
    "plain": (0.8, 0, 1.0),
    "top-k 50": (0.8, 50, 1.0),
    "top-p 0.95": (0.8, 0, 0.95),
    "top-k 50, top-p 0.95": (0.8, 50, 0.95),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    rows: tuple[int, ...]
    widths: tuple[int, ...]
    inner: int
    vocab: int
    checks: int  # steps of sampling compared with the twin
    dtype: torch.dtype


FULL = Sizes((64, 256, 512, 1024), (2048, 3072), 8192, 128256, 8, torch.bfloat16)
DRY = Sizes((2,), (48,), 40, 300, 1, torch.float32)


@dataclasses.dataclass(frozen=True)
class Line:
    """One timing: ``bytes`` that the call must move, ``seconds`` None in a dry run."""

    kernel: str
    shape: str
    launch: str
    bytes: int
    seconds: float | None


class Bench:
    """Makes inputs and times calls on one device; keeps the lines."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.generator = torch.Generator(device).manual_seed(1)
        self.lines: list[Line] = []
        self.ceiling = QUOTED_COPY

    def normal(self, *shape: int, spread: float = 1.0) -> torch.Tensor:
        values = torch.randn(shape, generator=self.generator, device=self.device) * spread
        return values.to(self.sizes.dtype)

    def logits(self, rows: int, kind: str) -> torch.Tensor:
        values = self.normal(rows, self.sizes.vocab, spread=1.0 if kind == "flat" else 3.0)
        if kind == "peaked":
            top = torch.randint(0, self.sizes.vocab, (rows, 20), generator=self.generator, device=self.device)
            values.scatter_add_(1, top, self.normal(rows, 20, spread=2.0) + 15)
        return values

    def sets(self, bytes_each: int) -> int:
        return 1 if self.device.type == "cpu" else min(CALLS, max(2, int(SET_BYTES / bytes_each) + 1))

    def time(self, call: Callable[[int], object], before: Callable[[], object] = lambda: None) -> float | None:
        """Seconds a call, over calls 0, 1, ... of a graph; runs it once where there is no GPU."""
        if self.device.type == "cpu":
            before()
            call(0)
            return None
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(3):
                call(i)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(CALLS):
                call(i)
        times = []
        for _ in range(REPLAYS):
            before()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) * 1e-3 / CALLS)
        return statistics.median(times)

    def add(
        self,
        kernel: str,
        shape: str,
        launch: str,
        moved: int,
        call: Callable[[int], object],
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Time a call and print its line; a launch that the device cannot hold is named and left out."""
        try:
            seconds = self.time(call, before)
        except OutOfResources as error:
            print(f"{kernel:32s} {shape:16s} {launch:18s} does not fit: {error}")
            return
        line = Line(kernel, shape, launch, moved, seconds)
        self.lines.append(line)
        print(self.text(line), flush=True)

    def text(self, line: Line) -> str:
        head = f"{line.kernel:32s} {line.shape:16s} {line.launch:18s}"
        if line.seconds is None:
            return f"{head} not timed"
        return f"{head} {line.seconds * 1e6:8.1f} us {line.bytes / line.seconds / self.ceiling:6.1%}"

    def measure_ceiling(self) -> None:
        """The larger of a device-to-device copy of 1 GiB in this run and the quoted one."""
        size = 2**30 if self.device.type == "cuda" else 2**10
        source, target = (torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(2))
        source.random_(generator=self.generator)
        seconds = self.time(lambda i: target.copy_(source))
        if seconds is not None:
            self.ceiling = max(2 * size / seconds, QUOTED_COPY)
            print(f"copy ceiling {2 * size / seconds / 1e12:.2f} TB/s")


def running_rows(rows: int, bench: Bench, eos: tuple[int, ...] = ()) -> SampleRows:
    state = sample_rows(rows, 64, list(eos), bench.device)
    state.problem.copy_(torch.randint(-(2**62), 2**62, (rows,), generator=torch.Generator().manual_seed(rows)))
    state.sample.copy_(torch.arange(rows))
    state.ended.fill_(False)
    return state


def check(bench: Bench) -> None:
    """Every kernel against its twin at the largest shapes; raises where one is wrong."""
    s = bench.sizes
    rounding = {torch.bfloat16: 2.0**-8, torch.float32: 3e-6}[s.dtype]
    for width, rows in itertools.product(s.widths, s.rows[-2:]):
        x, weight, stream = bench.normal(rows, width), bench.normal(width), bench.normal(rows, width, spread=4)
        for residual in (None, stream):
            got = None if residual is None else residual.clone()
            y = rmsnorm_triton(x, weight, 1e-5, got, out=torch.full_like(x, float("nan")))
            added = x if residual is None else residual + x
            expected = rmsnorm(added.double(), weight.double(), 1e-5)
            torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=1e-6)
            assert got is None or torch.equal(got, added)
    gate_up = bench.normal(s.rows[-1], 2 * s.inner, spread=3)
    out = swiglu_triton(gate_up, out=torch.full_like(gate_up[:, : s.inner], float("nan")).contiguous())
    torch.testing.assert_close(out.double(), swiglu(gate_up.double()), rtol=rounding, atol=1e-6)
    print("rmsnorm, swiglu: equal to the float64 twins")
    rows = s.rows[min(2, len(s.rows) - 1)]
    for kind, (name, (temperature, top_k, top_p)) in itertools.product(("flat", "peaked"), SAMPLINGS.items()):
        logits, state = bench.logits(rows, kind), running_rows(rows, bench, (s.vocab - 1,))
        sampling = Sampling(7, temperature, top_k, top_p, 1 << 40)
        parted, worst = 0, 0.0
        for _ in range(s.checks):
            state.ended.fill_(False)
            twin = dataclasses.replace(
                state, **{f.name: getattr(state, f.name).clone() for f in dataclasses.fields(state)}
            )
            sample_step(logits, twin, sampling)
            sample_step_triton(logits, state, sampling)
            same = state.token == twin.token
            parted += int((~same).sum())
            at = int(state.step) - 1
            worst = max(worst, float((state.logprobs[at] - twin.logprobs[at])[same].abs().max()))
        print(f"sample, {kind}, {name}: {parted} of {rows * s.checks} tokens part, log probabilities to {worst:.1e}")
        assert parted <= 1 + rows * s.checks // 1000 and worst < 1e-4


def time_norm_and_gate(bench: Bench, sweep: bool) -> None:
    s = bench.sizes
    item = torch.empty((), dtype=s.dtype).element_size()
    for rows, width in itertools.product(s.rows, s.widths):
        moved = 4 * rows * width * item
        sets = [(bench.normal(rows, width), bench.normal(rows, width)) for _ in range(bench.sets(moved))]
        weight, y = bench.normal(width), torch.empty(rows, width, dtype=s.dtype, device=bench.device)
        shape = f"{rows} x {width}"

        def norm(i: int, warps: int | None = None, sets=sets, weight=weight, y=y) -> None:
            x, residual = sets[i % len(sets)]
            rmsnorm_triton(x, weight, 1e-5, residual, out=y, warps=warps)

        def torch_norm(i: int, sets=sets, weight=weight) -> None:
            x, residual = sets[i % len(sets)]
            F.rms_norm(residual.add_(x), weight.shape, weight, 1e-5)

        bench.add("rmsnorm + residual", shape, "table", moved, norm)
        bench.add("rmsnorm + residual, torch", shape, "", moved, torch_norm)
        for warps in (1, 2, 4, 8, 16) if sweep else ():
            bench.add("rmsnorm + residual", shape, f"warps {warps}", moved, lambda i, w=warps, f=norm: f(i, w))
    for rows in s.rows:
        moved = 3 * rows * s.inner * item
        gates = [bench.normal(rows, 2 * s.inner) for _ in range(bench.sets(moved))]
        out, shape = torch.empty(rows, s.inner, dtype=s.dtype, device=bench.device), f"{rows} x {s.inner}"

        def gate(i: int, launch: tuple[int, int] | None = None, gates=gates, out=out) -> None:
            swiglu_triton(gates[i % len(gates)], out, launch)

        def torch_gate(i: int, gates=gates) -> None:
            a, b = gates[i % len(gates)].chunk(2, dim=-1)
            F.silu(a) * b

        bench.add("swiglu", shape, "table", moved, gate)
        bench.add("swiglu, torch", shape, "", moved, torch_gate)
        for launch in [(512, 2), (1024, 2), (1024, 8), (2048, 4), (2048, 8), (4096, 8)] if sweep else ():
            bench.add("swiglu", shape, f"{launch}", moved, lambda i, x=launch, f=gate: f(i, x))


def draw_launches(rows: int, vocab: int) -> Iterator[tuple[int, int]]:
    """(warps, groups a piece)."""
    for warps, programs in itertools.product((1, 2, 4), (1024, 2048, 4096, 8192)):
        yield warps, pieces_for(rows, vocab, programs)


def time_sampling(bench: Bench, sweep: bool) -> None:
    for rows, kind in itertools.product(bench.sizes.rows, ("flat", "peaked")):
        time_draws(bench, rows, kind, sweep)


def time_draws(bench: Bench, rows: int, kind: str, sweep: bool) -> None:
    vocab = bench.sizes.vocab
    moved = rows * vocab * torch.empty((), dtype=bench.sizes.dtype).element_size()
    sets = [bench.logits(rows, kind) for _ in range(bench.sets(moved))]
    state, shape, seed = running_rows(rows, bench), f"{rows} {kind}", seed_words(7)
    counters = state.problem, state.sample, state.generated, state.ended

    def step(i: int, sampling: Sampling) -> None:
        sample_step_triton(sets[i % len(sets)], state, sampling)

    def twin(i: int) -> None:
        words = row_words(7, state.generated, state.sample, state.problem)
        sample(sets[i % len(sets)], words, 0.8)

    def draw(i: int, launch: tuple[int, int] | None = None) -> Partials:
        return draw_triton(sets[i % len(sets)], *counters, state.step, seed, 0.8, launch)

    for name, (temperature, top_k, top_p) in SAMPLINGS.items():
        call = functools.partial(step, sampling=Sampling(7, temperature, top_k, top_p, 1 << 40))
        bench.add(f"sample, {name}", shape, "table", moved, call, state.step.zero_)
    if rows <= 256:  # its noise takes several fp32 copies of the logits
        bench.add("sample, plain, torch twin", shape, "", moved, twin)
    bench.add("draw", shape, "table", moved, draw)
    for launch in sorted(set(draw_launches(rows, vocab))) if sweep else ():
        bench.add("draw", shape, f"{launch}", moved, functools.partial(draw, launch=launch))
    partials = [draw(i) for i in range(len(sets))]

    def redraw(i: int, launch: tuple[int, int]) -> None:
        k = i % len(sets)
        filter_triton(partials[k], sets[k], *counters, seed, 0.8, 0, 0.95, launch)

    for pair in ((2048, 8), (4096, 8), (4096, 16), (8192, 16), (8192, 32)) if sweep else ():
        bench.add("filter, top-p 0.95", shape, f"{pair}", moved, functools.partial(redraw, launch=pair))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", help="write every line here too")
    parser.add_argument("--sweep", action="store_true", help="time other launch parameters beside the tables'")
    parser.add_argument("--only", choices=("check", "norm", "sample"), help="one part")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, no timings")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.dry_run:
        parser.error("no GPU here; --dry-run goes through everything in Triton's interpreter")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, interpreted"
    print(f"{name}, torch {torch.__version__}, triton {triton.__version__}")
    bench = Bench(DRY if given.dry_run else FULL, device)
    parts = {"check": check, "norm": time_norm_and_gate, "sample": time_sampling}
    bench.measure_ceiling()
    for part, go in parts.items():
        if given.only in (None, part):
            check(bench) if part == "check" else go(bench, given.sweep)
    if given.csv:
        with open(given.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("kernel", "shape", "launch", "bytes", "us", "share_of_copy", "device"))
            for line in bench.lines:
                us = "" if line.seconds is None else f"{line.seconds * 1e6:.2f}"
                share = "" if line.seconds is None else f"{line.bytes / line.seconds / bench.ceiling:.4f}"
                writer.writerow((line.kernel, line.shape, line.launch, line.bytes, us, share, name))


if __name__ == "__main__":
    main()
