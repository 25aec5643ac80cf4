"""``harness check-grader``: a file of labelled rows through our grader, or through ours and a second one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.grading.cases import read_cases, read_settled
from harness.grading.check import check, compare, disagreements, policy_of
from harness.grading.peer import require
from harness.grading.tables import print_comparison, print_disagreements

MAX_PROBLEMS = 20
"""Unreadable rows named one by one; a file of another kind has thousands."""


def check_file(
    file: Path,
    policy: Sequence[str],
    where: Sequence[str],
    settled: Sequence[Path],
    without: Sequence[Path],
    against: str | None,
    processes: int | None,
    repeats: int,
    console: Console,
) -> list[str]:
    """Print tables and one JSON line; returns a line for each row that could not be read (the others are graded)."""
    rules = policy_of(policy)
    version = require() if against is not None else ""
    entries = [entry for path in settled for entry in read_settled(path, file.name)]
    disputed = [entry for path in without for entry in read_settled(path, file.name)]
    entries += [dataclasses.replace(entry, equal=None) for entry in disputed]
    read = read_cases(file, where, entries)
    count = processes or os.cpu_count() or 1
    if against is None:
        tally, readings = check(read.cases, rules, count)
        print_disagreements(disagreements(read.cases, readings), console)
        summary = dataclasses.asdict(tally)
    else:
        comparison = compare([*read.cases, *read.unlabelled], rules, count, repeats)
        print_comparison(comparison, version, console)
        summary = comparison.summary(version)
    rest = f"{len(read.unlabelled)} without a label, {read.disputed} disputed, {read.settled} entries settled by hand"
    console.print(f"{len(read.cases)} rows with a label, {rest}", highlight=False)
    console.print(json.dumps(summary), highlight=False, soft_wrap=True, markup=False)
    hidden = len(read.problems) - MAX_PROBLEMS
    more = [f"{file.name}: {hidden} more rows cannot be read"] if hidden > 0 else []
    return [*read.problems[:MAX_PROBLEMS], *more]
