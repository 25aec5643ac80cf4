"""The figures of a choice among samples: the vote beside naive and weighted best-of-N, a panel a model.

Only for runs that a reward model has scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.records import InputError
from harness.report import style
from harness.report.numbers import Curve, Numbers
from harness.scoring.table import FloatArray

CHOICES = ("majority", "naive", "weighted")
NAMES = {"majority": "majority vote", "naive": "best-of-N, naive", "weighted": "best-of-N, weighted"}


def reward_line(numbers: Numbers) -> str:
    """Which reward model, and where its seconds are."""
    rewards = numbers.run.rewards
    if rewards is None or not numbers.selections:
        raise InputError(f"rewards: none of task {numbers.run.task}; score the run with `harness score` first")
    where = "on the clock" if numbers.run.budget.reward_on_clock else "not on the clock"
    return f"reward {rewards.label}, its seconds {where}"


def clock_plot(numbers: Numbers) -> Figure:
    """Accuracy of each choice against seconds."""

    def curve(name: str, choice: str) -> tuple[FloatArray, Curve | None]:
        accuracy = numbers.models[name].accuracy
        return numbers.grid_s, getattr(accuracy if choice == "majority" else numbers.selections[name], choice)

    def axis(ax: Axes) -> None:
        style.log_axis(ax, numbers.grid_s[0], numbers.grid_s[-1], "seconds", 11)

    title, note = "Choice among samples by the second", "shaded: 95 % bootstrap over problems"
    budgets = [numbers.index_of(second) for second in numbers.run.budget.seconds]
    return _panels(numbers, title, reward_line(numbers), note, curve, axis, budgets)


def k_plot(numbers: Numbers) -> Figure:
    """Accuracy of each choice from k samples; a run that was not drained shows the area between its bounds."""
    chosen = numbers.selections
    largest = max((s.ks[-1] for s in chosen.values() if s.ks), default=1)
    point = all(s.is_point for s in chosen.values())

    def curve(name: str, choice: str) -> tuple[FloatArray, Curve | None]:
        accuracy, ks = numbers.models[name].accuracy, np.array(chosen[name].ks, dtype=np.float64)
        at_k = accuracy.at_k if accuracy is not None else None
        if choice == "majority":
            return ks, None if at_k is None else at_k.majority_at_k
        return ks, getattr(chosen[name], f"{choice}_at_k")

    def axis(ax: Axes) -> None:
        style.log_axis(ax, 0.93, largest * 1.08, "k, samples per problem", 11, base=2)

    note = "shaded: 95 % bootstrap over problems" if point else "not drained: areas are bounds"
    title, rewards = "Choice among k samples, without a clock", numbers.run.rewards
    return _panels(numbers, title, f"reward {rewards.label}" if rewards is not None else "", note, curve, axis)


def _panels(
    numbers: Numbers,
    title: str,
    subtitle: str,
    note: str,
    curve_of: Callable[[str, str], tuple[FloatArray, Curve | None]],
    axis: Callable[[Axes], None],
    marked: Sequence[int] | None = None,
) -> Figure:
    """One panel a model; markers at every point, or at those of the indices ``marked``."""
    run, looks = numbers.run, {choice: style.look(i) for i, choice in enumerate(CHOICES)}
    names = [run.teacher, *run.students]
    legend = [style.handle(NAMES[choice], look) for choice, look in looks.items()]
    fig, axes = style.figure(
        max(7.5, 4.2 * len(names)), 5.4, f"{title}, {run.task}", [subtitle],
        style.caption(run, numbers, note), n_axes=len(names), legend=legend,
    )  # fmt: skip
    highest = 0.0
    for ax, name in zip(axes, names, strict=True):
        for choice, look in looks.items():
            x, curve = curve_of(name, choice)
            if curve is None:
                continue
            ax.fill_between(x, curve.low, curve.high, color=look.color, alpha=0.13, linewidth=0)
            for line in [curve.low, curve.high] if np.isnan(curve.value).all() else [curve.value]:
                ax.plot(
                    x, line, color=look.color, linestyle=look.line, linewidth=2, zorder=3,
                    marker=look.marker, markevery=marked, markersize=5,
                )  # fmt: skip
            highest = max(highest, float(curve.high.max()))
        axis(ax)
        ax.set_title(name, fontsize=11, loc="left", fontweight="bold")
    for ax in axes:
        style.percent_axis(ax, highest)
    axes[0].set_ylabel("Accuracy (problems)", fontsize=11)
    return fig
