"""The gate without a clock: what counts as growth, what is said of it, and what the host's calls are counted by."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from harness.bench import regress_plan
from harness.bench.regress_plan import (
    BASELINE,
    CELLS,
    KERNELS,
    PLANNED,
    Figures,
    check_plan,
    compare,
    current_figures,
    kernels_changed,
    read_figures,
    write_figures,
)
from harness.bench.regress_workload import SynchronisingCalls, workload_counts
from harness.records import InputError

ROOT = Path(__file__).parents[2]
STEP = "llamba-1b, 256 x (128 + 1024)"
KERNEL_FIGURES = {"norm": [3, 300], "mm [2, 3] x [3, 4]": [2, 400]}
FIGURES: Figures = {
    "steps": {STEP: {"launches": 5, "bytes": 700, "pool bytes": 9000, KERNELS: KERNEL_FIGURES}},
    "workload": {"native": {"steps": 16, "synchronising calls": 0}},
}


def changed(**changes: int) -> Figures:
    figures = copy.deepcopy(FIGURES)
    figures["steps"][STEP].update(changes)
    return figures


def test_growth_fails_and_a_fall_does_not() -> None:
    assert compare(FIGURES, FIGURES) == []
    (grown,) = compare(FIGURES, changed(launches=6))
    assert grown.fails and str(grown) == f"{STEP}: launches 5 -> 6"
    (fallen,) = compare(FIGURES, changed(bytes=650))
    assert not fallen.fails
    new, gone = copy.deepcopy(FIGURES), copy.deepcopy(FIGURES)
    new["steps"]["another"] = {"launches": 1, KERNELS: {}}
    del gone["workload"]["native"]["synchronising calls"]
    assert [c.fails for c in compare(FIGURES, new)] == [True]
    assert [str(c) for c in compare(FIGURES, gone) if c.fails] == ["native: synchronising calls 0 -> none"]


def test_kernels_say_where_a_total_went() -> None:
    fused = copy.deepcopy(FIGURES)
    fused["steps"][STEP][KERNELS] = {"norm": [2, 300], "fused": [1, 100]}
    assert kernels_changed(FIGURES, fused, STEP) == [
        "norm: launches 3 -> 2, bytes 300 -> 300",
        "fused: launches none -> 1, bytes none -> 100",
        "mm [2, 3] x [3, 4]: launches 2 -> none, bytes 400 -> none",
    ]
    assert kernels_changed(FIGURES, fused, "native") == []


@pytest.mark.parametrize(
    ("now", "holds", "says"),
    [
        (FIGURES, True, ["plan: as in"]),
        (changed(launches=6), False, [f"GREW  {STEP}: launches 5 -> 6", "1 figures grew"]),
        (changed(bytes=650), True, [f"fell  {STEP}: bytes 700 -> 650", "1 figures fell"]),
    ],
)
def test_the_gate_says_what_changed(
    now: Figures, holds: bool, says: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_figures(tmp_path / "plan.json", FIGURES)
    monkeypatch.setattr(regress_plan, "current_figures", lambda: now)
    console = Console(record=True, width=200)
    assert check_plan(tmp_path / "plan.json", False, console) is holds
    text = console.export_text()
    assert all(part in text for part in says)
    assert read_figures(tmp_path / "plan.json") == FIGURES


def test_figures_survive_the_file_with_a_kernel_a_line(tmp_path: Path) -> None:
    write_figures(tmp_path / "plan.json", FIGURES)
    assert read_figures(tmp_path / "plan.json") == FIGURES
    assert '    "norm": [3, 300],\n' in (tmp_path / "plan.json").read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"steps": {"a": 3}, "workload": {}}', '{"steps": {}, "workload": 1}']
)
def test_a_file_of_something_else_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan.json: not a plan's figures .* `harness regress --write`"):
        read_figures(tmp_path / "plan.json")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere.json: cannot be read"):
        read_figures(Path("nowhere.json"))


def test_the_committed_figures_are_of_this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the native workload, which takes the interpreter seconds; in CI `harness regress --plan` holds it."""
    committed = read_figures(ROOT / BASELINE)
    assert len(committed["steps"]) == len(PLANNED) * len(CELLS)
    native = committed["workload"]["native"]
    assert native["synchronising calls"] == 0
    counts = {"native": native, "eager": workload_counts("eager")}
    monkeypatch.setattr(regress_plan, "workload_counts", counts.__getitem__)
    assert [str(change) for change in compare(committed, current_figures())] == []
    assert json.loads((ROOT / BASELINE).read_text()) == committed


def test_calls_that_wait_for_a_gpu_are_counted() -> None:
    x = torch.arange(4.0)
    with SynchronisingCalls() as calls:
        x.sum().item()
        float(x[0])
        bool(x[1] > 0)
        x.cpu()
        x.to("cpu")
        x.tolist()
        x.nonzero()
        x[x > 1]
        x[torch.tensor([True, False, True, False])] = 0.0
    assert calls.counts == {
        "local_scalar_dense": 3, "cpu": 2, "tolist": 1, "nonzero": 1, "index by a mask": 2,
    }  # fmt: skip


def test_calls_that_stay_on_the_device_are_not() -> None:
    x, place = torch.arange(4.0), torch.tensor([1, 2])
    with SynchronisingCalls() as calls:
        x[place] = x[place] + 1
        x.to(torch.float64).to(x.device)
        torch.empty(4).copy_(x, non_blocking=True)
        calls.paused = True
        x.sum().item()
    assert calls.counts == {}
