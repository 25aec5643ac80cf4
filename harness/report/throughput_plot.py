"""The plot of throughput rows against batch and against length, each algorithm's roofline with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.records import InputError
from harness.report import style
from harness.report.throughput import Row

# How much of a marker is filled; its shape and colour are the model's.
_FILLS = {"native": "full", "eager": "right", "vllm": "none", "mamba_ssm": "bottom"}
_OURS = ("native", "eager")
_LABEL_PT = 9
_TICK_APART = 1.15  # batches or lengths nearer than this to the tick before get none


def throughput_plot(rows: Sequence[Row], prompts: str = "prompts not shared") -> Figure:
    """Tokens/s against batch (a line for each length) and against new tokens (one for each batch).

    ``prompts``: what the caption says of them beside their length.
    """
    if not rows:
        raise InputError("no throughput rows to draw; measure a cell first")
    looks = {model: style.look(i) for i, model in enumerate(dict.fromkeys(r.model for r in rows))}
    # States in fp32 are another line, a paler one: in 16 bits the same cell is faster.
    kinds = sorted(dict.fromkeys(_kind(r) for r in rows), key=lambda kind: list(looks).index(kind[0]))
    devices, dtypes = (" / ".join(sorted({getattr(r, f) for r in rows})) for f in ("device", "dtype"))
    fig, axes = style.figure(
        12.0, 6.6, "Tokens per second, sampling included", [],
        f"{devices} · {dtypes} · prompt {' / '.join(str(p) for p in sorted({r.prompt for r in rows}))} tokens,"
        f" {prompts} · dashed: roofline of our algorithm, on an H100 at 3.0 TB/s or more · numbers at the lines: new"
        " tokens (left), batch (right)",
        n_axes=2, left_in=0.95,
        legend=[
            Line2D([], [], label=f"{name}, {engine}{', fp32 states' * exact}", **_drawn(looks[name], engine, exact))
            for name, engine, exact in kinds
        ],
    )  # fmt: skip
    for ax, along, fixed in zip(axes, ("batch", "new_tokens"), ("new_tokens", "batch"), strict=True):
        labels = []
        for kind in kinds:
            mine, look, engine = [r for r in rows if _kind(r) == kind], looks[kind[0]], kind[1]
            for value in sorted({getattr(r, fixed) for r in mine}):
                line = sorted((r for r in mine if getattr(r, fixed) == value), key=lambda r: getattr(r, along))
                x = [getattr(r, along) for r in line]
                ax.plot(x, [r.tokens_per_s for r in line], **_drawn(look, engine, kind[2]))
                labels.append((x[-1], line[-1].tokens_per_s, f"{value:,}", look.color))
                # A rival's algorithm has a limit of its own, which would only cover up the model's.
                limits = [
                    (a, r.tokens_per_s / r.roofline_share) for a, r in zip(x, line, strict=True) if r.roofline_share
                ]
                if engine in _OURS and limits:
                    ax.plot(*zip(*limits, strict=True), "--", color=look.color, linewidth=0.8, marker="_", markersize=9)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ticks = _apart(sorted({getattr(r, along) for r in rows}))
        ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
        ax.set_xlabel({"batch": "batch (rows)", "new_tokens": "new tokens"}[along])
        _place(ax, labels, [(getattr(r, along), r.tokens_per_s) for r in rows])
    axes[0].set_ylabel("tokens/s")
    return fig


def _kind(row: Row) -> tuple[str, str, bool]:
    """Model, engine, and whether its states are wider than its weights; rows of one kind share lines."""
    return row.model, row.engine, row.state_dtype == "float32" != row.dtype


def _drawn(look: style.Look, engine: str, exact: bool) -> dict[str, Any]:
    """How a model's line in an engine is drawn."""
    return {
        "alpha": 0.45 if exact else 1.0,
        "color": look.color,
        "linestyle": look.line,
        "marker": look.marker,
        "fillstyle": _FILLS.get(engine, "full"),
        "linewidth": 1.5 if engine in _OURS else 0.9,
    }


def _apart(values: Iterable[int]) -> list[int]:
    """Ascending values without those too near to the last that stays."""
    kept: list[int] = []
    for value in values:
        if not kept or value >= _TICK_APART * kept[-1]:
            kept.append(value)
    return kept


def _place(ax: Axes, labels: Iterable[tuple[float, float, str, str]], points: Iterable[tuple[float, float]]) -> None:
    """Label points (x, y, text, colour): one label for a colour's points at one place, right of it or left, none over
    another, over one of all ``points`` or outside; where both sides are taken, the nearest height that is free.
    """
    scale = ax.figure.dpi / 72
    height = 1.05 * _LABEL_PT * scale
    ax.margins(x=0.1)
    ax.autoscale_view()  # now: positions in pixels are asked for before anything is drawn
    box = ax.get_window_extent()
    merged: list[tuple[float, float, float, float, list[str], str]] = []  # data, pixels, texts, colour
    for x, y, text, color in sorted(labels, key=lambda label: label[1]):
        at_x, at_y = ax.transData.transform((x, y))
        for _, _, beside_x, beside_y, texts, other_color in merged:
            if color == other_color and abs(at_x - beside_x) < height and abs(at_y - beside_y) < height / 2:
                texts.append(text)
                break
        else:
            merged.append((x, y, at_x, at_y, [text], color))
    # Left, right and middle of markers and labels, in pixels.
    placed = [(x - 3 * scale, x + 3 * scale, y) for x, y in (ax.transData.transform(point) for point in points)]

    def free(left: float, right: float, middle: float) -> bool:
        inside = box.x0 < left and right < box.x1
        return inside and not any(a < right and left < b and abs(middle - y) < height for a, b, y in placed)

    shifts = sorted(np.arange(-20, 21) * height / 4, key=abs)
    for x, y, at_x, at_y, texts, color in merged:
        text = " / ".join(sorted(set(texts), key=lambda t: (len(t), t)))
        gap, width = 7 * scale, 0.62 * _LABEL_PT * len(text) * scale
        sides = {"left": (at_x + gap, at_x + gap + width), "right": (at_x - gap - width, at_x - gap)}  # by alignment
        spots = ((shift, side) for shift in shifts for side in sides if free(*sides[side], at_y + shift))
        shift, side = next(spots, (0.0, "left"))  # with too many of them, one over another after all
        placed.append((*sides[side], at_y + shift))
        ax.annotate(
            text, (x, y), xytext=(7 if side == "left" else -7, shift / scale), textcoords="offset points", ha=side,
            va="center", fontsize=_LABEL_PT, color=color,
            path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=4,
        )  # fmt: skip
