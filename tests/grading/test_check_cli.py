"""``harness check-grader`` and ``harness grade``: tables, one JSON line at the end, and a mistake is one line."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.grading import judge as judge_module
from harness.grading.cache import Cache
from harness.records import Look, Trajectory
from harness.runs.folder import RunFolder
from harness.runs.log import TrajectoryLog
from harness.tasks.loader import load_task

Call = Callable[..., tuple[int, str, str]]
ROWS = [
    {"gold": "1/2", "pred": "0.5", "equal": True, "kind": "answer", "tier": "core"},
    {"gold": "1/2", "pred": r"so \boxed{0.25}", "equal": True, "kind": "response"},
    {"gold": "[bold]", "pred": "\x1b[31m", "equal": True, "kind": "answer"},
    {"gold": "7", "pred": "8", "equal": None, "kind": "answer"},
]
KEYS = ["cases", "agree", "false_equal", "false_unequal", "undecided", "seconds"]
needs_peer = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed (extra math-verify)"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A sampled run of the built-in task: one of its problems answered rightly twice, wrongly once."""
    task = load_task("builtin")
    problem = next(p for p in task.problems if p.answer.isdigit())
    folder = RunFolder(tmp_path / "run")
    folder.write_manifest({"task": {"name": "builtin", "sha256": task.sha256}, "task_source": "builtin"})
    log = TrajectoryLog(folder.log_path, lambda: 0.0)
    texts = [
        rf"so \boxed{{{problem.answer}}}",
        rf"so \boxed{{{problem.answer}_{{16}}}}",
        f"The answer is {problem.answer}.",
    ]
    chains = [
        Trajectory("m", "builtin", 4, problem.id, i, 0.0, 0.1, 1.0, 5, 5, "eos", False, text, -1.0)
        for i, text in enumerate(texts)
    ]
    log.commit(chains, Look("m", 4, 0, 0, 1.0, tuple((problem.id, i, 0.0) for i in range(3)), True))
    log.close()
    return folder


def test_counts_are_the_last_line(harness: Call, file: Path) -> None:
    code, out, err = harness("check-grader", file, "--processes", 1)
    assert (code, err) == (0, "")
    summary = json.loads(out.splitlines()[-1])
    assert list(summary) == KEYS
    assert [summary[key] for key in KEYS[:-1]] == [3, 1, 0, 2, 0] and summary["seconds"] >= 0
    assert "3 rows with a label, 1 without a label, 0 disputed" in out
    assert "0.25" in out and "incorrect" in out and "0.5" not in out
    assert "[bold]" in out and "\x1b" not in out, "text of a file must neither be markup nor steer the terminal"


def test_rows_are_chosen_and_settled(harness: Call, file: Path, tmp_path: Path) -> None:
    code, out, _ = harness("check-grader", file, "--where", "tier=core", "--processes", 1)
    assert code == 0 and json.loads(out.splitlines()[-1])["cases"] == 1 and "no disagreements" in out
    settled = tmp_path / "settled.yaml"
    settled.write_text("- {gold: 1/2, kind: response, equal: false, reason: a quarter is no half}\n")
    code, out, _ = harness("check-grader", file, "--settled", settled, "--processes", 1)
    assert code == 0 and json.loads(out.splitlines()[-1])["agree"] == 2 and "1 entries settled by hand" in out
    code, out, _ = harness("check-grader", file, "--without", settled, "--processes", 1)
    assert code == 0 and json.loads(out.splitlines()[-1])["cases"] == 2 and "1 disputed" in out


def test_bad_rows_are_named_and_the_rest_is_graded(harness: Call, file: Path) -> None:
    file.write_text(file.read_text() + "not json\n" + '{"gold": "1", "equal": true, "kind": "answer"}\n')
    code, out, err = harness("check-grader", file, "--processes", 1)
    assert code == 2 and json.loads(out.splitlines()[-1])["cases"] == 3
    assert [line.split(":")[1] for line in err.splitlines()] == [" rows.jsonl row 5", " rows.jsonl row 6"]


def test_many_bad_rows_are_not_all_named(harness: Call, file: Path) -> None:
    file.write_text(file.read_text() + "x\n" * 500)
    code, _, err = harness("check-grader", file, "--processes", 1)
    assert code == 2 and len(err.splitlines()) == 21 and "480 more rows" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--policy", "nosuch=1"], ["nosuch", "known"]),
        (["--policy", "drop_assignments=false"], ["did you mean 'drop_assignment'?"]),
        (["--policy", "drop_assignment=7"], ["drop_assignment = 7", "true or false"]),
        (["--where", "tier"], ["--where 'tier'"]),
        (["--settled", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--against", "math-verfy"], ["--against", "math-verify"]),
        (["--processes", "0"], ["--processes"]),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_graded(
    harness: Call, file: Path, options: list[str], words: list[str]
) -> None:
    code, out, err = harness("check-grader", file, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words), err


def test_a_file_that_is_no_jsonl(harness: Call, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n\nof mine\n")
    for name, says in (("notes.md", "notes.md row 1: not JSON"), ("missing.jsonl", "missing.jsonl")):
        code, out, err = harness("check-grader", tmp_path / name)
        assert (code, out, err.count("\n")) == (2, "", 1) and says in err


@pytest.mark.parametrize("arguments", [["check-grader", "FILE", "--against"], ["grade", "RUN", "--audit"]])
def test_the_missing_extra_is_named(
    harness: Call, file: Path, run: RunFolder, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    paths = {"FILE": file, "RUN": run.path}
    code, out, err = harness(*(paths.get(a, a) for a in arguments), "math-verify")
    assert (code, out, err.count("\n")) == (2, "", 1) and "reasoning-harness[math-verify]" in err


@needs_peer
def test_both_graders_in_one_command(harness: Call, file: Path) -> None:
    code, out, err = harness("check-grader", file, "--against", "math-verify", "--processes", 1, "--repeats", 1)
    assert (code, err) == (0, "")
    summary = json.loads(out.splitlines()[-1])
    ours, theirs = summary["harness"], next(v for k, v in summary.items() if k.startswith("math-verify "))
    for tally in (ours, theirs):
        assert set(KEYS) < set(tally) and tally["cases"] == 3
    assert summary["speedup"] > 0 and summary["distinct_pairs"] == 4


@needs_peer
def test_an_audit_leaves_the_verdicts_as_they_are(harness: Call, run: RunFolder) -> None:
    code, out, err = harness("grade", run.path, "--audit", "math-verify")
    assert (code, err) == (0, "")
    before = run.verdicts_path.read_bytes()
    assert [v.status for v in run.read_verdicts()] == ["correct", "incorrect", "correct"]
    assert "verdicts: 2 correct, 1 incorrect; 2 answer classes, 0 with verdicts at odds" in " ".join(out.split())
    last = json.loads(out.splitlines()[-1])
    assert (last["samples"], last["unscored"], last["parted"]) == (3, 0, 1)  # math-verify drops the base
    code, again, _ = harness("grade", run.path, "--audit", "math-verify")
    assert code == 0 and "verdicts:" not in again, "a graded run is not graded again"
    assert run.verdicts_path.read_bytes() == before


def test_grading_says_what_it_counted_and_keeps_what_it_decided(
    harness: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(judge_module, "quick", lambda *pair: None)  # everything goes to the workers, so to the cache
    code, out, _ = harness("grade", run.path, "--no-cache")
    assert code == 0 and "2 answer classes, 0 with verdicts at odds" in out
    assert not (tmp_path / "cache").exists()
    first = run.verdicts_path.read_bytes()
    assert harness("grade", run.path)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(judge_module.Judge, "_ask_on", lambda *_: pytest.fail("a worker was asked again"))
        assert harness("grade", run.path)[0] == 0
    assert run.verdicts_path.read_bytes() == first
    Cache().path.write_bytes(b"damaged" * 1000)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, _ = harness("grade", run.path)
    assert code == 0 and "graded without it" in " ".join(out.split()) and run.verdicts_path.read_bytes() == first
