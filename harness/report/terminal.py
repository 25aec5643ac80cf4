"""The report as a reader of a terminal sees it: budgets, comparisons, where the seconds went.

Accuracy in percent with its 95 % interval. The tables say nothing that ``report.json`` does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from harness.report.files import budget_rows
from harness.report.numbers import Numbers
from harness.scoring.cost import Decomposition
from harness.scoring.crossover import SHARES, proven_span

MARKS = {1: "+", 0: "?", -1: "-"}
BLANK = "–"


def print_report(numbers: Numbers, console: Console) -> None:
    """All tables; for random weights only what has no accuracy in it."""
    console.print(_budgets(numbers))
    if numbers.comparisons:
        console.print(_comparisons(numbers))
    console.print(_costs(numbers))
    for line in _remarks(numbers):
        console.print(line, highlight=False, markup=False)


def _budgets(numbers: Numbers) -> Table:
    run = numbers.run
    title = f"{run.task}: {len(run.problems)} problems, clock: {run.budget.clock}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    accurate = run.accuracy_allowed
    headers = ["model", "batch", "s"]
    if accurate:
        headers += ["coverage %", "> guess", "majority %"]
    headers += ["done", "none %", "tok/s", "length"]
    if numbers.comparisons:
        headers += ["S cov", "S maj", "proven"]
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right", no_wrap=True)
    for second in sorted(run.budget.seconds):
        for row in budget_rows(numbers, second):
            cells = [row["model"], str(row["batch"]), f"{second:g}"]
            if accurate:
                cells += [_interval(row, "coverage"), f"{100 * row['above_guess']:+.1f}", _interval(row, "majority")]
            cells += [
                f"{row['finished_median']:g}{'!' if row['in_flight_warning'] else ''}",
                f"{100 * row['none_finished']:.0f}",
                f"{row['tokens_per_s']:,.0f}",
                _number(row["mean_length"], ",.0f"),
            ]
            if "speedup_coverage" in row:
                cells += [_times(row["speedup_coverage"]), _times(row["speedup_majority"])]
                cells.append(f"{MARKS[row['proven_coverage']]} {MARKS[row['proven_majority']]}")
            elif numbers.comparisons:
                cells += [BLANK] * 3
            table.add_row(*cells)
        table.add_section()
    return table


def _comparisons(numbers: Numbers) -> Table:
    table = Table(title=f"Against {numbers.run.teacher}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headers = ["student", "metric", "verdict", "ahead for good from, s", "P(by T)", "proven ahead, s"]
    headers += ["S(10 %)", "S(50 %)", "S(90 %)"]
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < 3 else "right", no_wrap=i > 0, overflow="fold")
    for name, pair in numbers.comparisons.items():
        for metric, c in pair.items():
            low, _, high = c.crossover_quantiles_s
            span = proven_span(c)
            s10, s50, s90 = (SHARES.index(share) for share in (0.1, 0.5, 0.9))
            median = _times(c.speedup[s50])
            if not math.isnan(c.speedup[s50]):
                median += f" [{c.speedup_low[s50]:.2f}, {c.speedup_high[s50]:.2f}]"
            table.add_row(
                name,
                metric,
                c.outcome,
                f"{_second(c.crossover_s)} [{_second(low)}, {_second(high)}]",
                f"{c.p_crossed:.2f}",
                f"{span[0]:.3g} to {span[1]:.3g}" if span else BLANK,
                _times(c.speedup[s10]),
                median,
                _times(c.speedup[s90]),
            )
    return table


def _costs(numbers: Numbers) -> Table:
    if not numbers.run.accuracy_allowed:
        return _speeds(numbers)
    run = numbers.run
    sum_rule = "log(s / success) = log(s / token) + log(tokens / attempt) - log(successes / attempt)"
    table = Table(title=f"By {run.budget.deadline_s:g} s: {sum_rule}", box=box.SIMPLE_HEAD)
    for i, header in enumerate(("", "s / success", "s / token", "tokens / attempt", "successes / attempt")):
        table.add_column(header, justify="left" if i == 0 else "right")
    parts = {name: m.accuracy.decomposition for name, m in numbers.models.items() if m.accuracy is not None}
    for name, part in parts.items():
        table.add_row(name, *_terms(part, plain=True))
    for name in run.students:
        table.add_row(f"{name}, log over teacher", *_terms(parts[name].minus(parts[run.teacher]), plain=False))
    return table


def _speeds(numbers: Numbers) -> Table:
    deadline_s = numbers.run.budget.deadline_s
    table = Table(title=f"By {deadline_s:g} s (no accuracy: random weights)", box=box.SIMPLE_HEAD)
    for i, header in enumerate(("model", "system seconds", "finished", "tokens of finished", "s / token")):
        table.add_column(header, justify="left" if i == 0 else "right")
    for name, model in numbers.models.items():
        elapsed_s, samples, tokens = model.elapsed_s[-1], model.samples[-1], model.tokens[-1]
        per_token = _number(elapsed_s / tokens if tokens else math.nan, ".3g")
        table.add_row(name, f"{elapsed_s:,.4g}", f"{samples:,.0f}", f"{tokens:,.0f}", per_token)
    return table


def _terms(part: Decomposition, plain: bool) -> list[str]:
    logs: Sequence[float] = (
        part.log_seconds_per_success,
        part.log_seconds_per_token,
        part.log_tokens_per_attempt,
        part.log_successes_per_attempt,
    )
    if plain:
        return [f"{_number(float(np.exp(log)), '.3g')} (log {_number(log, '.3f')})" for log in logs]
    return [_number(log, "+.3f") for log in logs]


def _remarks(numbers: Numbers) -> list[str]:
    run = numbers.run
    lines = []
    if any(m.in_flight.warn[numbers.index_of(s)] for m in numbers.models.values() for s in run.budget.seconds):
        lines.append("! batch / finished above 0.2: what has finished by then is biased to short chains.")
    if numbers.comparisons:
        lines.append(
            "done: median finished a problem. > guess: coverage above guessing, in points. "
            "S: by what factor sooner the student had what the teacher had by then. "
            "proven: coverage, majority by the simultaneous 95 % band (+ ahead, - behind, ? open). [ ]: 95 % intervals."
        )
    for name, model in numbers.models.items():
        if model.accuracy is not None and model.samples[-1]:
            of = model.accuracy.chains
            text = f"{name}: unscored {100 * of.unscored:.1f} %, cut at the token limit {100 * of.truncated:.1f} %"
            text += f", no answer {100 * of.no_vote:.1f} %"
            if model.accuracy.split_classes:
                text += f"; {model.accuracy.split_classes} answer classes with verdicts at odds"
            lines.append(text)
    if len(run.budget.seconds) > 1:
        lines.append("Every budget is read off one log: it holds at this batch, for a policy blind to the deadline.")
    return lines


def _interval(row: dict[str, Any], metric: str) -> str:
    return f"{100 * row[metric]:.1f} [{100 * row[f'{metric}_lo']:.1f}, {100 * row[f'{metric}_hi']:.1f}]"


def _second(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "never"


def _times(value: float) -> str:
    return BLANK if math.isnan(value) else f"{value:.2f}x"


def _number(value: float, spec: str) -> str:
    if math.isnan(value):
        return BLANK
    return format(value, spec) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
