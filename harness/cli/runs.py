"""Commands that make a run and read it: bench, sample, grade, score, check-grader, report."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from harness.records import InputError

_ENGINE_HELP = "auto (native on a GPU, else eager), eager, native or vllm."


def _sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        [
            click.option(
                "--model", "models", multiple=True, help="Name or folder; several times. [the embedded three]"
            ),
            click.option("--task", "task_name", default="builtin", show_default=True, help="See `harness tasks`."),
            click.option("--budget", "budget_name", help="Name or YAML. [quick for builtin, real for other tasks]"),
            click.option("--prompt-style", default="auto", show_default=True, help="See docs/prompts.md."),
            click.option("--run", "run_name", help="Name under results/runs/, or a path. [task, budget and time]"),
            click.option("--resume", is_flag=True, help="Go on with a run that was stopped."),
            click.option("--limit", type=int, help="Only the first problems."),
            click.option("--samples", type=int, help="Samples for each problem, instead of the budget's."),
            click.option("--max-new-tokens", type=int, help="Longest chain, instead of the budget's."),
            click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
            click.option("--dtype", default="auto", show_default=True, help="auto, float32, float64 or bfloat16."),
            click.option("--engine", default="auto", show_default=True, help=_ENGINE_HELP),
            click.option(
                "--request-seeds", is_flag=True, help="A seed for each request to vLLM: slow, one model only."
            ),
            click.option(
                "--state-dtype", default="float32", show_default=True, help="Of SSM states: float32, float16, bfloat16."
            ),
            click.option("--fixed-rows", type=int, help="Rows of every native step: the batch then changes no bit."),
            click.option("--clock", "clock_source", type=click.Choice(["real", "fake"]), default="real", hidden=True),
        ]
    ):
        command = option(command)
    return command


def _sample(console: Console, **given: Any) -> Any:
    from harness.bench.sampling import sample
    from harness.bench.settings import Settings, choose_device, choose_dtype, choose_state_dtype
    from harness.budgets.loader import load_budget
    from harness.engine.engines import choose_engine
    from harness.models.resolve import TRIO
    from harness.runs.folder import run_folder
    from harness.tasks.loader import load_task

    budget_name = given["budget_name"] or ("quick" if given["task_name"] == "builtin" else "real")
    budget = load_budget(budget_name)
    changes = {
        "limit": given["limit"],
        "samples_per_problem": given["samples"],
        "max_new_tokens": given["max_new_tokens"],
    }
    budget = dataclasses.replace(budget, **{k: v for k, v in changes.items() if v is not None})
    device = choose_device(given["device"])
    dtype = choose_dtype(given["dtype"], device)
    settings = Settings(
        models=given["models"] or TRIO,
        task=load_task(given["task_name"]),
        budget=budget,
        device=device,
        dtype=dtype,
        fake_clock=given["clock_source"] == "fake",
        task_source=given["task_name"],
        engine=choose_engine(given["engine"], device, dtype),
        state_dtype=choose_state_dtype(given["state_dtype"]),
        prompt_style=given["prompt_style"],
        request_seeds=given["request_seeds"],
        fixed_rows=given["fixed_rows"],
    )
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    if given["resume"] and not given["run_name"]:
        raise InputError("--resume: which run? name it with --run")
    folder = run_folder(given["run_name"] or f"{settings.task.name}-{Path(budget_name).stem}-{now}")
    sample(settings, folder, given["resume"], console)
    return folder


@click.command("bench")
@_sampling_options
def bench_command(**given: Any) -> None:
    """Sample, grade, score and report in one go."""
    from harness.bench.job import grade, report

    console = Console()
    folder = _sample(console, **given)
    grade(folder, console)
    report(folder, console)


@click.command("sample")
@_sampling_options
def sample_command(**given: Any) -> None:
    """Only sample: fills the run folder's log."""
    folder = _sample(Console(), **given)
    click.echo(f"sampled into {folder.path}; next: harness grade {folder.path}")


def _run_argument(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--last", is_flag=True, help="The newest run under results/runs/.")(command)
    return click.argument("run", required=False)(command)


def _folder(run: str | None, last: bool, graded: bool = False) -> Any:
    from harness.runs.folder import last_run, run_folder

    if run is None and not last:
        raise InputError("RUN is missing: give a name under results/runs/, a path, or --last")
    return last_run(graded) if run is None else run_folder(run)


@click.command("grade")
@_run_argument
@click.option("--audit", "peer", type=click.Choice(["math-verify"]), help="List where this second grader parts.")
@click.option("--no-cache", is_flag=True, help="Neither read nor keep verdicts in the user's cache folder.")
def grade_command(run: str | None, last: bool, peer: str | None, no_cache: bool) -> None:
    """Grade a sampled run, without sampling again; --audit leaves the verdicts of a graded run as they are."""
    from harness.bench.job import grade

    folder = _folder(run, last)
    if peer is not None:
        from harness.bench.audit import audit_run

        audit_run(folder, Console())
        return
    grade(folder, Console(), cached=not no_cache)
    click.echo(f"graded into {folder.verdicts_path}; next: harness report {folder.path}")


@click.command("score")
@_run_argument
@click.option("--reward", required=True, metavar="FOLDER", help="The reward model.")
@click.option("--kind", type=click.Choice(["prm", "classifier"]), required=True, help="See docs/rewards.md.")
@click.option("--aggregate", type=click.Choice(["last", "min", "product"]), help="Of a prm's steps. [last]")
@click.option("--value", type=click.Choice(["probability", "logit"]), help="Of a classifier. [probability]")
@click.option("--label", help="Which output of a classifier with several.")
@click.option("--batch", default=8, show_default=True, help="Chains at a time, the longest first.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, float64 or bfloat16.")
def score_command(run: str | None, last: bool, batch: int, device: str, dtype: str, **given: Any) -> None:
    """Score a sampled run's chains with a reward model; goes on where it was stopped."""
    from harness.bench.reward import score
    from harness.bench.settings import choose_device, choose_dtype
    from harness.rewards.scorer import Settings

    folder, chosen = _folder(run, last), choose_device(device)
    score(Settings(device=chosen, dtype=choose_dtype(dtype, chosen), **given), batch, folder, Console())
    click.echo(f"scored into {folder.path / 'rewards.jsonl'}; next: harness report {folder.path}")


@click.command("check-grader")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--policy", "policy", multiple=True, metavar="FIELD=VALUE", help="Change the grader's policy.")
@click.option("--where", multiple=True, metavar="FIELD=VALUE", help="Only these rows; see docs/grading.md.")
@click.option("--settled", multiple=True, type=click.Path(path_type=Path), help="YAML of labels settled by hand.")
@click.option("--without", multiple=True, type=click.Path(path_type=Path), help="YAML of rows to leave out.")
@click.option("--against", type=click.Choice(["math-verify"]), help="Grade with both, side by side, and time them.")
@click.option("--processes", type=click.IntRange(min=1), help="Workers of each grader. [cores]")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Passes of --against.")
def check_grader_command(file: Path, **given: Any) -> None:
    """Hold the grader against a JSONL file of labelled rows; the last line is JSON."""
    from harness.bench.check import check_file

    problems = check_file(file, console=Console(), **given)
    for problem in problems:
        click.echo(f"harness: {problem}", err=True)
    if problems:
        sys.exit(2)


@click.command("report")
@_run_argument
@click.option("--cards", type=click.Path(path_type=Path), help="Folder of models whose cards this run's figures go to.")
def report_command(run: str | None, last: bool, cards: Path | None) -> None:
    """Score a graded run: table, curves.csv and plots."""
    from harness.bench.job import report, update_cards

    console, folder = Console(), _folder(run, last, graded=True)
    console.print(f"run: {folder.path}", highlight=False)
    numbers = report(folder, console)
    if cards is not None:
        update_cards(folder, numbers, cards, console)
