"""The main job behind ``sampling``: grade and report, each from the run folder's files alone."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from harness.bench.sampling import ended_rounds, rounds_wanted
from harness.bench.settings import evaluated
from harness.grading.cache import Cache
from harness.grading.grader import GRADER_VERSION, Grader
from harness.grading.summary import summarise
from harness.records import Budget, InputError, Problem, Task, Trajectory, build
from harness.report.data import RewardData, RunData
from harness.report.numbers import Numbers
from harness.rewards.log import NAME as REWARDS
from harness.rewards.log import read_rewards_of
from harness.runs.folder import RunFolder, replace
from harness.runs.log import LogContent, read_log
from harness.tasks.loader import load_task


def grade(folder: RunFolder, console: Console, cached: bool = True) -> None:
    """Grade a sampled run (again) into verdicts.jsonl. Sampling is over by then: grading never runs beside a clock."""
    manifest = folder.read_manifest()
    task = task_of(manifest)
    log = read_log(folder.log_path)
    cache = Cache() if cached else None
    verdicts = []
    problems = {p.id: p for p in task.problems}
    workers = max(1, min(4, (os.cpu_count() or 1) - 1))
    with Grader(problems, workers=workers, cache=cache) as grader, _plain_bar(console) as bar:
        progress = bar.add_task("grading", total=len(log.trajectories))
        for verdict in grader.grade(log.trajectories):
            verdicts.append(verdict)
            bar.advance(progress)
    if cache is not None and cache.problem is not None:
        console.print(cache.problem, highlight=False)
    console.print(f"verdicts: {summarise(verdicts)}", highlight=False)
    folder.write_verdicts(verdicts)
    manifest["grader"] = {"version": GRADER_VERSION}
    folder.write_manifest(manifest)


def _plain_bar(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console)


def report(folder: RunFolder, console: Console) -> Numbers:
    """Score a graded run; write its files and plots and print the table."""
    # They bring pandas and matplotlib, which sampling and grading do without.
    from harness.report.terminal import print_report
    from harness.report.write import write_report

    numbers = write_report(run_data(folder), folder.path)
    print_report(numbers, console)
    console.print(f"files: {folder.path}/curves.csv, report.json, plots/", highlight=False)
    return numbers


def update_cards(folder: RunFolder, numbers: Numbers, models: Path, console: Console) -> None:
    """Write what this run measured into the cards of the models under ``models`` (drained runs alone)."""
    from harness.distill.card import ACCURACY, write_card
    from harness.models.checkpoints.native import sha256, weights_path

    manifest, run = folder.read_manifest(), numbers.run
    for name, model in numbers.models.items():
        target = models / name
        if not (target / "training.json").is_file():
            continue
        at_k = model.accuracy.at_k if model.accuracy is not None else None
        if at_k is None or not at_k.is_point:
            raise InputError(f"--cards: run {folder.path} has no pass@k of {name}; cards want a drained run, finished")
        if manifest["models"][name]["sha256"] != sha256(weights_path(target)):
            raise InputError(f"--cards: run {folder.path} sampled other weights than {target} holds; run these")
        columns = zip(at_k.ks, at_k.pass_at_k.value, at_k.guess, at_k.majority_at_k.value, strict=True)
        facts = {
            "run": folder.path.name,
            "command": manifest["command"],
            "commit": manifest["commit"],
            "device": run.manifest["device"],
            "date": run.manifest["date"],
            "task_sha256": manifest["task"]["sha256"],
            "problems": len(run.problems),
            "samples": at_k.ks[-1],  # what every problem got: the deadline may come before the budget's number
            "temperature": run.budget.temperature,
            "mean_length": model.mean_length_drained,
            "truncated": model.truncated,
            "at_k": [{"k": k, "pass": p, "guess": g, "majority": m} for k, p, g, m in columns],
        }
        replace(target / ACCURACY, json.dumps(facts, indent=1, default=float) + "\n")
        write_card(target)
        console.print(f"card: {target / 'README.md'}", highlight=False)


@dataclasses.dataclass(frozen=True, slots=True)
class EndedRun:
    """What a run that was sampled to its end holds; ``problems`` are those evaluated."""

    manifest: dict[str, Any]
    task: Task
    budget: Budget
    problems: tuple[Problem, ...]
    log: LogContent


def ended_run(folder: RunFolder) -> EndedRun:
    """The run in ``folder``; InputError where it was stopped before its end."""
    manifest = folder.read_manifest()
    task, budget = task_of(manifest), build(Budget, manifest["budget"], str(folder.manifest_path))
    problems = evaluated(task, budget)
    log = read_log(folder.log_path)
    _check_ended(manifest, budget, len(problems), log, folder)
    return EndedRun(manifest, task, budget, problems, log)


def run_data(folder: RunFolder) -> RunData:
    """A run folder as the report takes it."""
    run = ended_run(folder)
    manifest, log, problems, budget = run.manifest, run.log, run.problems, run.budget
    random = any(m["random"] for m in manifest["models"].values())
    verdicts = [] if random else folder.read_verdicts()
    by_model = {
        name: (
            [t for t in log.trajectories if t.model == name],
            [v for v in verdicts if v.model == name],
        )
        for name in manifest["models"]
    }
    return RunData(
        task=run.task.name,
        problems=problems,
        budget=budget,
        models=by_model,
        gold_class_ids=gold_classes(problems),
        manifest=printed(manifest),
        teacher=[*manifest["teachers"], *manifest["models"]][0],
        drained=budget.drain,
        accuracy_allowed=not random,
        rewards=None if random else _rewards(folder, manifest),
    )


def _rewards(folder: RunFolder, manifest: dict[str, Any]) -> RewardData | None:
    log = read_rewards_of(manifest["created"], folder.path / REWARDS)
    if log.header is None:
        return None
    by_model = {name: [r for r in log.rewards if r.model == name] for name in manifest["models"]}
    return RewardData(log.header.label, log.header.sha256, by_model)


def _check_ended(manifest: dict[str, Any], budget: Budget, problems: int, log: LogContent, folder: RunFolder) -> None:
    """InputError for a run that was stopped: chains in flight are in no row, so its log holds too many short ones."""
    for name in manifest["models"]:
        if ended_rounds(log, name) < rounds_wanted(budget, problems):
            raise InputError(f"run {folder.path}: {name} was not sampled to its end; go on with --resume first")


def printed(manifest: dict[str, Any]) -> dict[str, Any]:
    """What captions and tables say of a run's circumstances."""
    clock = "" if manifest["clock_source"] == "real" else " (FAKE CLOCK)"
    return {
        "device": f"{manifest['device']['name']}, {manifest['dtype']}, {manifest['engine']}{clock}",
        "date": datetime.datetime.fromisoformat(manifest["created"]).date().isoformat(),
        "commit": manifest["commit"],
        "resumes": len(manifest["resumes"]),
    }


def task_of(manifest: dict[str, Any]) -> Task:
    """The run's task, loaded anew; another content than the run had is an InputError."""
    task = load_task(manifest.get("task_source", manifest["task"]["name"]))
    if task.sha256 != manifest["task"]["sha256"]:
        raise InputError(
            f"task {task.name}: sha256 {task.sha256[:12]}..., the run has {manifest['task']['sha256'][:12]}...;"
            " put back the file that the run was sampled from"
        )
    return task


def gold_classes(problems: tuple[Problem, ...]) -> dict[str, str]:
    """The class that each reference answer falls in, from the grader itself."""
    golds = [
        Trajectory("gold", "", 1, p.id, 0, 0.0, 0.0, 0.0, 0, 0, "eos", False, f"\\boxed{{{p.answer}}}", 0.0)
        for p in problems
    ]
    with Grader({p.id: p for p in problems}) as grader:
        return {v.problem_id: v.class_id or f"text:{v.problem_id}" for v in grader.grade(golds)}
