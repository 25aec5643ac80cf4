"""Whole files are replaced or left; names become folders; what is missing says what to do."""

from __future__ import annotations

import json
import os

import pytest

from harness.records import InputError, Verdict
from harness.runs import folder as folder_module
from harness.runs.folder import RUNS, RunFolder, last_run, replace, run_folder

VERDICTS = [
    Verdict("m", "t", 4, "p0", 0, "½", "num:1/2", "correct", True),
    Verdict("m", "t", 4, "p0", 1, None, None, "no_answer", False),
]


def test_manifest_and_verdicts_come_back(tmp_path):
    run = RunFolder(tmp_path / "deep" / "run")
    run.write_manifest({"a": [1, 2.5, None], "b": "½"})
    assert run.read_manifest() == {"a": [1, 2.5, None], "b": "½"}
    run.write_verdicts(VERDICTS)
    assert run.read_verdicts() == VERDICTS
    assert sorted(p.name for p in run.path.iterdir()) == ["manifest.json", "verdicts.jsonl"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    replace(path, "old")
    for name in ("fsync", "replace"):

        def crash(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(folder_module.os, name, crash)
            replace(path, "new, longer")
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    replace(path, "new")
    assert path.read_text() == "new"


def test_what_is_missing_says_what_to_do(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        run.read_manifest()
    with pytest.raises(InputError, match="not graded yet; run `harness grade"):
        run.read_verdicts()
    run.manifest_path.write_text('{"half": ')
    with pytest.raises(InputError, match="not JSON") as caught:
        run.read_manifest()
    assert "\n" not in str(caught.value)
    run.verdicts_path.write_text(json.dumps({"model": "m", "colour": 1}) + "\n")
    with pytest.raises(InputError, match=r"verdicts.jsonl:1: unknown key 'colour'"):
        run.read_verdicts()


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder("one").path == RUNS / "one"
    assert run_folder("a/b").path == (tmp_path / "a/b").relative_to(tmp_path)
    (tmp_path / "here").mkdir()
    assert str(run_folder("here").path) == "here"
    with pytest.raises(InputError, match="--run ''"):
        run_folder("")
    with pytest.raises(InputError, match="no runs here"):
        last_run()
    for age, name in ((100, "old"), (0, "new"), (50, "middle")):
        run = run_folder(name)
        run.write_manifest({})
        stamp = run.manifest_path.stat().st_mtime - age
        os.utime(run.manifest_path, (stamp, stamp))
    assert last_run().path == RUNS / "new"


def test_one_process_at_a_time_samples_into_a_folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    refused = pytest.raises(InputError, match="another process samples into it")
    with folder.locked(), refused, RunFolder(folder.path).locked():
        pass
    with folder.locked():
        pass


@pytest.mark.parametrize(("log", "others", "left"), [(None, [], False), ("", [], False), ("", ["mine"], True)])
def test_a_run_that_sampled_nothing_is_taken_back(tmp_path, log, others, left):
    run = RunFolder(tmp_path / "run")
    run.write_manifest({})
    if log is not None:
        run.log_path.write_text(log)
    for name in others:
        (run.path / name).touch()
    run.forget()
    assert run.path.is_dir() == left
    assert not left or [p.name for p in run.path.iterdir()] == others


def test_what_was_sampled_is_never_taken_back(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.write_manifest({})
    run.log_path.write_text("{}\n")
    run.forget()
    assert sorted(p.name for p in run.path.iterdir()) == ["manifest.json", "trajectories.jsonl"]
