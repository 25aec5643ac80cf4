"""The model card of an embedded model: README.md and losses.png, written from files beside the weights.

training.json says how the model was made, losses.csv how it went, accuracy.json (where a run has
been scored) what it reached and in which run. Nothing in a card is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harness.distill.recipe import load_recipe
from harness.distill.train import read_losses
from harness.models.checkpoints.native import CONFIG, sha256, weights_path
from harness.models.config import DecoderConfig

TRAINING, ACCURACY, LOSSES, PLOT = "training.json", "accuracy.json", "losses.csv", "losses.png"
_OBJECTIVES = {
    "pretrain": "cross-entropy on the solution's tokens (nats)",
    "mixers": "layer-wise match of each new mixer to the attention it replaces (relative squared error)",
    "hidden": "match of block outputs, end to end (relative squared error)",
    "kd": "forward KL to the teacher, temperature 1, whole vocabulary (nats)",
}


def write_card(folder: Path) -> None:
    """(Re)write README.md and losses.png of the model in ``folder``."""
    _plot(folder)
    (folder / "README.md").write_text(card(folder), encoding="utf-8")


def card(folder: Path) -> str:
    """The card's text (Markdown)."""
    training = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    config = DecoderConfig.load(folder / CONFIG)
    recipe, _ = load_recipe(training["recipe"])
    attention = sum(kind == "attention" for kind in config.layers)
    kinds = f"{len(config.layers)} layers, {attention} of them attention"
    source = "trained from scratch" if recipe.teacher is None else f"distilled from {recipe.teacher}"
    command = f"harness distill {training['recipe']}"
    millions = training["parameters"] / 1e6
    lines = [
        f"# {training['recipe']}",
        "",
        f"A decoder of {millions:.2f} M parameters ({kinds}, width {config.width}), {source} for the built-in task of"
        " this benchmark. It says nothing about models of useful size: it makes the whole harness run"
        " on any machine. At these sizes a student's gain in speed is small for short chains.",
        "",
        "| | |",
        "|---|---|",
        "| data | solutions of the built-in generator (`harness.tasks.builtin`), none of a test problem |",
        f"| command | `{command}`{_teacher(training)} |",
        f"| recipe sha256 | `{training['recipe_sha256']}` |",
        f"| commit | `{training['commit']}` |",
        f"| seed | {training['seed']} |",
        f"| device | {training['device']}, torch {training['torch']} |",
        f"| steps, tokens, time | {training['steps']}, {training['tokens'] / 1e6:.1f} M, {training['seconds']:.0f} s |",
        f"| last loss | {training['final_loss']:.4g} ({_OBJECTIVES[recipe.stages[-1].objective]}) |",
        f"| weights | bf16, sha256 `{sha256(weights_path(folder))}` |",
        "| licence | Apache-2.0 |",
        "",
        "## Training",
        "",
        "| stage | steps | problems a step | peak rate | loss |",
        "|---|---:|---:|---:|---|",
        *(f"| {s.objective} | {s.steps} | {s.rows} | {s.lr:g} | {_OBJECTIVES[s.objective]} |" for s in recipe.stages),
        "",
        f"![losses]({PLOT})",
        "",
        f"The first 20 steps use {recipe.exact_rows} problems each and fp32 products, so that a test repeats their"
        " losses on a CPU. All losses are in `losses.csv`.",
        "",
        *_accuracy(folder),
    ]
    return "\n".join(lines)


def _teacher(training: Mapping[str, Any]) -> str:
    return "" if training["teacher"] is None else f" (teacher's weights: sha256 `{training['teacher_sha256']}`)"


def _accuracy(folder: Path) -> list[str]:
    path = folder / ACCURACY
    if not path.is_file():
        return ["## Accuracy", "", "Not measured yet.", ""]
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        f"| {r['k']} | {100 * r['pass']:.1f} | {100 * r['guess']:.1f} | {100 * r['majority']:.1f} |"
        for r in data["at_k"]
    ]
    return [
        "## Accuracy",
        "",
        f"On {data['problems']} held-out built-in problems (task sha256 `{data['task_sha256'][:16]}`), temperature"
        f" {data['temperature']:g}, {data['samples']} samples each, drained; {data['device']}, {data['date']}, commit"
        f" `{data['commit'][:12]}`. Command: `{data['command']}`.",
        "",
        "| k | pass@k % | blind guessing % | majority@k % |",
        "|---:|---:|---:|---:|",
        *rows,
        "",
        f"Mean chain: {data['mean_length']:.0f} tokens; {100 * data['truncated']:.1f} % cut at the limit.",
        "",
    ]


def _plot(folder: Path) -> None:
    losses = read_losses(folder / LOSSES)
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for objective in dict.fromkeys(r["objective"] for r in losses):
        mine = [r for r in losses if r["objective"] == objective]
        axes.plot([int(r["step"]) for r in mine], [float(r["loss"]) for r in mine], lw=0.8, label=objective)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=f"{folder.name}: loss by stage")
    axes.legend(frameon=False)
    figure.savefig(folder / PLOT, dpi=90)
