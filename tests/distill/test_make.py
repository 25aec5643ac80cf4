"""A recipe becomes a model folder that loads: weights, tokenizer, losses, card, and how it was made."""

from __future__ import annotations

import io
import json

import torch
from rich.console import Console

from harness.distill.make import make
from harness.distill.recipe import load_recipe
from harness.models.resolve import load_model


def test_a_trial_of_a_recipe_makes_a_model_that_loads(tmp_path):
    cpu, out = torch.device("cpu"), tmp_path / "trial"
    make("tiny-mamba", None, out, cpu, 0.0001, 0, Console(file=io.StringIO()))
    training = json.loads((out / "training.json").read_text())
    recipe, digest = load_recipe("tiny-mamba")
    steps = sum(max(1, round(0.0001 * stage.steps)) for stage in recipe.stages)
    assert (training["steps"], training["scale"], training["teacher"]) == (steps, 0.0001, "tiny-teacher")
    assert training["recipe_sha256"] == digest
    assert training["teacher_sha256"] == load_model("tiny-teacher", torch.float32, cpu).sha256
    loaded = load_model(str(out), torch.float32, cpu)
    assert loaded.config == recipe.model
    assert "Not measured yet" in (out / "README.md").read_text() and (out / "losses.png").is_file()
