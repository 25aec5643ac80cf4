"""The embedded models on this machine's GPU and on two of its cores: the same command twice, in one call.

    python results/h100/embedded_speed.py --csv embedded_speed.csv              (the whole budget: about 3 minutes)
    python results/h100/embedded_speed.py --csv embedded_speed.csv --seconds 6  (that second of the clock alone: 40 s)

`harness bench --budget quick`, then again with CUDA_VISIBLE_DEVICES= on as many cores as threads. --seconds makes both
sides stop at that second, chains in flight and all; a chain's tokens count as they come either way. A rate is that of
the run's own report: tokens by that second of the clock, over the seconds until the last chain had ended.
The harness takes one thread for models as small as these, as fast as two on idle cores and far faster on busy ones;
the goal asks for two, so that choice is put aside here. --threads 2 1 runs both (30 s more), and the faster counts.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness.budgets.loader import load_budget

CORES = 2  # of the CPU's side
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
    """One model by one second; ``threads`` of the host; ``over_cpu``: its rate over the CPU's best by that second."""

    model: str
    device: str
    engine: str
    threads: int
    second: float
    tokens_per_s: float
    over_cpu: float | None = None


def bench(folder: Path, budget: str, threads: int | None = None) -> list[Row]:
    """``harness bench`` into ``folder``, with ``threads`` on two cores and no GPU; SystemExit where it fails."""
    command, environment, cores = [sys.executable, "-m", "harness.cli"], dict(os.environ), os.sched_getaffinity(0)
    if threads is not None:
        command = [sys.executable, "-c", _WITH_THREADS, str(threads)]
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}
        cores = set(sorted(cores)[:CORES])
    done = subprocess.run(
        [*command, "bench", "--budget", budget, "--run", str(folder)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{done.stdout[-2000:]}\nharness bench: exit code {done.returncode}")
    return read_run(folder)


def read_run(folder: Path) -> list[Row]:
    """The rates of a reported run."""
    manifest, report = (json.loads((folder / f"{name}.json").read_text()) for name in ("manifest", "report"))
    facts = (manifest["device"]["name"], manifest["engine"])
    return [
        Row(b["model"], *facts, manifest["threads"][b["model"]], b["second"], b["tokens_per_s"])
        for b in report["budgets"]
    ]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="write the rows here")
    parser.add_argument("--budget", default="quick", help="name or YAML [quick]")
    parser.add_argument("--seconds", type=float, help="this second of the clock instead of the budget's")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="of the CPU's side, on two cores [2]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        budget = args.budget if args.seconds is None else shortened(args.budget, args.seconds, folder)
        fast = bench(folder / "gpu", budget)
        print(f"{fast[0].device}, {fast[0].engine}: done", flush=True)
        rows = beside(fast, [row for n in args.threads for row in bench(folder / f"cpu-{n}", budget, n)])
    for row in rows:
        over = "" if row.over_cpu is None else f"  {row.over_cpu:6.1f}x the CPU"
        what = f"{row.model:13s} {row.device}, {row.engine}, threads {row.threads}, by {row.second:g} s"
        print(f"{what}: {row.tokens_per_s:9,.0f} tokens/s{over}")
    if args.csv is not None:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(f.name for f in dataclasses.fields(Row))
            writer.writerows(dataclasses.astuple(row) for row in rows)


if __name__ == "__main__":
    main()
