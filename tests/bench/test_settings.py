"""What a run may not ask for, said before anything is loaded."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.bench.settings import Settings
from harness.budgets.loader import load_budget
from harness.records import InputError
from harness.tasks.loader import load_task


@pytest.mark.parametrize(
    ("changes", "batch", "message"),
    [
        ({"fixed_rows": 0}, 8, "--fixed-rows 0: must be at least 1"),
        ({"fixed_rows": 8, "engine": "eager"}, 8, "--fixed-rows: is for --engine native, not eager"),
        ({"fixed_rows": 8}, 9, "--fixed-rows 8: budget.batch = 9 is more"),
        ({"fixed_rows": 8}, "calibrated", "--fixed-rows 8: leaves no batch to calibrate"),
        ({"request_seeds": True}, 8, "--request-seeds: is for --engine vllm, not native"),
        ({"models": ("a", "a")}, 8, "--model a a: one is named twice"),
    ],
)
def test_what_a_run_may_not_ask_for(changes: dict[str, object], batch: int | str, message: str) -> None:
    budget = dataclasses.replace(load_budget("quick"), batch=batch)
    given = {"models": ("a",), "task": load_task("builtin", limit=5), "budget": budget, "engine": "native"} | changes
    with pytest.raises(InputError) as error:
        Settings(device=torch.device("cuda"), dtype=torch.bfloat16, **given)  # type: ignore[arg-type]
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
