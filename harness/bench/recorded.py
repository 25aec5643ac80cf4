"""``harness curves``: published per-problem counts drawn against the seconds that a measured speed makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from harness.bench.job import gold_classes
from harness.records import InputError
from harness.report.recorded import recorded_plot, write_recorded
from harness.report.style import save
from harness.scoring.guess import guess_at_k
from harness.scoring.recorded import LABEL, read_counts, recorded_curve
from harness.scoring.table import FloatArray
from harness.tasks.loader import load_task


def draw_recorded(
    counts_path: Path,
    speeds: Sequence[str],
    tokens_per_sample: float,
    task_name: str | None,
    out: Path,
    console: Console,
) -> None:
    """Write ``coverage.png`` and ``coverage.csv`` into ``out`` and print the curve of each speed."""
    rates = _rates(speeds)
    counts = read_counts(counts_path)
    curves = {name: recorded_curve(counts, rate, tokens_per_sample) for name, rate in rates.items()}
    guess: FloatArray | None = None
    if task_name is not None:
        problems = load_task(task_name).problems
        if len(problems) != len(counts.samples):
            raise InputError(f"--task {task_name}: {len(problems)} problems, the counts have {len(counts.samples)}")
        ks = next(iter(curves.values())).ks
        guess = guess_at_k([p.id for p in problems], ks, gold_classes(problems)).mean(axis=0)
    out.mkdir(parents=True, exist_ok=True)
    save(recorded_plot(counts, curves, rates, tokens_per_sample, guess), out / "coverage.png")
    write_recorded(out / "coverage.csv", curves, rates, guess)
    for name, curve in curves.items():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in ("k", "seconds", "coverage %", "guess %"):
            table.add_column(header, justify="right")
        for i, k in enumerate(curve.ks):
            floor = "–" if guess is None else f"{100 * guess[i]:.2f}"
            table.add_row(str(k), f"{curve.clock_s[i]:.3g}", f"{100 * curve.coverage[i]:.2f}", floor)
        console.print(f"{name}: {rates[name]:,.0f} tokens/s ({LABEL})", highlight=False, markup=False)
        console.print(table)
    console.print(f"files: {out}/coverage.png, coverage.csv", highlight=False, markup=False)


def _rates(speeds: Sequence[str]) -> dict[str, float]:
    """``NAME=TOKENS_PER_S``, or the number alone, which then is its name."""
    rates: dict[str, float] = {}
    for text in speeds:
        name, _, number = text.rpartition("=")
        name = name or f"{number} tokens/s"
        try:
            rate = float(number)
        except ValueError:
            raise InputError(f"--throughput {text!r}: give tokens per second, or NAME=tokens per second") from None
        if name in rates:
            raise InputError(f"--throughput {text!r}: {name} is named twice; name each once")
        rates[name] = rate
    return rates
