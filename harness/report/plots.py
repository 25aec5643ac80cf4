"""The figures of a report. Each function draws one from ``Numbers`` and returns it.

Every coverage plot carries the guess curve. A plot that shows accuracy raises InputError where the
numbers hold none (random weights): accuracy of random weights is never drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from harness.records import InputError
from harness.report import style
from harness.report.numbers import Accuracy, Numbers
from harness.scoring.crossover import Comparison
from harness.scoring.intervals import NESTED_FROM_RUNS

Metric = Literal["coverage", "majority"]
TITLES = {"coverage": "Coverage", "majority": "Majority-vote accuracy"}


def clock_plot(numbers: Numbers, metric: Metric) -> Figure:
    """One metric against seconds: curves, 95 % intervals, crossovers, and on coverage the guess curves."""
    accuracy = _accuracy(numbers)
    run = numbers.run
    fig, (ax,) = style.figure(
        7.5, 5.4, f"{TITLES[metric]} by the second, {run.task}",
        [outcome_line(numbers.comparisons[name][metric]) for name in run.students],
        style.caption(run, numbers, _intervals(numbers)), legend=_legend(numbers, guess=metric == "coverage"),
    )  # fmt: skip
    draw_clock_curves(ax, numbers, accuracy, metric, font_pt=11)
    ax.set_ylabel(f"{TITLES[metric]} (problems)", fontsize=11)
    return fig


def headline(numbers: Numbers) -> Figure:
    """Coverage (left) and majority accuracy (right) against seconds: the README's first picture."""
    accuracy = _accuracy(numbers)
    run = numbers.run
    if run.manifest.get("resumes"):
        raise InputError(f"manifest.resumes = {run.manifest['resumes']}: a resumed run makes no headline; run it anew")
    font_pt = 13.5
    fig, axes = style.figure(
        12.0, 6.0, f"What the same seconds buy: {run.task}", [], style.caption(run, numbers, _intervals(numbers)),
        n_axes=2, legend=_legend(numbers, guess=True), font_pt=font_pt, left_in=0.85,
    )  # fmt: skip
    metrics: tuple[Metric, ...] = ("coverage", "majority")
    for ax, metric in zip(axes, metrics, strict=True):
        draw_clock_curves(ax, numbers, accuracy, metric, font_pt)
        ax.set_title(TITLES[metric], fontsize=font_pt, loc="left", fontweight="bold", pad=10)
    return fig


def draw_clock_curves(
    ax: Axes, numbers: Numbers, accuracy: dict[str, Accuracy], metric: Metric, font_pt: float
) -> None:
    """Put one metric's curves on ``ax``."""
    run, grid_s, looks = numbers.run, numbers.grid_s, style.looks(numbers.run)
    highest = 0.0
    for name, numbers_of in accuracy.items():
        look = looks[name]
        curve = getattr(numbers_of, metric)
        ax.fill_between(grid_s, curve.low, curve.high, color=look.color, alpha=0.13, linewidth=0)
        ax.plot(grid_s, curve.value, color=look.color, linestyle=look.line, linewidth=2.2, zorder=3)
        at = [numbers.index_of(s) for s in run.budget.seconds]
        ax.plot(grid_s[at], curve.value[at], look.marker, color=look.color, markersize=7, zorder=4, clip_on=False)
        highest = max(highest, float(curve.high.max()))
        if metric == "coverage":
            guess = numbers_of.guess
            ax.plot(
                grid_s, guess, "--", color=look.color, linewidth=1.3, zorder=2, label=f"guess {name}",
                marker=look.marker, markerfacecolor="white", markersize=5, markevery=at,
            )  # fmt: skip
            highest = max(highest, float(guess.max()))
    style.log_axis(ax, grid_s[0], grid_s[-1], _seconds_label(numbers), font_pt)
    crossed = [n for n in run.students if np.isfinite(numbers.comparisons[n][metric].crossover_s)]
    style.percent_axis(ax, highest, len(crossed))
    for row, name in enumerate(crossed):
        _mark_crossover(ax, numbers.comparisons[name][metric], looks[name], font_pt, row)


def _mark_crossover(ax: Axes, comparison: Comparison, look: style.Look, font_pt: float, row: int) -> None:
    """A ring on the student's curve, and a dotted line up to its label in the ``row``-th row on top."""
    t = comparison.crossover_s
    height = float(comparison.student_curve[np.searchsorted(comparison.grid_s, t)])
    label_y = 1 - style.LABEL_ROW * (row + 0.5)
    across = ax.get_xaxis_transform()
    ax.plot([t, t], [0, label_y], color=look.color, linewidth=1.2, linestyle=":", zorder=1, transform=across)
    ax.plot([t], [height], "o", markersize=12, markerfacecolor="none", markeredgecolor=look.color, markeredgewidth=1.6)
    claim = "ahead" if comparison.outcome in ("ahead", "crosses") else "in front (not proven)"
    text, size, gap = f"{comparison.student} {claim} from {seconds(t)}", font_pt * 0.88, 6.0
    # In points: right of the line or left of it, wherever the panel has room, else up to the panel's right edge.
    panel, at = ax.get_window_extent(), ax.transData.transform((t, height))[0]
    left, right = np.array([at - panel.x0, panel.x1 - at]) * 72 / ax.figure.dpi
    width = TextPath((0, 0), text, size=size).get_extents().width + gap
    shift, side = (gap, "left") if width <= right else (-gap if width <= left else right, "right")
    ax.annotate(
        text, (t, label_y), xycoords=across, va="center", ha=side, xytext=(shift, 0), textcoords="offset points",
        fontsize=size, color=look.color, zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def k_plot(numbers: Numbers, metric: Metric) -> Figure:
    """pass@k or maj@k; a run that was not drained shows the area between its bounds."""
    accuracy = _accuracy(numbers)
    run, looks = numbers.run, style.looks(numbers.run)
    bounded = any(a.at_k is not None and not a.at_k.is_point for a in accuracy.values())
    name_of = {"coverage": "Coverage (pass@k)", "majority": "Majority-vote accuracy (maj@k)"}[metric]
    note = (
        "not drained: areas are bounds, what did not finish taken for wrong and for right"
        if bounded
        else _intervals(numbers)
    )
    fig, (ax,) = style.figure(
        7.5, 5.2, f"{name_of} without a clock, {run.task}", [], style.caption(run, numbers, note),
        legend=_legend(numbers, guess=metric == "coverage"),
    )  # fmt: skip
    highest, largest = 0.0, 1
    for name, numbers_of in accuracy.items():
        at_k, look = numbers_of.at_k, looks[name]
        if at_k is None:
            continue
        curve = at_k.pass_at_k if metric == "coverage" else at_k.majority_at_k
        largest = max(largest, max(at_k.ks))
        highest = max(highest, float(curve.high.max()))
        ax.fill_between(at_k.ks, curve.low, curve.high, color=look.color, alpha=0.13, linewidth=0)
        lines = [curve.value] if at_k.is_point else [curve.low, curve.high]
        for line in lines:
            ax.plot(at_k.ks, line, color=look.color, linestyle=look.line, marker=look.marker, linewidth=2, zorder=3)
        if metric == "coverage":
            ax.plot(at_k.ks, at_k.guess, "--", color=style.GREY, marker="o", markerfacecolor="white",
                    markersize=5, linewidth=1.3, zorder=2, label=f"guess {name}")  # fmt: skip
            highest = max(highest, float(at_k.guess.max()))
    style.log_axis(ax, 0.93, largest * 1.08, "k, samples per problem", 11, base=2)
    style.percent_axis(ax, highest)
    ax.set_ylabel(name_of, fontsize=11)
    return fig


def throughput_plot(numbers: Numbers) -> Figure:
    """Tokens per second of each model up to the deadline, with the factor over the teacher."""
    run, looks = numbers.run, style.looks(numbers.run)
    names = list(looks)[::-1]
    speeds = [float(numbers.models[name].tokens_per_s[-1]) for name in names]
    teacher = float(numbers.models[run.teacher].tokens_per_s[-1])
    factors = [f"  ({speed / teacher:.2f}x)" if teacher > 0 and name != run.teacher else ""
               for name, speed in zip(names, speeds, strict=True)]  # fmt: skip
    labels = [f"{speed:,.0f}{factor}" for speed, factor in zip(speeds, factors, strict=True)]
    left_in, width_in = 0.5 + 0.095 * max(map(len, names)), 7.5
    fig, (ax,) = style.figure(
        width_in, 1.9 + 0.55 * len(names), f"Decode speed, {run.task}", [],
        style.caption(run, numbers, "tokens decoded by the deadline, prefill on the clock"), left_in=left_in,
    )  # fmt: skip
    for y, (name, speed) in enumerate(zip(names, speeds, strict=True)):
        look = looks[name]
        ax.barh(y, speed, 0.62, facecolor="white", edgecolor=look.color, hatch=look.hatch, linewidth=1.6)
        if name == run.teacher:
            ax.barh(y, speed, 0.62, color=look.color)
        ax.annotate(labels[y], (speed, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=11)
    label_share = (0.2 + 0.09 * max(map(len, labels))) / (width_in - left_in - 0.25)
    ax.set_xlim(0, max([*speeds, 1e-9]) / (1 - min(label_share, 0.7)))
    ax.set_yticks(range(len(names)), names, fontsize=11)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel("tokens per second", fontsize=11)
    ax.grid(False, axis="y")
    return fig


def level_plot(numbers: Numbers) -> Figure | None:
    """Coverage and majority accuracy by level at the deadline; None where no problem has a level."""
    accuracy = _accuracy(numbers)
    run, looks = numbers.run, style.looks(numbers.run)
    labels = [group.label for group in accuracy[run.teacher].by_level]
    if not labels:
        return None
    fig, axes = style.figure(
        10.5, 5.4, f"Accuracy by level after {seconds(run.budget.deadline_s)}, {run.task}", [],
        style.caption(run, numbers, "bars: 95 % Wilson intervals"), n_axes=2,
        legend=_legend(numbers, guess=True), font_pt=12,
    )  # fmt: skip
    for i, name in enumerate(looks):
        look, of = looks[name], accuracy[name]
        x = np.arange(len(labels)) + (i - (len(looks) - 1) / 2) * 0.16
        for ax, metric in zip(axes, ("coverage", "majority"), strict=True):
            value = np.array([getattr(group, metric) for group in of.by_level])
            interval = np.array([getattr(group, f"{metric}_interval") for group in of.by_level]).T
            ax.errorbar(
                x, value, yerr=np.abs(interval - value), color=look.color, linestyle=look.line, marker=look.marker,
                markersize=7, linewidth=1.3, elinewidth=1.6, capsize=3,
            )  # fmt: skip
        axes[0].plot(
            x, [of.guess_by_level[label] for label in labels], "--", color=look.color, linewidth=1.2,
            marker=look.marker, markerfacecolor="white", markersize=5, label=f"guess {name}",
        )  # fmt: skip
    counts = [group.n_problems for group in accuracy[run.teacher].by_level]
    for ax, metric in zip(axes, ("coverage", "majority"), strict=True):
        ax.set_xticks(range(len(labels)), [f"{a}\nn = {n}" for a, n in zip(labels, counts, strict=True)])
        ax.set_title(TITLES[metric], fontsize=12, loc="left", fontweight="bold")
        ax.set_ylim(0, 1.02)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.grid(False, axis="x")
    return fig


def outcome_line(comparison: Comparison) -> str:
    """One line for a reader: the verdict, and the crossover with its 95 % quantiles where there is one."""
    text = f"{comparison.student} against {comparison.teacher}: {comparison.outcome}"
    if np.isfinite(comparison.crossover_s):
        low, _, high = comparison.crossover_quantiles_s
        text += (
            f"; in front to the end from {seconds(comparison.crossover_s)} (95 %: {seconds(low)} to {seconds(high)})"
        )
    return text


def seconds(value: float) -> str:
    """``12 s``, ``0.53 s``, ``never``."""
    return f"{value:.3g} s" if np.isfinite(value) else "never"


def _intervals(numbers: Numbers) -> str:
    nested = numbers.n_timing_runs >= NESTED_FROM_RUNS
    runs = f" and {numbers.n_timing_runs} timing runs" if nested else ""
    return f"shaded: 95 % bootstrap over problems{runs}"


def _seconds_label(numbers: Numbers) -> str:
    per = "each problem's own clock" if numbers.run.budget.clock == "problem" else "one clock for all problems"
    return f"seconds ({per})"


def _legend(numbers: Numbers, guess: bool) -> Sequence[Line2D]:
    entries = [style.handle(name, look) for name, look in style.looks(numbers.run).items()]
    return [*entries, style.guess_handle()] if guess else entries


def _accuracy(numbers: Numbers) -> dict[str, Accuracy]:
    held = {name: m.accuracy for name, m in numbers.models.items() if m.accuracy is not None}
    if not numbers.run.accuracy_allowed or len(held) < len(numbers.models):
        raise InputError("accuracy_allowed = False: accuracy of random weights is never drawn; load trained weights")
    return held
