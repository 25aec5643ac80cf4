"""results/h100/mamba1_kernels.py: the dry run goes through every part, what is swept, and the bytes it divides by."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.bench.cell import Cell
from harness.bench.plan import plan_step
from harness.bench.regress_workload import tiny_hybrid
from harness.models.shapes import SHAPES

FOLDER = Path(__file__).parents[2] / "results" / "h100"


@pytest.fixture(scope="module")
def script(h100_script: Callable[[str], Any]) -> Any:
    return h100_script("mamba1_kernels")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a dry run on a GPU would compile tiny shapes")
def test_dry_run(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mamba1.csv"
    monkeypatch.setattr(sys, "argv", ["x", "--dry-run", "--csv", str(path)])
    script.main()
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["state"], line["what"]) for line in lines] == [
        (state, what) for state in ("float16", "float32") for what in ("table", "swept")
    ]
    monkeypatch.setattr(sys, "argv", ["x", "--dry-run", "--compile", "1", "2"])
    script.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the kernel on the CPU, interpreted")
def test_a_launch_that_computes_something_else_is_not_timed(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = script.cells(dry=True)
    inputs, step = script.Inputs(cell, torch.float32), script.mamba1_step_triton

    def wrong(*given: Any) -> torch.Tensor:
        y = step(*given)
        given[5][0, 0, 0] += 10 if given[-1] == script.Launch(128, 2, 4) else 0
        return y

    monkeypatch.setattr(script, "mamba1_step_triton", wrong)
    with pytest.raises(SystemExit, match=r"Launch\(block=128, .* is off by"):
        list(script.sweep([inputs], script.launches(cell, torch.float32, True), float("inf"), 2e-2))


@pytest.mark.parametrize(("model", "rows"), [("mamba-in-llama-3b", 280), ("mamba-in-llama-1b", 256)])
def test_bytes_are_those_of_the_engines_plan(script: Any, model: str, rows: int) -> None:
    config = SHAPES[model]
    plan = plan_step(config, tiny_hybrid().codec, Cell(rows, 128, 512), torch.bfloat16, torch.float16)
    (step,) = (part for part in plan if part.name == "mamba1_step.step_kernel")
    cell = script.Cell(model, config.mamba1, rows, torch.device("cuda"))
    assert cell.bytes(torch.float16) == (step.read + step.written) / step.launches


def test_the_sweep_begins_with_the_tables_launch_and_its_like(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    table = script.launch_for(128, 3072, torch.float16, torch.device("cuda"))
    for cell in (cell for cell in script.cells(dry=False) if cell.rows == 128):
        found = script.launches(cell, torch.float16, True)
        assert found[0] == table and len(found) == len(set(found)) > 30
        assert set(script.launches(cell, torch.float16, False)) == {table, script.DEFAULT_LAUNCH} <= set(found)
        near = found[2]
        assert sum(getattr(near, f) != getattr(table, f) for f in ("block", "block_rows", "warps")) == 1
