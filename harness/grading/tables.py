"""Where graders and labels part, as tables on the terminal. All text from files is shown escaped and cut."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.grading.audit import Parting
from harness.grading.cases import Case
from harness.grading.check import Comparison, Disagreement, Reading

SHOWN_CHARS = 60


def print_disagreements(found: Sequence[Disagreement], console: Console) -> None:
    """The rows a grader reads otherwise than their label."""
    if not found:
        console.print("no disagreements")
        return
    table = _table("row", "gold", "answer", "label", "verdict")
    for one in found:
        table.add_row(*_cells(one.case, one.reading), _label(one.case), Text(one.reading.status))
    console.print(table)


def print_comparison(comparison: Comparison, version: str, console: Console) -> None:
    """Where the two graders part, who is right by the label, then counts and throughput."""
    table = _table("row", "gold", "answer", "label", "harness", f"math-verify {version}")
    for case, ours, theirs in comparison.parted:
        table.add_row(*_cells(case, ours), _label(case), Text(ours.status), Text(theirs.status))
    if comparison.parted:
        console.print(table)
    counts = _table("grader", "agree", "false equal", "false unequal", "undecided", "seconds", "pairs/s")
    for name, tally in (("harness", comparison.ours), (f"math-verify {version}", comparison.theirs)):
        numbers = (tally.agree, tally.false_equal, tally.false_unequal, tally.undecided)
        rate = comparison.pairs / tally.seconds
        counts.add_row(name, *map(str, numbers), f"{tally.seconds:.3f}", f"{rate:.0f}")
    console.print(counts)
    rows = f"{comparison.pairs} distinct pairs, {comparison.ours.cases} rows with a label"
    effort = f"{comparison.processes} worker processes each, medians of {comparison.repeats}"
    console.print(f"{rows}; {effort}: {comparison.speedup:.1f} times the throughput", highlight=False)


def print_partings(partings: Sequence[Parting], version: str, console: Console) -> None:
    """Where an audit's second grader says otherwise, each distinct answer of a problem once."""
    table = _table("problem", "sample", "times", "gold", "answer", "harness", f"math-verify {version}")
    for one in partings:
        answer = Text("(none)", style="dim") if one.answer is None else _cut(one.answer)
        peer = {True: "equal", False: "unequal", None: "undecided"}[one.peer_equal]
        table.add_row(
            Text(one.problem_id), str(one.sample), str(one.times), _cut(one.gold), answer, Text(one.status), Text(peer)
        )
    if partings:
        console.print(table)


def _table(*columns: str) -> Table:
    table = Table(show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _cells(case: Case, reading: Reading) -> tuple[str, Text, Text]:
    answer = Text("(none)", style="dim") if reading.answer is None else _cut(reading.answer)
    return str(case.row), _cut(case.gold), answer


def _label(case: Case) -> Text:
    label = {True: "equal", False: "unequal", None: "none"}[case.equal]
    return Text(f"{label}, settled" if case.is_settled else label)


def _cut(text: str) -> Text:
    """Control characters escaped: text of a model must not steer a terminal."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: SHOWN_CHARS + 1])
    return Text(shown if len(text) <= SHOWN_CHARS else shown[:SHOWN_CHARS] + "...")
