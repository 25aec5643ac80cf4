"""The report as a reader of a terminal sees it: accuracy, speed, comparisons, where the seconds went.

Whole at 80 columns: a long model name folds, nothing is cut. Accuracy in percent with its 95 %
interval. The tables say nothing that ``report.json`` does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.report.files import budget_rows
from harness.report.numbers import Numbers
from harness.report.selection import reward_line
from harness.scoring.cost import Decomposition
from harness.scoring.crossover import SHARES, proven_span

MARKS = {1: "+", 0: "?", -1: "-"}
BLANK = "–"
COST_RULE = "log(s/success) = log(s/token) + log(tokens/attempt) - log(successes/attempt)"
Row = Mapping[str, Any]


def print_report(numbers: Numbers, console: Console) -> None:
    """What was run, then all tables; for random weights only what has no accuracy in it."""
    console.print(_run_line(numbers), highlight=False, markup=False)
    tables = [_accuracy(numbers)] if numbers.run.accuracy_allowed else []
    if numbers.selections:
        tables.append(_selection(numbers))
    tables.append(_speed(numbers))
    if numbers.comparisons:
        tables += [_crossovers(numbers), _speedups(numbers)]
    tables.append(_costs(numbers) if numbers.run.accuracy_allowed else _totals(numbers))
    for table in tables:
        console.print(table)
    for line in _remarks(numbers):
        console.print(line, highlight=False, markup=False)


def _run_line(numbers: Numbers) -> str:
    run = numbers.run
    batches = [str(m.batch) for m in numbers.models.values()]
    batch = batches[0] if len(set(batches)) == 1 else " / ".join(batches)
    device = run.manifest.get("device", "device not recorded")
    return f"{run.task}: {len(run.problems)} problems, clock {run.budget.clock}, batch {batch}, {device}"


def _table(title: str, *headers: str, text: int = 1) -> Table:
    """The first column folds; the first ``text`` ones are flush left."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, header in enumerate(headers):
        justify: Any = "left" if i < text else "right"
        table.add_column(header, justify=justify, no_wrap=i > 0, overflow="fold")
    return table


def _by_second(numbers: Numbers, table: Table, cells: Callable[[Row], list[str]]) -> Table:
    """A row for each budget and model, budgets apart."""
    for second in sorted(numbers.run.budget.seconds):
        for row in budget_rows(numbers, second):
            table.add_row(escape(row["model"]), f"{second:g}", *cells(row))
        table.add_section()
    return table


def _accuracy(numbers: Numbers) -> Table:
    proven = ["proven"] if numbers.comparisons else []

    def cells(row: Row) -> list[str]:
        out = [_interval(row, "coverage"), f"{100 * row['above_guess']:+.1f}", _interval(row, "majority")]
        if "proven_coverage" in row:
            out.append(f"{MARKS[row['proven_coverage']]} {MARKS[row['proven_majority']]}")
        elif proven:
            out.append(BLANK)
        return out

    return _by_second(numbers, _table("Accuracy", "model", "s", "coverage %", "> guess", "majority %", *proven), cells)


def _selection(numbers: Numbers) -> Table:
    """The vote and the two choices by reward side by side."""

    def cells(row: Row) -> list[str]:
        return [_interval(row, metric) for metric in ("majority", "naive", "weighted")]

    headers = ("model", "s", "majority %", "naive %", "weighted %")
    return _by_second(numbers, _table("Choice among samples", *headers), cells)


def _speed(numbers: Numbers) -> Table:
    sooner = ["S cov", "S maj"] if numbers.comparisons else []

    def cells(row: Row) -> list[str]:
        out = [
            str(row["batch"]),
            f"{row['finished_median']:g}{'!' if row['in_flight_warning'] else ''}",
            f"{100 * row['none_finished']:.0f}",
            f"{row['tokens_per_s']:,.0f}",
            _number(row["mean_length"], ",.0f"),
        ]
        if "speedup_coverage" in row:
            out += [_times(row["speedup_coverage"]), _times(row["speedup_majority"])]
        elif sooner:
            out += [BLANK] * 2
        return out

    headers = ("model", "s", "batch", "done", "none %", "tok/s", "length", *sooner)
    return _by_second(numbers, _table("Speed", *headers), cells)


def _crossovers(numbers: Numbers) -> Table:
    headers = ("student", "metric", "verdict", "ahead from, s", "P(by T)", "proven ahead, s")
    table = _table(f"Against {escape(numbers.run.teacher)}", *headers, text=3)
    for name, pair in numbers.comparisons.items():
        for metric, c in pair.items():
            low, _, high = c.crossover_quantiles_s
            span = proven_span(c)
            table.add_row(
                escape(name),
                metric,
                c.outcome,
                escape(f"{_second(c.crossover_s)} [{_second(low)}, {_second(high)}]"),
                f"{c.p_crossed:.2f}",
                f"{span[0]:.3g} to {span[1]:.3g}" if span else BLANK,
            )
        table.add_section()
    return table


def _speedups(numbers: Numbers) -> Table:
    shares = (0.1, 0.5, 0.9)
    title = f"S: how many times sooner than {escape(numbers.run.teacher)} at a share of its final value"
    table = _table(title, "student", "metric", *(f"S({100 * share:.0f} %)" for share in shares), text=2)
    for name, pair in numbers.comparisons.items():
        for metric, c in pair.items():
            cells = []
            for at in (SHARES.index(share) for share in shares):
                value, low, high = (_ratio(v[at]) for v in (c.speedup, c.speedup_low, c.speedup_high))
                cells.append(BLANK if value == BLANK else f"{value} [{low}, {high}]")
            table.add_row(escape(name), metric, *map(escape, cells))
        table.add_section()
    return table


def _costs(numbers: Numbers) -> Table:
    run = numbers.run
    headers = ("", "s/success", "s/token", "tokens/attempt", "successes/attempt")
    table = _table(f"Cost by {run.budget.deadline_s:g} s", *headers)
    parts = {name: m.accuracy.decomposition for name, m in numbers.models.items() if m.accuracy is not None}
    for name, part in parts.items():
        logs = _logs(part)
        table.add_row(escape(name), *(_number(float(np.exp(log)), ".3g") for log in logs))
        table.add_row("  log", *(_number(log, ".3f") for log in logs))
        if name != run.teacher:
            over = _logs(part.minus(parts[run.teacher]))
            table.add_row("  log over teacher", *(_number(log, "+.3f") for log in over))
        table.add_section()
    return table


def _totals(numbers: Numbers) -> Table:
    deadline_s = numbers.run.budget.deadline_s
    headers = ("model", "system seconds", "finished", "tokens of finished", "s/token")
    table = _table(f"By {deadline_s:g} s (no accuracy: random weights)", *headers)
    for name, model in numbers.models.items():
        elapsed_s, samples, tokens = model.elapsed_s[-1], model.samples[-1], model.tokens[-1]
        per_token = _number(elapsed_s / tokens if tokens else math.nan, ".3g")
        table.add_row(escape(name), f"{elapsed_s:,.4g}", f"{samples:,.0f}", f"{tokens:,.0f}", per_token)
    return table


def _logs(part: Decomposition) -> Sequence[float]:
    return (
        part.log_seconds_per_success,
        part.log_seconds_per_token,
        part.log_tokens_per_attempt,
        part.log_successes_per_attempt,
    )


def _remarks(numbers: Numbers) -> list[str]:
    run = numbers.run
    lines = []
    if resumes := run.manifest.get("resumes"):
        same = "" if run.manifest.get("engine") == "vllm" else "each chain is as it would have been, "
        lines.append(f"! resumed {resumes} times: {same}its second is not; no headline.")
    if any(m.in_flight.warn[numbers.index_of(s)] for m in numbers.models.values() for s in run.budget.seconds):
        lines.append("! batch / finished above 0.2: what has finished by then is biased to short chains.")
    lines.append("done: median finished a problem. none %: problems with none. length: mean tokens of the finished.")
    if run.accuracy_allowed:
        lines.append(f"> guess: coverage above guessing, in points. Brackets: 95 % intervals. {COST_RULE}.")
    if numbers.comparisons:
        lines.append(
            "S cov, S maj: how many times sooner the student had what the teacher had by then (0: not by the end). "
            "ahead from: for good, with P of it by the last second. proven: coverage, majority by the simultaneous "
            "95 % band (+ ahead, - behind, ? open)."
        )
    for name, model in numbers.models.items():
        if model.accuracy is not None and model.samples[-1]:
            of = model.accuracy.chains
            text = f"{name}: unscored {100 * of.unscored:.1f} %, cut at the token limit {100 * of.truncated:.1f} %"
            text += f", no answer {100 * of.no_vote:.1f} %"
            text += f", answer classes with verdicts at odds {model.accuracy.split_classes}"
            lines.append(text)
    if numbers.selections:
        lines.append(f"naive: answer of the best-scored; weighted: largest sum of scores; {reward_line(numbers)}.")
    for name, chosen in numbers.selections.items():
        too_long = f"too long for the reward model {100 * chosen.over_limit:.1f} %"
        lines.append(f"{name}: {chosen.reward_s:,.4g} s of rewards, {too_long}")
    if len(run.budget.seconds) > 1:
        lines.append("Every budget is read off one log: it holds at this batch, for a policy blind to the deadline.")
    return lines


def _interval(row: Row, metric: str) -> str:
    low, high = (100 * row[f"{metric}_{end}"] for end in ("lo", "hi"))
    return escape(f"{100 * row[metric]:.1f} [{low:.1f}, {high:.1f}]")


def _second(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "never"


def _times(value: float) -> str:
    return BLANK if math.isnan(value) else f"{value:.2f}x"


def _ratio(value: float) -> str:
    """Three digits, so that an interval stays narrow."""
    return _number(value, ".2f" if abs(value) < 10 else ".3g")


def _number(value: float, spec: str) -> str:
    if math.isnan(value):
        return BLANK
    return format(value, spec) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
