"""The command ``harness``: options in, one call out; a user's mistake is one line and exit code 2."""

from __future__ import annotations

import dataclasses
import datetime
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from harness.records import InputError, nearest


class _Group(click.Group):
    """Names the nearest command for a wrong one, and turns what a user can mend into one line."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reasoning-harness")
def cli() -> None:
    """Sample a Transformer teacher and its Mamba students under one clock, and draw what each second bought."""


def main() -> None:
    """Entry point: exit code 2 for a user's mistake, 130 for Ctrl-C."""
    try:
        cli(standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "harness"
        _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`")
    except click.ClickException as error:
        _fail(error.format_message())
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"no space left on the disk ({error.filename or 'run folder'}); make room and go on with --resume")
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; what finished is kept, go on with --resume", err=True)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError, named: torch is imported by the commands that need it alone.
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        _fail("out of memory; what finished is kept. Sample anew with a smaller budget.batch or max_new_tokens")


def _fail(message: str) -> None:
    click.echo(f"harness: {' '.join(message.split())}", err=True)
    sys.exit(2)


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
            click.option("--clock", "clock_source", type=click.Choice(["real", "fake"]), default="real", hidden=True),
        ]
    ):
        command = option(command)
    return command


def _sample(console: Console, **given: Any) -> Any:
    from harness.bench.job import sample
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
    )
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    if given["resume"] and not given["run_name"]:
        raise InputError("--resume: which run? name it with --run")
    folder = run_folder(given["run_name"] or f"{settings.task.name}-{Path(budget_name).stem}-{now}")
    sample(settings, folder, given["resume"], console)
    return folder


@cli.command("bench")
@_sampling_options
def bench_command(**given: Any) -> None:
    """Sample, grade, score and report in one go."""
    from harness.bench.job import grade, report

    console = Console()
    folder = _sample(console, **given)
    grade(folder, console)
    report(folder, console)


@cli.command("sample")
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


@cli.command("grade")
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


@cli.command("score")
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


@cli.command("check-grader")
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


@cli.command("report")
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


@cli.command("throughput")
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


@cli.command("regress")
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


@cli.command("curves")
@click.option("--recorded", type=click.Path(path_type=Path), required=True, help="JSON with counts and ns by problem.")
@click.option("--throughput", "speeds", multiple=True, required=True, help="Tokens/s, or NAME=tokens/s; several times.")
@click.option("--tokens-per-sample", default=2048.0, show_default=True, help="Tokens each sample is billed.")
@click.option("--task", "task_name", help="Whose reference answers give the guess curve.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/recorded"), show_default=True)
def curves_command(recorded: Path, speeds: tuple[str, ...], tokens_per_sample: float, **given: Any) -> None:
    """Coverage against time from published counts: recorded accuracy x measured speed."""
    from harness.bench.recorded import draw_recorded

    draw_recorded(recorded, speeds, tokens_per_sample, console=Console(), **given)


@cli.group("tasks", invoke_without_command=True, cls=_Group)
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


@cli.group("models", cls=_Group)
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


@cli.command("distill")
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


if __name__ == "__main__":
    main()
