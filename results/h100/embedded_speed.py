"""The embedded models on this machine's GPU and on two of its cores: the same command in turn, in one call.

    python results/h100/embedded_speed.py --csv embedded_speed.csv              (the whole budget: 9 minutes)
    python results/h100/embedded_speed.py --csv embedded_speed.csv --seconds 6  (that second of the clock alone: 2)

`harness bench --budget quick`, then again with CUDA_VISIBLE_DEVICES= on two physical cores, --repeats times (3) in
turn. A model's rate is the median of a side's runs, beside their least and most. The command is the same and so is
its --dtype auto, which is bfloat16 on a GPU and float32 on a CPU: a row says which.
--seconds makes both sides stop at that second, chains in flight and all; a chain's tokens count as they come either
way. A run's rate is that of its own report: tokens by that second of the clock, over the seconds until the last chain
had ended. The harness takes one thread for models as small as these; the goal asks for two, so that choice is put
aside here: in one run on an H100's host two threads were 1.4 to 2.9 times as fast as one, on another machine as fast.
--threads 2 1 runs both (half as long again), and the faster counts.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness.budgets.loader import load_budget

CORES = 2  # of the CPU's side
TOPOLOGY = Path("/sys/devices/system/cpu")
# The command line in a process that shares the work of any model among ``threads``.
_WITH_THREADS = """
import os, sys
threads = int(sys.argv.pop(1))
os.cpu_count = lambda: threads
from harness.bench import session
session.SMALL_MODEL_PARAMETERS = 0
from harness.cli import main
main()
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One model by one second: the median rate of ``repeats`` runs, their least and most.

    ``threads`` of the host, on ``cores`` of it (their numbers; empty: all that there are). ``over_cpu``: the median
    over that of the CPU's fastest threads by that second.
    """

    model: str
    device: str
    engine: str
    dtype: str
    threads: int
    cores: str
    second: float
    repeats: int
    tokens_per_s: float
    least: float
    most: float
    over_cpu: float | None = None


def physical_cores(allowed: set[int], count: int = CORES) -> list[int]:
    """The first ``count`` of the CPUs ``allowed`` that are not known to share a core; SystemExit where fewer."""
    found: list[int] = []
    taken: set[int] = set()
    for cpu in sorted(allowed):
        if cpu not in taken:
            found.append(cpu)
            taken |= siblings(cpu)
    if len(found) < count:
        raise SystemExit(f"{len(found)} physical core(s) allowed, of CPUs {sorted(allowed)}; this needs {count}")
    return found[:count]


def siblings_path(cpu: int) -> Path:
    return TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list"


def siblings(cpu: int) -> set[int]:
    """The CPUs of its core, itself among them, as the kernel lists them: "0,64" or "0-1"; itself where it does not."""
    path = siblings_path(cpu)
    text = path.read_text().strip() if path.exists() else str(cpu)
    ends = [part.split("-") for part in text.split(",")]
    return {n for end in ends for n in range(int(end[0]), int(end[-1]) + 1)}


def bench(folder: Path, budget: str, threads: int | None = None, cores: Sequence[int] = ()) -> list[Row]:
    """``harness bench`` into ``folder``; with ``threads`` on ``cores`` and no GPU. SystemExit where it fails."""
    command, environment = [sys.executable, "-m", "harness.cli"], dict(os.environ)
    if threads is not None:
        command = [sys.executable, "-c", _WITH_THREADS, str(threads)]
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}
    chosen = set(cores) or os.sched_getaffinity(0)
    done = subprocess.run(
        [*command, "bench", "--budget", budget, "--run", str(folder)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, chosen),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{done.stdout[-2000:]}\nharness bench: exit code {done.returncode}")
    return read_run(folder, " ".join(map(str, cores)))


def read_run(folder: Path, cores: str) -> list[Row]:
    """The rates of one reported run."""
    manifest, report = (json.loads((folder / f"{name}.json").read_text()) for name in ("manifest", "report"))
    facts = (manifest["device"]["name"], manifest["engine"], manifest["dtype"])
    return [
        Row(b["model"], *facts, manifest["threads"][b["model"]], cores, b["second"], 1, *3 * (b["tokens_per_s"],))
        for b in report["budgets"]
    ]


def median_rows(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """One row for each of a run's, of all the runs of one side; SystemExit where they differ in more than rates."""
    merged = []
    for same in zip(*runs, strict=True):
        rates = [row.tokens_per_s for row in same]
        one = dataclasses.replace(
            same[0], repeats=len(same), tokens_per_s=statistics.median(rates), least=min(rates), most=max(rates)
        )
        if len({dataclasses.astuple(row)[:8] for row in same}) > 1:
            raise SystemExit(f"repeats that differ in more than their rates: {same}")
        merged.append(one)
    return merged


def beside(fast: Sequence[Row], cpu: Sequence[Row]) -> list[Row]:
    """``fast`` with what it is over the fastest of ``cpu``, then ``cpu``; SystemExit where that had no token yet."""
    rates: dict[tuple[str, float], float] = {}
    for row in cpu:
        rates[row.model, row.second] = max(row.tokens_per_s, rates.get((row.model, row.second), 0.0))
    for (model, second), rate in rates.items():
        if rate == 0:
            raise SystemExit(f"{model}: the CPU has no token by {second:g} s; ask for more --seconds")
    return [dataclasses.replace(r, over_cpu=r.tokens_per_s / rates[r.model, r.second]) for r in fast] + list(cpu)


def shortened(budget: str, second: float, folder: Path) -> str:
    """Path of ``budget`` with ``second`` alone, which nothing outlasts."""
    path = folder / "budget.yaml"
    fields = dataclasses.asdict(dataclasses.replace(load_budget(budget), seconds=(second,), drain=False))
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v is not None}
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return str(path)


def shown(run: Sequence[Row]) -> str:
    rates = ", ".join(f"{row.model} {row.tokens_per_s:,.0f} by {row.second:g} s" for row in run)
    return f"{run[0].device}, {run[0].dtype}, threads {run[0].threads}: {rates}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="write the rows here")
    parser.add_argument("--budget", default="quick", help="name or YAML [quick]")
    parser.add_argument("--seconds", type=float, help="this second of the clock instead of the budget's")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="of the CPU's side, on two cores [2]")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, in turn [3]")
    args = parser.parse_args()
    cores = physical_cores(os.sched_getaffinity(0))
    listed = all(siblings_path(cpu).exists() for cpu in cores)
    known = "a physical core each" if listed else "this machine does not say whether they share a core"
    print(f"the CPU's side: on CPUs {cores}, {known}", flush=True)
    runs: dict[int | None, list[list[Row]]] = {threads: [] for threads in (None, *args.threads)}  # None: the GPU's
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        budget = args.budget if args.seconds is None else shortened(args.budget, args.seconds, folder)
        for n in range(args.repeats):
            for threads, done in runs.items():
                done.append(bench(folder / f"{threads}-{n}", budget, threads, () if threads is None else cores))
                print(f"run {n + 1} of {args.repeats}: {shown(done[-1])}", flush=True)
    fast, *cpu = (median_rows(done) for done in runs.values())
    rows = beside(fast, [row for side in cpu for row in side])
    for row in rows:
        over = "" if row.over_cpu is None else f"  {row.over_cpu:6.1f}x the CPU"
        what = f"{row.model:13s} {row.device}, {row.engine}, {row.dtype}, threads {row.threads}, by {row.second:g} s"
        print(f"{what}: {row.tokens_per_s:9,.0f} tokens/s ({row.least:,.0f} to {row.most:,.0f}){over}")
    if args.csv is not None:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(f.name for f in dataclasses.fields(Row))
            writer.writerows(dataclasses.astuple(row) for row in rows)


if __name__ == "__main__":
    main()
