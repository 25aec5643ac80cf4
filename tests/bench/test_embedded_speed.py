"""results/h100/embedded_speed.py: what it runs on either side and which rates it divides; nothing is sampled."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.budgets.loader import load_budget

SCRIPT = Path(__file__).parents[2] / "results" / "h100" / "embedded_speed.py"


@pytest.fixture(scope="module")
def script(h100_script: Callable[[str], Any]) -> Any:
    return h100_script("embedded_speed")


@pytest.fixture
def machine(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Eight CPUs, two a core, of which all but the first are allowed; a command that says what it was given.

    ``calls``: (command, environment, CPUs) of each run. ``rates``: of the GPU's runs, then of each number of threads'.
    """
    calls: list[tuple[list[str], dict[str, str], set[int]]] = []
    rates: dict[int, list[float]] = {0: [], 1: [], 3: []}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1, 8)))
    monkeypatch.setattr(script, "TOPOLOGY", topology(tmp_path, ["0,4", "1,5", "2,6", "3,7"] * 2))

    def run(command: list[str], *, env: dict[str, str], preexec_fn: Any, **_: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(os, "sched_setaffinity", lambda _, chosen: calls.append((command, env, set(chosen))))
            preexec_fn()
        budget, folder = load_budget(command[command.index("--budget") + 1]), Path(command[-1])
        assert (budget.seconds, budget.drain, budget.batch) == ((4.0,), False, 32)
        threads = 0 if env.get("CUDA_VISIBLE_DEVICES") != "" else int(env["OMP_NUM_THREADS"])
        folder.mkdir()
        facts = {"device": {"name": "C" if threads else "G"}, "engine": "eager" if threads else "native"}
        facts |= {"dtype": "float32" if threads else "bfloat16", "threads": {"tiny": threads or 1}}
        (folder / "manifest.json").write_text(json.dumps(facts))
        rows = [{"model": "tiny", "second": s, "tokens_per_s": rates[threads].pop(0)} for s in budget.seconds]
        (folder / "report.json").write_text(json.dumps({"budgets": rows}))
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(script.subprocess, "run", run)
    return {"calls": calls, "rates": rates}


def topology(folder: Path, siblings: list[str]) -> Path:
    for cpu, listed in enumerate(siblings):
        path = folder / "cpus" / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        path.parent.mkdir(parents=True)
        path.write_text(f"{listed}\n")
    return folder / "cpus"


def test_both_sides_run_the_same_command_and_the_faster_cpu_counts(
    script: Any, machine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    machine["rates"].update({0: [900.0], 1: [10.0], 3: [30.0]})
    path = tmp_path / "rows.csv"
    arguments = ["x", "--csv", str(path), "--seconds", "4", "--threads", "3", "1", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    calls = machine["calls"]
    assert [chosen for _, _, chosen in calls] == [set(range(1, 8)), {1, 2}, {1, 2}]
    assert len({tuple(command[command.index("bench") : -1]) for command, _, _ in calls}) == 1
    with path.open(newline="") as file:
        found = [tuple(line.values()) for line in csv.DictReader(file)]
    assert found == [
        ("tiny", "G", "native", "bfloat16", "1", "", "4.0", "1", "900.0", "900.0", "900.0", "30.0"),
        ("tiny", "C", "eager", "float32", "3", "1 2", "4.0", "1", "30.0", "30.0", "30.0", ""),
        ("tiny", "C", "eager", "float32", "1", "1 2", "4.0", "1", "10.0", "10.0", "10.0", ""),
    ]
    printed = capsys.readouterr().out
    assert "G, native, bfloat16, threads 1" in printed and "on CPUs [1, 2], a physical core each" in printed


def test_repeats_take_turns_and_the_medians_are_divided(
    script: Any, machine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine["rates"].update({0: [900.0, 100.0, 800.0], 3: [20.0, 10.0, 1.0]})
    path = tmp_path / "rows.csv"
    monkeypatch.setattr(sys, "argv", ["x", "--csv", str(path), "--seconds", "4", "--threads", "3"])
    script.main()
    assert [len(chosen) for _, _, chosen in machine["calls"]] == [7, 2] * 3
    with path.open(newline="") as file:
        names = ("repeats", "tokens_per_s", "least", "most", "over_cpu")
        found = [tuple(line[name] for name in names) for line in csv.DictReader(file)]
    assert found == [("3", "800.0", "100.0", "900.0", "80.0"), ("3", "10.0", "1.0", "20.0", "")]


def test_repeats_of_different_things_are_no_median(script: Any) -> None:
    first, other = (script.Row("tiny", "C", "eager", d, 2, "", 1.0, 1, 5.0, 5.0, 5.0) for d in ("float32", "bfloat16"))
    with pytest.raises(SystemExit, match="differ in more than their rates"):
        script.median_rows([[first], [other]])


@pytest.mark.parametrize(
    ("siblings", "allowed", "cores"),
    [
        (["0-1", "0-1", "2-3", "2-3"], {0, 1, 2, 3}, [0, 2]),
        (["0,2", "1,3", "0,2", "1,3"], {0, 1, 2, 3}, [0, 1]),
        (["0,2", "1,3", "0,2", "1,3"], {0, 2, 3}, [0, 3]),
        (["0", "1"], {0, 1}, [0, 1]),
        ([], {4, 9, 11}, [4, 9]),  # a machine that lists none
    ],
)
def test_two_physical_cores_are_taken(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, siblings: list[str], allowed: set[int], cores: list
) -> None:
    monkeypatch.setattr(script, "TOPOLOGY", topology(tmp_path, siblings))
    assert script.physical_cores(allowed) == cores


def test_two_threads_of_one_core_are_refused(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "TOPOLOGY", topology(tmp_path, ["0-1", "0-1"]))
    with pytest.raises(SystemExit, match=r"1 physical core\(s\) allowed, of CPUs \[0, 1\]; this needs 2"):
        script.physical_cores({0, 1})


def test_a_cpu_without_a_token_is_no_ratio(script: Any) -> None:
    rows = [script.Row("tiny", "C", "eager", "float32", 2, "", 1.0, 1, *3 * [rate]) for rate in (5.0, 0.0)]
    with pytest.raises(SystemExit, match=r"tiny: the CPU has no token by 1 s"):
        script.beside(rows[:1], rows[1:])


def test_the_threads_asked_for_are_those_of_the_session(script: Any) -> None:
    """The line put before the command line, without the command."""
    text = script._WITH_THREADS.replace("main()\n", "print(session.os.cpu_count(), session.SMALL_MODEL_PARAMETERS)\n")
    done = subprocess.run([sys.executable, "-c", text, "3"], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["3", "0"], done.stderr
