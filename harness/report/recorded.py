"""The plot and the CSV of recorded counts x measured speed, labelled as such wherever they show."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from harness.report import style
from harness.scoring.recorded import LABEL, Counts, RecordedCurve
from harness.scoring.table import FloatArray

COLUMNS = ("speed", "tokens_per_s", "k", "clock_s", "coverage", "coverage_lo", "coverage_hi", "guess", "kind")


def recorded_plot(
    counts: Counts,
    curves: Mapping[str, RecordedCurve],
    rates: Mapping[str, float],
    tokens_per_sample: float,
    guess: FloatArray | None,
) -> Figure:
    """Coverage against seconds a problem, one curve a speed; ``guess`` (K,) at the curves' ks where golds are known."""
    looks = {name: style.look(i) for i, name in enumerate(curves)}
    legend = [style.handle(f"{name}: {rates[name]:,.0f} tokens/s", looks[name]) for name in curves]
    if guess is not None:
        legend.append(
            Line2D([], [], color=style.GREY, linestyle="--", marker="o", markerfacecolor="white", label="guessing")
        )
    floor = "" if guess is not None else " · no guess curve: name the task with --task"
    fig, (ax,) = style.figure(
        7.5, 5.4, "Coverage by the second", [LABEL],
        f"{counts.source} · {len(counts.samples)} problems, one at a time · {tokens_per_sample:,.0f} tokens billed each"
        f" · shaded: 95 % bootstrap over problems{floor}",
        legend=legend,
    )  # fmt: skip
    for name, curve in curves.items():
        look = looks[name]
        ax.fill_between(curve.clock_s, curve.low, curve.high, color=look.color, alpha=0.13, linewidth=0)
        ax.plot(curve.clock_s, curve.coverage, color=look.color, linestyle=look.line, marker=look.marker, linewidth=2.2)
        if guess is not None:
            ax.plot(
                curve.clock_s, guess, "--", color=look.color, linewidth=1.3, marker=look.marker, markerfacecolor="white"
            )
    ax.set_xscale("log")
    ax.set_ylim(0, 1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("seconds a problem")
    ax.set_ylabel("Coverage (problems)")
    return fig


def write_recorded(
    path: Path, curves: Mapping[str, RecordedCurve], rates: Mapping[str, float], guess: FloatArray | None
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, c in curves.items():
            for i, k in enumerate(c.ks):
                values = (c.clock_s[i], c.coverage[i], c.low[i], c.high[i])
                floor = "" if guess is None else f"{guess[i]:.6g}"
                writer.writerow([name, f"{rates[name]:.6g}", k, *(f"{v:.6g}" for v in values), floor, LABEL])
