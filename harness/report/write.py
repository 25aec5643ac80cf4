"""One call from a run to everything a reader gets: files, figures, and the table as text.

What must not be said is left out and not blanked: random weights get no accuracy file and no
accuracy figure, a resumed run no headline.
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from harness.report import plots, selection
from harness.report.data import RunData
from harness.report.files import write_at_k, write_curves, write_json
from harness.report.numbers import Numbers, compute
from harness.report.style import save
from harness.report.terminal import print_report

TABLE_WIDTH = 100


def write_report(run: RunData, out: Path) -> Numbers:
    """Write ``curves.csv, pass_at_k.csv, report.json, report.txt, headline.png, plots/*.png`` under ``out``.

    Returns the numbers, for ``terminal.print_report``. InputError where log and verdicts do not fit.
    """
    numbers = compute(run)
    out.mkdir(parents=True, exist_ok=True)
    write_curves(numbers, out / "curves.csv")
    write_json(numbers, out / "report.json")
    text = io.StringIO()
    print_report(numbers, Console(file=text, width=TABLE_WIDTH, color_system=None))
    (out / "report.txt").write_text(text.getvalue(), encoding="utf-8")
    save(plots.throughput_plot(numbers), out / "plots" / "throughput.png")
    if run.accuracy_allowed:
        write_at_k(numbers, out / "pass_at_k.csv")
        _accuracy_figures(numbers, out)
    return numbers


def _accuracy_figures(numbers: Numbers, out: Path) -> None:
    metrics: tuple[plots.Metric, ...] = ("coverage", "majority")
    for metric in metrics:
        save(plots.clock_plot(numbers, metric), out / "plots" / f"{metric}_by_second.png")
        save(plots.k_plot(numbers, metric), out / "plots" / f"{metric}_by_k.png")
    if numbers.selections:
        save(selection.clock_plot(numbers), out / "plots" / "selection_by_second.png")
        save(selection.k_plot(numbers), out / "plots" / "selection_by_k.png")
    by_level = plots.level_plot(numbers)
    if by_level is not None:
        save(by_level, out / "plots" / "accuracy_by_level.png")
    if not numbers.run.manifest.get("resumes"):
        save(plots.headline(numbers), out / "headline.png")
