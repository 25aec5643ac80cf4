"""The tables of tasks: whole at 100 columns, nothing lost to markup, and the cure named once."""

import io

import pytest
from rich.console import Console

from harness.tasks.loader import TaskCheck, TaskStatus, list_tasks, verify_tasks
from harness.tasks.tables import print_checks, print_tasks


def shown(show, rows, width=100):
    out = io.StringIO()
    show(rows, Console(file=out, width=width, color_system=None))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_every_task_is_whole(width, monkeypatch):
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    text = shown(print_tasks, list_tasks(), width)
    assert "…" not in text
    for status in list_tasks():
        assert sum(line.lstrip().startswith(f"{status.name} ") for line in text.splitlines()) == 1
    assert "pip install 'reasoning-harness[datasets]' and load it from its hub" in text
    assert text.count("pip install") <= 2 and "amc23: set HARNESS_DATA to its folder\n" in text


def test_a_file_stands_by_its_name_and_brackets_stay():
    there = TaskStatus("a", None, True, "/very/long/[old]/rows[1].jsonl", "", "MIT", "", "0" * 64, "who/what[x]")
    text = shown(print_tasks, [there])
    assert "rows[1].jsonl" in text and "/very" not in text and "who/what[x]" in text
    assert "any" in text and "000000000000 " in text


def test_checks(monkeypatch):
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    text = shown(print_checks, verify_tasks())
    assert "math500.jsonl" in text and "`harness tasks` says how" in text and "…" not in text
    wrong = TaskCheck("a", "wrong", 0, None, "task a: rows[b] has sha256 12...; fetch the pinned file")
    assert "rows[b] has sha256 12...; fetch the pinned file" in shown(print_checks, [wrong])
    unpinned = TaskCheck("a", "unpinned", 3, "1" * 64, "a.yaml holds no sha256 yet")
    assert f"to pin it, sha256: {'1' * 64}" in shown(print_checks, [unpinned])
