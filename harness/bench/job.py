"""The main job in four steps joined by the run folder's files: sample, grade, score and report."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.bench.calibrate import calibrate
from harness.bench.session import rounds
from harness.bench.settings import DTYPES, Settings, evaluated
from harness.bench.vllm_session import open_session
from harness.engine.clock import Clock
from harness.engine.engines import look_every
from harness.engine.sampler import RoundLabel
from harness.grading.cache import Cache
from harness.grading.grader import GRADER_VERSION, Grader
from harness.grading.summary import summarise
from harness.models.resolve import Fingerprint, fingerprint
from harness.records import Budget, InputError, Problem, Task, Trajectory, build
from harness.report.data import RewardData, RunData
from harness.report.numbers import Numbers
from harness.rewards.log import NAME as REWARDS
from harness.rewards.log import read_rewards_of
from harness.runs.folder import RunFolder, replace
from harness.runs.log import Heartbeat, LogContent, TrajectoryLog, read_log, truncate_to_committed
from harness.runs.manifest import check_same, environment
from harness.tasks.loader import load_task


def sample(settings: Settings, folder: RunFolder, resume: bool, console: Console) -> None:
    """Sample every model into the folder, or go on where its log ends."""
    prints = [fingerprint(name, settings.budget.seed) for name in settings.models]
    for print_ in prints:
        settings.style.check(print_.name, print_.chat_template is not None)
    if (advice := settings.style.advice(settings.budget.stop)) is not None:
        console.print(advice, highlight=False, markup=False)
    if len({p.name for p in prints}) < len(prints):
        raise InputError(f"--model: two are called {prints[0].name!r}; rename a folder")
    with folder.locked():
        manifest, log = _open(settings, folder, resume, prints, console)
        console.print(f"run: {folder.path} (if stopped: the same options with --run and --resume)", highlight=False)
        writer = TrajectoryLog(folder.log_path, time.monotonic)
        try:
            for name, print_ in zip(settings.models, prints, strict=True):
                _sample_model(settings, name, print_, manifest, folder, log, writer, console)
        finally:
            writer.close()


def _open(
    settings: Settings, folder: RunFolder, resume: bool, prints: list[Fingerprint], console: Console
) -> tuple[dict[str, Any], LogContent]:
    fresh = _manifest(settings, prints)
    if folder.manifest_path.is_file():
        if not resume:
            raise InputError(f"--run {folder.path}: exists; add --resume to go on with it, or name another --run")
        manifest = folder.read_manifest()
        check_same(manifest, fresh, str(folder.path))
        log = truncate_to_committed(folder.log_path) if folder.log_path.is_file() else read_log(folder.log_path)
        where = {key: fresh[key] for key in ("created", "commit", "device", "libraries")}
        manifest["resumes"] = [*manifest["resumes"], where]
        manifest["task_source"] = fresh["task_source"]  # the same task, perhaps from another place
        folder.write_manifest(manifest)
        return manifest, log
    # A kill while the manifest was first written leaves its unfinished neighbour and nothing else.
    if folder.path.is_dir() and any(p.name != folder.manifest_path.name + ".partial" for p in folder.path.iterdir()):
        raise InputError(f"--run {folder.path}: a folder with other files in it; name another --run")
    if resume:
        console.print(f"--resume: no run at {folder.path} yet, starting it", highlight=False)
    folder.write_manifest(fresh)
    return fresh, read_log(folder.log_path)


def _manifest(settings: Settings, prints: list[Fingerprint]) -> dict[str, Any]:
    budget = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(settings.budget).items()}
    state_dtype = torch.float64 if settings.dtype == torch.float64 else settings.state_dtype
    return {
        **environment(settings.device),
        "task": {
            "name": settings.task.name,
            "sha256": settings.task.sha256,
            "prompt_template": settings.task.prompt_template,
            "prompt": settings.style.facts(),
            "problems": len(settings.problems),
        },
        "task_source": _source(settings),
        "budget": budget,
        "models": {p.name: {"sha256": p.sha256, "random": p.random, "chat_template": p.chat_template} for p in prints},
        "engine": settings.engine,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == settings.dtype),
        "state_dtype": str(state_dtype).removeprefix("torch."),
        "look_every": look_every(settings.engine),
        "clock_source": "fake" if settings.fake_clock else "real",
        **({"request_seeds": settings.request_seeds, "vllm": {}} if settings.engine == "vllm" else {}),
        "teachers": [],
        "batch": {},
        "calibration": {},
        "threads": {},
        "off_clock": {},
        "resumes": [],
    }


def _source(settings: Settings) -> str:
    """What grading loads the task by, from whatever folder it is called."""
    source = settings.task_source or settings.task.name
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_file() else source


def _sample_model(
    settings: Settings,
    name: str,
    print_: Fingerprint,
    manifest: dict[str, Any],
    folder: RunFolder,
    log: LogContent,
    writer: TrajectoryLog,
    console: Console,
) -> None:
    label = print_.name
    if _ended(log, label) == _rounds_wanted(settings.budget, len(settings.problems)):
        return
    if label not in manifest["batch"] and settings.budget.batch == "calibrated":
        manifest["calibration"][label] = calibrate(settings, name, lambda line: console.print(line, highlight=False))
        manifest["batch"][label] = manifest["calibration"][label]["batch"]
    session = open_session(settings, name, settings.problems)
    all_rounds = rounds(settings.budget, session.prompts)
    wanted = manifest["batch"].get(label, settings.budget.batch)
    batch = session.batch(wanted, max(map(len, all_rounds)))
    manifest["batch"][label] = batch
    manifest["threads"][label] = session.threads
    # Not under "models": what a resumed run must agree in is known before any model is loaded.
    if set(session.model.config.layers) == {"attention"} and label not in manifest["teachers"]:
        manifest["teachers"].append(label)
    folder.write_manifest(manifest)
    done = {r: p for (model, b, r), p in log.rounds.items() if model == label and b == batch}
    total = sum(map(len, all_rounds))
    with _bar(console) as bar:
        task = bar.add_task(label, total=total, clock=0.0)
        before = 0

        def on_look(finished: int, jobs: int, clock_s: float) -> None:
            bar.update(task, completed=before + finished, clock=clock_s)

        def around(round_: RoundLabel, clock: Clock) -> Any:
            nonlocal before
            before = sum(map(len, all_rounds[: round_.round]))
            if not clock.real:  # a fake clock stands still between looks
                return contextlib.nullcontext()
            key = (round_.model, round_.batch, round_.round)
            return Heartbeat(writer, key, lambda: clock.now() if clock.running else None)

        off_clock = session.sample(batch, settings.budget, writer, done, on_look, around)
    writer.sync()
    manifest["off_clock"][label] = {k: round(v, 3) for k, v in off_clock.items()}
    if facts := session.facts():
        manifest["vllm"][label] = facts
    session.close()
    folder.write_manifest(manifest)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("chains, clock {task.fields[clock]:.1f} s,"),
        TimeElapsedColumn(),
        console=console,
    )


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
        if _ended(log, name) < _rounds_wanted(budget, problems):
            raise InputError(f"run {folder.path}: {name} was not sampled to its end; go on with --resume first")


def _ended(log: LogContent, model: str) -> int:
    return sum(p.looks[-1].ended for (name, _, _), p in log.rounds.items() if name == model)


def _rounds_wanted(budget: Budget, problems: int) -> int:
    return 1 if budget.clock == "task" else problems


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
