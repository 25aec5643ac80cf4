"""The tables of ``harness tasks`` and ``harness tasks verify``; they fit 100 columns.

A file stands by its name, a sha256 by its first 12 digits. What would be said of several tasks alike,
how to get their rows, is said once below the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.tasks.loader import TaskCheck, TaskStatus


def print_tasks(tasks: Sequence[TaskStatus], console: Console) -> None:
    """Which tasks there are, which are at hand, and how to get the others."""
    table = _table("task", "problems", "at hand", "rows", "sha256", "hub")
    cures: dict[str, list[str]] = {}
    for task in tasks:
        text, cure = _split(task.name, task.detail)
        if task.at_hand:
            text = Path(task.detail).name
        elif cure:
            cures.setdefault(cure.replace(f"load {task.hub} ", "load it "), []).append(task.name)
        count = "any" if task.problems is None else str(task.problems)
        sha256 = task.sha256[:12] if task.sha256 else "unpinned"
        table.add_row(task.name, count, "yes" if task.at_hand else "no", escape(text), sha256, escape(task.hub or ""))
    console.print(table)
    for cure, names in cures.items():
        _line(console, f"{', '.join(names)}: {cure}")


def print_checks(checks: Sequence[TaskCheck], console: Console) -> None:
    """What verifying found; an unpinned file's sha256 in full, to be written into the task's YAML."""
    table = _table("task", "problems", "status", "sha256", "file, or what is wrong")
    for check in checks:
        text, cure = _split(check.name, check.detail)
        if check.status == "ok":
            text = Path(check.detail).name
        elif check.status == "wrong" and cure:
            text = f"{text}; {cure}"
        count = str(check.problems) if check.sha256 else ""
        table.add_row(check.name, count, check.status, (check.sha256 or "")[:12], escape(text))
    console.print(table)
    for check in checks:
        if check.status == "unpinned":
            _line(console, f"{check.name}: to pin it, sha256: {check.sha256}")
    if any(check.status == "not at hand" for check in checks):
        _line(console, "`harness tasks` says how to get what is not at hand.")


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header == "problems" else "left", overflow="fold")
    return table


def _split(name: str, detail: str) -> tuple[str, str]:
    """What is missing and its cure, from a message that begins with the task's name; the tables say "not at hand"."""
    reason, _, cure = detail.removeprefix(f"task {name}: ").partition("; ")
    return reason.removesuffix(" is not at hand"), cure


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
