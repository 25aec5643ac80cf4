"""The shipped models come from the shipped recipes: any CPU repeats the first losses of each, to 2e-3."""

from __future__ import annotations

import pytest
import torch

from harness.distill.recipe import EXACT_STEPS, load_recipe
from harness.distill.train import read_losses, train
from harness.models.resolve import EMBEDDED, load_model

CPU = torch.device("cpu")
RELATIVE = 2e-3


@pytest.mark.parametrize("name", ["tiny-teacher", "tiny-hybrid", "tiny-mamba"])
def test_the_first_losses_can_be_repeated(name, tmp_path):
    committed = EMBEDDED / name / "losses.csv"
    if not committed.is_file():
        pytest.skip(f"{name} is not embedded here: no losses.csv")
    recipe, digest = load_recipe(name)
    teacher = None
    if recipe.teacher is not None:
        if not (EMBEDDED / recipe.teacher / "model.safetensors").is_file():
            pytest.skip(f"{recipe.teacher} is not embedded here: no teacher for {name}")
        teacher = load_model(recipe.teacher, torch.float32, CPU).decoder
    train(recipe, digest, teacher, tmp_path, CPU, 0, stop_after=EXACT_STEPS)
    wanted, got = read_losses(committed)[:EXACT_STEPS], read_losses(tmp_path / "losses.csv")
    assert [row["step"] for row in got] == [row["step"] for row in wanted] == [str(i) for i in range(EXACT_STEPS)]
    for field in ("objective", "lr", "rows", "tokens"):
        assert [row[field] for row in got] == [row[field] for row in wanted], field
    assert [float(r["loss"]) for r in got] == pytest.approx([float(r["loss"]) for r in wanted], rel=RELATIVE)
