"""How figures look: colours, dashes and markers that survive greyscale, margins in inches, the caption.

Dashes of the form ``--`` are kept for limits: guess curves, rooflines. Figures are built on the object-oriented
``Figure`` API, so two reports can be drawn in one process without sharing state.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from PIL import Image

from harness.records import InputError
from harness.report.data import RunData
from harness.report.numbers import Numbers
from harness.report.target import check_writable

DPI = 160
GREY = "#5f6368"
# Height of one row of labels on top of a plot, as a share of its height.
LABEL_ROW = 0.08
_LOOKS = (
    ("#1a1a1a", "-", "o", ""),
    ("#0072B2", "-.", "s", "///"),
    ("#D55E00", (0, (1, 1)), "^", "..."),
    ("#009E73", (0, (5, 1, 1, 1, 1, 1)), "D", "\\\\\\"),
    ("#A0528A", (0, (9, 2)), "v", "xxx"),
    ("#8A7A00", (0, (3, 1, 1, 1)), "P", "++"),
)


@dataclass(frozen=True)
class Look:
    """One model's colour, line style, marker and hatch (bars)."""

    color: str
    line: Any
    marker: str
    hatch: str


def looks(run: RunData) -> dict[str, Look]:
    """The teacher always first (black, solid); students in the run's order."""
    return {name: look(i) for i, name in enumerate((run.teacher, *run.students))}


def look(place: int) -> Look:
    """The look of the ``place``-th of several things; after six, colours come again with other markers, 36 in all."""
    again, index = divmod(place, len(_LOOKS))
    color, line, _, hatch = _LOOKS[index]
    return Look(color, line, _LOOKS[(index + again) % len(_LOOKS)][2], hatch)


def caption(run: RunData, numbers: Numbers, extra: str = "") -> str:
    """Device, date, batch and clock, and what else a reader must know to trust the plot."""
    manifest, batches = run.manifest, {m.batch for m in numbers.models.values()}
    if len(batches) == 1:
        batch = f"batch {batches.pop()}"
        if isinstance(run.budget.batch, int) and len(numbers.models) > 1:
            batch += " for all (equal batch: a kernel diagnostic)"
    else:
        batch = "batch " + ", ".join(f"{m.batch} ({name})" for name, m in numbers.models.items())
    parts = [
        str(manifest.get("device", "device not recorded")),
        str(manifest.get("date", "date not recorded")),
        batch,
        f"clock: {run.budget.clock}",
        f"{len(run.problems)} problem{'s' if len(run.problems) > 1 else ''}",
    ]
    if manifest.get("replayed"):
        parts.append("replayed")
    if manifest.get("resumes"):
        parts.append(f"resumed {manifest['resumes']} times: not a headline")
    return " · ".join([*parts, extra] if extra else parts)


def figure(
    width_in: float, height_in: float, title: str, subtitle: Sequence[str], caption_text: str, n_axes: int = 1,
    legend: Sequence[Line2D] = (), font_pt: float = 11, left_in: float = 0.8, share_y: bool = False,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with title, subtitle lines and legend above its axes, and the caption under them; sizes in inches."""
    line_in = font_pt * 1.5 / 72
    caption_lines = _wrap(caption_text, width_in, font_pt * 0.8)
    subtitle = [line for text in subtitle for line in _wrap(text, width_in, font_pt * 0.95)]
    columns = _legend_columns(legend, width_in, font_pt)
    legend_rows = -(-len(legend) // columns) if legend else 0
    top_in = 0.2 + line_in * (1.3 + len(subtitle) + 1.1 * legend_rows) + (0.3 if n_axes > 1 else 0.1)
    bottom_in = 0.62 + 0.85 * line_in * len(caption_lines)
    fig = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white")
    FigureCanvasAgg(fig)
    grid = fig.add_gridspec(
        1, n_axes, left=left_in / width_in, right=1 - 0.25 / width_in,
        top=1 - top_in / height_in, bottom=bottom_in / height_in, wspace=0.2,
    )  # fmt: skip
    axes = [fig.add_subplot(grid[0, i]) for i in range(n_axes)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#e3e3e3", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=font_pt, color=GREY)
    y_in = height_in - 0.12
    fig.text(0.2 / width_in, y_in / height_in, title, fontsize=font_pt * 1.25, fontweight="bold", va="top")
    y_in -= line_in * 1.3
    for text in subtitle:
        fig.text(0.2 / width_in, y_in / height_in, text, fontsize=font_pt * 0.95, color="#333333", va="top")
        y_in -= line_in
    if legend:
        fig.legend(
            handles=list(legend), loc="upper left", bbox_to_anchor=(0.12 / width_in, (y_in + 0.02) / height_in),
            ncols=columns, frameon=False, fontsize=font_pt, handlelength=3.2, columnspacing=1.4, borderaxespad=0.1,
        )  # fmt: skip
    fig.text(
        0.2 / width_in, 0.1 / height_in, "\n".join(caption_lines),
        fontsize=font_pt * 0.8, color=GREY, va="bottom", linespacing=1.3,
    )  # fmt: skip
    return fig, axes


def _wrap(text: str, width_in: float, font_pt: float) -> list[str]:
    """Lines that fit the figure; a number stays with its percent sign."""
    return textwrap.wrap(text.replace(" %", "\u00a0%"), int((width_in - 0.4) * 72 / (font_pt * 0.545)))


def _legend_columns(legend: Sequence[Line2D], width_in: float, font_pt: float) -> int:
    """All in one row if they fit, else as many columns as fit with the longest label in each."""
    if not legend:
        return 1
    widths_in = [(len(str(entry.get_label())) * 0.58 + 5.2) * font_pt / 72 for entry in legend]
    if sum(widths_in) <= width_in - 0.3:
        return len(legend)
    return max(1, min(len(legend) - 1, int((width_in - 0.3) / max(widths_in))))


def handle(label: str, look: Look) -> Line2D:
    """A legend entry."""
    return Line2D(
        [], [], color=look.color, linestyle=look.line, marker=look.marker, linewidth=2, markersize=6, label=label
    )


def guess_handle() -> Line2D:
    return Line2D([], [], color=GREY, linestyle="--", marker="o", markerfacecolor="white", markersize=5, linewidth=1.3,
                  label="guessing, as many samples")  # fmt: skip


def log_axis(ax: Axes, low: float, high: float, label: str, font_pt: float, base: int = 10) -> None:
    """A log x axis with plain numbers (1, 10, 100 and not powers)."""
    ax.set_xscale("log", base=base)
    if low < high:
        ax.set_xlim(low, high)
    narrow = base == 10 and high / max(low, 1e-12) < 100
    ax.xaxis.set_major_locator(LogLocator(base=base, subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=12))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set_xlabel(label, fontsize=font_pt)


def percent_axis(ax: Axes, highest: float, label_rows: int = 0) -> None:
    """A y axis in percent from 0 to a little over ``highest`` (a share), with room on top for rows of labels."""
    top = 1.0 if highest > 0.85 else max(1.12 * highest, 0.02)
    ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top)
    ax.set_yticks([tick for tick in ticks if 0 <= tick <= top + 1e-9])
    ax.set_ylim(0, top / (1 - LABEL_ROW * label_rows))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def check_plot(path: Path, option: str) -> None:
    """InputError unless ``save`` can write a figure there."""
    kinds = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise InputError(f"{option} {path}: ends in none of {', '.join(f'.{kind}' for kind in kinds)}; take .png")
    check_writable(path, option)


def save(fig: Figure, path: Path) -> None:
    """PNGs with 256 colours, which is all that our plots show: two fifths of the size, and they are committed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() != ".png":
        fig.savefig(path, dpi=DPI)
        return
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True, dpi=(DPI, DPI))
