"""Commands about tasks and models: tasks, models, distill."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from harness.cli.group import Group


@click.group("tasks", invoke_without_command=True, cls=Group)
@click.pass_context
def tasks_group(ctx: click.Context) -> None:
    """List the tasks and say which are at hand."""
    if ctx.invoked_subcommand is not None:
        return
    from harness.tasks.loader import list_tasks
    from harness.tasks.tables import print_tasks

    print_tasks(list_tasks(), Console())


@tasks_group.command("verify")
def tasks_verify() -> None:
    """Check count and sha256 of every task at hand; exit code 1 where one does not fit."""
    from harness.tasks.loader import verify_tasks
    from harness.tasks.tables import print_checks

    checks = verify_tasks()
    print_checks(checks, Console())
    if any(check.ok is False for check in checks):
        sys.exit(1)


@click.group("models", cls=Group)
def models_group() -> None:
    """What --model takes: list, inspect, convert and fetch checkpoints."""


@models_group.command("list")
def models_list() -> None:
    """Names of models, and the formats that a folder may be in."""
    from harness.bench.models import list_models

    list_models(Console())


@models_group.command("inspect")
@click.argument("model")
@click.option("--teacher", help="Name or folder; predicts from where on MODEL is the faster one.")
@click.option("--batch", default=64, show_default=True, help="Rows, for the crossover.")
@click.option("--prompt", default=128, show_default=True, help="Tokens of each prompt.")
@click.option("--new-tokens", default=2048, show_default=True, help="Longest chain.")
@click.option("--rows-per-prompt", default=1, show_default=True, help="Rows that share a prompt.")
@click.option("--memory-gib", default=80.0, show_default=True, help="Of the GPU.")
def models_inspect(model: str, teacher: str | None, memory_gib: float, **given: Any) -> None:
    """Format, layers, parameters, bytes per slot and largest batch in bf16; no weights are loaded."""
    from harness.bench.models import Device, inspect_model
    from harness.bench.roofline import Workload

    inspect_model(model, teacher, Workload(state_bytes=4, **given), Device(memory_gib), Console())


@models_group.command("convert")
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--dtype", default="bfloat16", show_default=True, help="Of the weights: float32, float64 or bfloat16.")
def models_convert(source: str, target: Path, dtype: str) -> None:
    """Write SOURCE (any format) into the folder TARGET in our layout."""
    import torch

    from harness.bench.models import convert_model
    from harness.bench.settings import choose_dtype

    convert_model(source, target, choose_dtype(dtype, torch.device("cpu")), Console())


@models_group.command("fetch")
@click.argument("hub_id")
@click.option("--revision", help="Branch, tag or commit. [main]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [the last part of HUB_ID]")
def models_fetch(hub_id: str, revision: str | None, out: Path | None) -> None:
    """Bring HUB_ID from the Hugging Face hub; goes on where it was stopped."""
    from harness.bench.models import fetch_model

    fetch_model(hub_id, revision, out or Path(hub_id.rpartition("/")[2]), Console())


@models_group.command("check")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--docs", type=click.Path(path_type=Path, exists=True), help="Page whose table is written anew.")
def models_check(folder: Path, docs: Path | None) -> None:
    """Hold the loaders against vectors of the original code; exit code 1 where logits part."""
    from harness.bench.vectors import check_vectors

    failing = check_vectors(folder, docs, Console())
    for line in failing:
        click.echo(f"harness: {line}", err=True)
    if failing:
        sys.exit(1)


@click.command("distill")
@click.argument("recipe")
@click.option("--teacher", help="Name or folder of the teacher. [the recipe's]")
@click.option("--out", type=click.Path(path_type=Path), help="Where it trains. [results/distill/RECIPE]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--scale", default=1.0, show_default=True, help="Share of the recipe's steps, for a trial.")
@click.option("--workers", type=int, help="Processes that make training rows. [cores - 2]")
def distill_command(
    recipe: str, teacher: str | None, out: Path | None, device: str, scale: float, workers: int | None
) -> None:
    """Train an embedded model from a recipe; goes on where it was stopped."""
    # Batch shapes vary; without this each new one costs a round of allocation. Read when torch is first imported.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    from harness.bench.settings import choose_device
    from harness.distill.make import make

    make(recipe, teacher, out, choose_device(device), scale, workers, Console())
