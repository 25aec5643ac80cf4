"""results/h100/embedded_speed.py: what it runs on either side and which rates it divides; nothing is sampled."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.budgets.loader import load_budget

SCRIPT = Path(__file__).parents[2] / "results" / "h100" / "embedded_speed.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("embedded_speed", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["embedded_speed"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_both_sides_run_the_same_command_and_the_faster_cpu_counts(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], dict[str, str], set[int]]] = []
    cores = set(range(4))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores))

    def run(command: list[str], *, env: dict[str, str], preexec_fn: Any, **_: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(os, "sched_setaffinity", lambda _, chosen: calls.append((command, env, set(chosen))))
            preexec_fn()
        budget, folder = load_budget(command[command.index("--budget") + 1]), Path(command[-1])
        assert (budget.seconds, budget.drain, budget.batch) == ((4.0,), False, 32)
        on_gpu = env.get("CUDA_VISIBLE_DEVICES") != ""
        threads = 1 if on_gpu else int(env["OMP_NUM_THREADS"])
        folder.mkdir()
        facts = {"device": {"name": "G" if on_gpu else "C"}, "engine": "native" if on_gpu else "eager"}
        (folder / "manifest.json").write_text(json.dumps(facts | {"threads": {"tiny": threads}}))
        rate = 900.0 if on_gpu else 10.0 * threads
        rows = [{"model": "tiny", "second": s, "tokens_per_s": rate} for s in budget.seconds]
        (folder / "report.json").write_text(json.dumps({"budgets": rows}))
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(script.subprocess, "run", run)
    path = tmp_path / "rows.csv"
    monkeypatch.setattr(sys, "argv", ["x", "--csv", str(path), "--seconds", "4", "--threads", "3", "1"])
    script.main()
    assert [chosen for _, _, chosen in calls] == [cores, {0, 1}, {0, 1}]
    assert len({tuple(command[command.index("bench") : -1]) for command, _, _ in calls}) == 1
    with path.open(newline="") as file:
        found = [tuple(line.values()) for line in csv.DictReader(file)]
    assert found == [
        ("tiny", "G", "native", "1", "4.0", "900.0", "30.0"),
        ("tiny", "C", "eager", "3", "4.0", "30.0", ""),
        ("tiny", "C", "eager", "1", "4.0", "10.0", ""),
    ]


def test_a_cpu_without_a_token_is_no_ratio(script: Any) -> None:
    rows = [script.Row("tiny", "C", "eager", 2, 1.0, rate) for rate in (5.0, 0.0)]
    with pytest.raises(SystemExit, match=r"tiny: the CPU has no token by 1 s"):
        script.beside(rows[:1], rows[1:])


def test_the_threads_asked_for_are_those_of_the_session(script: Any) -> None:
    """The line put before the command line, without the command."""
    text = script._WITH_THREADS.replace("main()\n", "print(session.os.cpu_count(), session.SMALL_MODEL_PARAMETERS)\n")
    done = subprocess.run([sys.executable, "-c", text, "3"], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["3", "0"], done.stderr
