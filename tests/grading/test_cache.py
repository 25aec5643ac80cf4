"""The verdict cache: keyed by all a verdict depends on, never wrong when damaged, never in the way."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from harness.grading import judge as judge_module
from harness.grading.cache import Cache, cache_folder, verdict_key
from harness.grading.judge import GRADER_VERSION, Judge
from harness.grading.policy import Policy
from harness.grading.quick import Outcome

RIGHT = Outcome("correct", "x**2+2*x+1")
SINES = (r"\sin 2x", r"2\sin(x)\cos(x)", r"(C) 2\sin(x)\cos(x)")
"""A gold and two answers that take a worker; what the second means is policy."""


def filled(folder: Path, **outcomes: Outcome) -> Path:
    cache = Cache(folder)
    for key, outcome in outcomes.items():
        cache.put(key.encode(), outcome)
    cache.close()
    assert cache.problem is None
    return cache.path


def test_what_was_decided_is_there_for_the_next_process(tmp_path: Path) -> None:
    filled(tmp_path / "deep" / "er", a=RIGHT, b=Outcome("parse_error", "text:\ud800\u2028"))
    cache = Cache(tmp_path / "deep" / "er")
    assert cache.get(b"a") == RIGHT
    assert cache.get(b"b") == Outcome("parse_error", "text:\ud800\u2028")
    assert cache.get(b"c") is None
    cache.close()


@pytest.mark.parametrize("status", ["timeout", "limit", "error", "no_answer"])
def test_what_was_not_decided_is_not_kept(tmp_path: Path, status: str) -> None:
    filled(tmp_path, a=Outcome(status, None))  # type: ignore[arg-type]
    assert Cache(tmp_path).get(b"a") is None


def test_every_part_of_the_content_is_in_the_key() -> None:
    policy = {"a": True}
    keys = {
        verdict_key("2", policy, "1", "2"),
        verdict_key("3", policy, "1", "2"),
        verdict_key("2", {"a": False}, "1", "2"),
        verdict_key("2", {"a": 1.5}, "1", "2"),
        verdict_key("2", {"b": True}, "1", "2"),
        verdict_key("2", policy, "2", "1"),
        verdict_key("2", policy, "12", ""),
    }
    assert len(keys) == 7
    assert verdict_key("2", {"a": 1, "b": 2}, "1", "2") == verdict_key("2", {"b": 2, "a": 1}, "1", "2")


def test_another_grader_version_reads_nothing_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(folder: Path) -> int:
        with Judge(cache=Cache(folder)) as judge:
            assert judge.matches(*SINES[:2]).status == "correct"
            return judge.asked

    assert [asked(tmp_path), asked(tmp_path)] == [1, 0]
    monkeypatch.setattr(judge_module, "GRADER_VERSION", GRADER_VERSION + "0")
    judge_module._version.cache_clear()
    assert [asked(tmp_path), asked(tmp_path)] == [1, 0]
    monkeypatch.undo()
    judge_module._version.cache_clear()


def test_another_policy_is_another_entry(tmp_path: Path) -> None:
    with Judge(cache=Cache(tmp_path)) as judge:
        assert judge.matches(SINES[0], SINES[2]).correct
    with Judge(cache=Cache(tmp_path), policy=Policy(value_after_choice=False)) as judge:
        assert not judge.matches(SINES[0], SINES[2]).correct


@pytest.mark.parametrize(
    "damage",
    [
        'UPDATE verdicts SET value = \'["incorrect", "7"]\'',
        "UPDATE verdicts SET value = '['",
        "UPDATE verdicts SET value = NULL",
        "UPDATE verdicts SET value = x'00ff'",
        "UPDATE verdicts SET checksum = x'00'",
        "UPDATE verdicts SET key = CAST('b' AS BLOB)",  # another entry's place
    ],
)
def test_a_damaged_entry_is_a_miss(tmp_path: Path, damage: str) -> None:
    path = filled(tmp_path, a=RIGHT)
    with sqlite3.connect(path) as connection:
        connection.execute(damage)
    connection.close()
    cache = Cache(tmp_path)
    assert cache.get(b"a") is None and cache.get(b"b") is None
    cache.close()


@pytest.mark.parametrize(
    "content", [b"not a database, and longer than a header" * 99, b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_a_damaged_file_is_named_and_grading_goes_on(tmp_path: Path, content: bytes) -> None:
    cache = Cache(tmp_path)
    cache.close()
    cache.path.write_bytes(content)
    cache = Cache(tmp_path)
    with Judge(cache=cache) as judge:
        assert judge.matches(*SINES[:2]).status == "correct"
    assert cache.problem is not None and str(cache.path) in cache.problem
    assert cache.path.read_bytes() == content


def test_every_single_damaged_page_is_a_miss_or_switches_the_cache_off(tmp_path: Path) -> None:
    outcomes = {f"k{i}": Outcome("correct", f"{i}") for i in range(300)}
    whole = filled(tmp_path, **outcomes).read_bytes()
    for start in range(0, len(whole), 4096):
        path = tmp_path / "verdicts.sqlite3"
        path.write_bytes(whole[:start] + bytes(b ^ 0x5A for b in whole[start : start + 4096]) + whole[start + 4096 :])
        cache = Cache(tmp_path)
        assert all(cache.get(key.encode()) in (None, outcome) for key, outcome in outcomes.items())
        cache.put(b"new", RIGHT)
        cache.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    with Judge(cache=cache) as judge:
        assert judge.matches(*SINES[:2]).status == "correct"
    assert cache.problem is not None and "verdicts.sqlite3" in cache.problem


def test_a_lock_held_by_another_process_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path, a=RIGHT)
    monkeypatch.setattr("harness.grading.cache.BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    cache = Cache(tmp_path)
    assert cache.get(b"a") is None
    assert cache.problem is not None and "locked" in cache.problem
    other.close()


FILL = """
import sys
from pathlib import Path
from harness.grading.cache import Cache
from harness.grading.quick import Outcome

cache = Cache(Path(sys.argv[1]))
for i in range(int(sys.argv[2]), int(sys.argv[2]) + 600):
    cache.put(str(i % 900).encode(), Outcome("incorrect", str(i % 900)))
    cache.get(str(i).encode())
    if i % 50 == 0:
        cache.save()
cache.close()
sys.exit(cache.problem)
"""


def test_several_processes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(150 * i)]) for i in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    cache = Cache(tmp_path)
    assert all(cache.get(str(i).encode()) == Outcome("incorrect", str(i)) for i in range(900))
    cache.close()


def test_a_full_cache_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, a=RIGHT)
    monkeypatch.setattr("harness.grading.cache.MAX_ENTRIES", 1)
    filled(tmp_path, b=RIGHT)
    cache = Cache(tmp_path)
    assert cache.get(b"a") == RIGHT and cache.get(b"b") is None
    cache.close()


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "reasoning-harness"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "reasoning-harness"
