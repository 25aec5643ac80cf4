"""Commands about speed: throughput, regress, curves."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from harness.records import InputError


@click.command("throughput")
@click.option("--model", "models", multiple=True, required=True, help="As for bench; several times.")
@click.option("--batch", "batches", multiple=True, type=int, default=(64,), show_default=True, help="Several times.")
@click.option(
    "--new-tokens", "lengths", multiple=True, type=int, default=(256,), show_default=True, help="Several times."
)
@click.option("--cell", "pairs", multiple=True, metavar="BATCHxTOKENS", help="Instead of both; several times.")
@click.option("--prompt", default=128, show_default=True, help="Tokens of each prompt.")
@click.option("--rows-per-prompt", default=1, show_default=True, help="Rows that share a prompt.")
@click.option("--ignore-eos", is_flag=True, help="Every row runs to its last token.")
@click.option(
    "--against", multiple=True, type=click.Choice(["vllm", "mamba-ssm"]), help="The same cells there; several times."
)
@click.option("--vllm-settings", metavar="WORDS", help="Only these of vLLM's grid; see docs/vllm.md.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Where the rows go, after each cell.")
@click.option("--go-on", is_flag=True, help="Keep the rows of --csv and leave out the cells it has.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="A PNG of all rows of these models.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, float64 or bfloat16.")
@click.option("--engine", default="auto", show_default=True, help="auto (native on a GPU, else eager), eager, native.")
@click.option("--state-dtype", default="float32", show_default=True, help="Of SSM states: float32, float16, bfloat16.")
def throughput_command(**given: Any) -> None:
    """Tokens/s over model x batch x length, beside the roofline."""
    from harness.bench.grid import Grid, run_grid
    from harness.bench.settings import choose_device, choose_dtype, choose_state_dtype
    from harness.engine.engines import choose_engine

    device = choose_device(given.pop("device"))
    dtype, state_dtype = choose_dtype(given.pop("dtype"), device), choose_state_dtype(given.pop("state_dtype"))
    given["engine"] = choose_engine(given["engine"], device, dtype)
    run_grid(Grid(device=device, dtype=dtype, state_dtype=state_dtype, **given), Console())


@click.command("regress")
@click.argument("base", required=False)
@click.argument("head", required=False)
@click.option(
    "--plan", is_flag=True, help="No clock: planned launches, bytes and pools, host syncs of a fixed workload."
)
@click.option("--write", is_flag=True, help="Write the plan's figures into --baseline anew.")
@click.option("--baseline", type=click.Path(path_type=Path), default=Path("results/plan.json"), show_default=True)
@click.option("--model", "models", multiple=True, help="As for bench; several times. [a teacher and a student]")
@click.option("--batch", "batches", multiple=True, type=int, help="Several times. [256; 16 on a CPU]")
@click.option("--new-tokens", "lengths", multiple=True, type=int, help="Several times. [512; 64 on a CPU]")
@click.option("--prompt", default=128, show_default=True, help="Tokens of each prompt.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, float64 or bfloat16.")
@click.option("--engine", help="eager or native. [native; eager on a CPU]")
@click.option("--state-dtype", default="float32", show_default=True, help="Of SSM states: float32, float16, bfloat16.")
@click.option("--rounds", default=5, show_default=True, help="Runs of each side, in turn.")
@click.option("--min-effect", default=0.03, show_default=True, help="Least share of a change that counts.")
def regress_command(
    base: str | None, head: str | None, plan: bool, write: bool, baseline: Path, device: str, **given: Any
) -> None:
    """BASE (a commit, or a CSV of this device) against HEAD (a commit, or what lies here): is any figure worse?

    With --plan BASE is optional: its tokens/s on the CPU are then printed beside ours, which decides nothing. Exit
    code 1 where a figure regressed or the plan grew.
    """
    console = Console()
    if plan or write:
        # Read when a kernel is first imported; the workload's kernels run on the CPU.
        os.environ["TRITON_INTERPRET"] = "1"
        from harness.bench.regress_plan import check_plan

        holds = check_plan(baseline, write, console)
        if base is not None:
            from harness.bench.regress import print_cpu_ratio

            print_cpu_ratio(base, console)
        sys.exit(0 if holds else 1)
    if base is None:
        raise InputError("BASE is missing: name a commit or a CSV of this device; or ask for --plan")
    from harness.bench.regress import Race, race
    from harness.bench.settings import choose_device

    lines = race(base, head, Race(choose_device(device), **given), console)
    if any(line.verdict.word == "regressed" for line in lines):
        sys.exit(1)


@click.command("curves")
@click.option("--recorded", type=click.Path(path_type=Path), required=True, help="JSON with counts and ns by problem.")
@click.option("--throughput", "speeds", multiple=True, required=True, help="Tokens/s, or NAME=tokens/s; several times.")
@click.option("--tokens-per-sample", default=2048.0, show_default=True, help="Tokens each sample is billed.")
@click.option("--task", "task_name", help="Whose reference answers give the guess curve.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/recorded"), show_default=True)
def curves_command(recorded: Path, speeds: tuple[str, ...], tokens_per_sample: float, **given: Any) -> None:
    """Coverage against time from published counts: recorded accuracy x measured speed."""
    from harness.bench.recorded import draw_recorded

    draw_recorded(recorded, speeds, tokens_per_sample, console=Console(), **given)
