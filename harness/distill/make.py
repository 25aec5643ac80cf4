"""From a recipe to a model folder in our layout: training with a progress bar, then weights, card and losses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.distill.card import LOSSES, TRAINING, write_card
from harness.distill.recipe import load_recipe, scaled
from harness.distill.train import read_losses, train
from harness.models.checkpoints import native
from harness.models.decoder import Decoder
from harness.models.resolve import load_model
from harness.records import InputError
from harness.runs.manifest import commit, device_facts
from harness.tasks.builtin.tokenizer import PATH as TOKENIZER

DISTILLED = Path("results") / "distill"


def make(
    recipe_name: str,
    teacher_name: str | None,
    out: Path | None,
    device: torch.device,
    scale: float,
    workers: int | None,
    console: Console,
) -> Path:
    """Train ``recipe_name`` and write its model folder; returns the folder.

    ``scale`` below 1 is a trial at that share of the steps. The summary (commit, recipe sha256, seed,
    device, tokens, seconds) goes to training.json beside the weights.
    """
    recipe, digest = load_recipe(recipe_name)
    if scale <= 0:
        raise InputError(f"--scale {scale}: must be above 0")
    if scale != 1:
        recipe = scaled(recipe, scale)
    folder = out or DISTILLED / recipe.name
    teacher: Decoder | None = None
    teacher_sha256 = None
    if recipe.teacher is not None:
        loaded = load_model(teacher_name or recipe.teacher, torch.float32, device)
        teacher, teacher_sha256 = loaded.decoder, loaded.sha256
    elif teacher_name is not None:
        raise InputError(f"--teacher {teacher_name}: recipe {recipe.name} trains from scratch; leave it out")
    if workers is None:
        workers = max(0, (os.cpu_count() or 1) - 2)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(recipe.name, total=recipe.steps)

        def on_step(step: int, record: dict[str, object]) -> None:
            text = f"{recipe.name} {record['objective']} loss {record['loss']}"
            bar.update(task, completed=step + 1, description=text)

        # A checkpoint belongs to this recipe and this very teacher.
        identity = digest if teacher_sha256 is None else f"{digest}:{teacher_sha256}"
        model = train(recipe, identity, teacher, folder, device, workers, on_step=on_step)
    native.save(model, folder)
    shutil.copyfile(TOKENIZER, folder / native.TOKENIZER)
    losses = read_losses(folder / LOSSES)
    seconds = float(losses[-1]["seconds"])
    tokens = sum(int(r["tokens"]) for r in losses)
    summary = {
        "recipe": recipe.name,
        "recipe_sha256": digest,
        "scale": scale,
        "commit": commit(),
        "seed": recipe.seed,
        "device": device_facts(device)["name"],
        "torch": torch.__version__,
        "teacher": recipe.teacher,
        "teacher_sha256": teacher_sha256,
        "steps": recipe.steps,
        "tokens": tokens,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "final_loss": float(losses[-1]["loss"]),
    }
    (folder / TRAINING).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    write_card(folder)
    console.print(
        f"{folder}: {recipe.steps} steps, {tokens / 1e6:.1f} M tokens in {seconds:.0f} s"
        f" ({tokens / max(seconds, 1e-9) / 1e3:.0f}k tokens/s), final loss {losses[-1]['loss']}",
        highlight=False,
    )
    return folder
