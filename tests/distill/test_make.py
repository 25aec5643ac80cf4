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
    make("tiny-mamba", None, out, cpu, 0.001, 0, Console(file=io.StringIO()))
    training = json.loads((out / "training.json").read_text())
    assert (training["steps"], training["scale"], training["teacher"]) == (3, 0.001, "tiny-teacher")
    assert training["recipe_sha256"] == load_recipe("tiny-mamba")[1]
    assert training["teacher_sha256"] == load_model("tiny-teacher", torch.float32, cpu).sha256
    loaded = load_model(str(out), torch.float32, cpu)
    assert loaded.config == load_recipe("tiny-mamba")[0].model
    assert "Not measured yet" in (out / "README.md").read_text() and (out / "losses.png").is_file()
