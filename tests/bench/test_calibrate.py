"""Calibration looks at its own fifth of the problems alone, and what it chose is what the evaluation runs with."""

from __future__ import annotations

import dataclasses
import io

import torch
from rich.console import Console

from harness.bench.calibrate import calibrate
from harness.bench.sampling import sample
from harness.bench.settings import Settings
from harness.records import Budget
from harness.runs.folder import RunFolder
from harness.runs.log import read_log
from harness.tasks.loader import load_task

BUDGET = Budget(
    seconds=(0.02, 0.2),
    clock="task",
    samples_per_problem=2,
    max_new_tokens=16,
    temperature=0.8,
    top_p=1.0,
    top_k=0,
    seed=3,
    batch="calibrated",
    drain=True,
    limit=10,
)


def settings(**changes: object) -> Settings:
    task = load_task("builtin")
    budget = dataclasses.replace(BUDGET, **changes)
    return Settings(("random:tiny-mamba",), task, budget, torch.device("cpu"), torch.float32, fake_clock=True)


def test_a_frozen_fifth_is_split_off_and_nothing_else():
    given = settings()
    first = [p.id for p in given.task.problems[:10]]
    assert [p.id for p in given.calibration] == [first[0], first[6]]
    assert sorted(p.id for p in (*given.calibration, *given.problems)) == sorted(first)
    whole = settings(batch=4)
    assert [p.id for p in whole.problems] == first


def test_the_trials_shrink_the_clock_with_the_problems_and_go_from_large_to_small():
    given, told = settings(), []
    outcome = calibrate(given, "random:tiny-mamba", told.append)
    assert outcome["problems"] == [p.id for p in given.calibration]
    assert outcome["seconds"] == [s * 2 / 8 for s in BUDGET.seconds]
    tried = [t["batch"] for t in outcome["trials"]]
    # Four jobs in all: `max` is 4, candidates that are no smaller than one already tried are left out.
    assert tried == [4, 1] and len(told) == 2
    best = max(outcome["trials"], key=lambda t: (t["score"], t["finished"]))
    assert outcome["batch"] == best["batch"]


def test_the_evaluation_runs_at_the_chosen_batch_on_the_other_problems(tmp_path):
    given, folder = settings(), RunFolder(tmp_path / "run")
    sample(given, folder, False, Console(file=io.StringIO()))
    manifest, log = folder.read_manifest(), read_log(folder.log_path)
    chosen = manifest["calibration"]["random:tiny-mamba"]["batch"]
    assert manifest["batch"] == {"random:tiny-mamba": chosen}
    assert {t.batch for t in log.trajectories} == {chosen}
    assert {t.problem_id for t in log.trajectories} == {p.id for p in given.problems}
