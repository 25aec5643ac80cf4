"""Sampling a run: every model of the settings, round by round, into the folder's log; and going on where it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.bench.calibrate import calibrate
from harness.bench.session import Session, rounds
from harness.bench.settings import DTYPES, Settings
from harness.bench.vllm_session import open_session
from harness.engine.clock import Clock
from harness.engine.engines import look_every
from harness.engine.sampler import RoundLabel
from harness.kernels.sample import DRAWS
from harness.models.resolve import Fingerprint, config_that_fits, fingerprint
from harness.records import Budget, InputError
from harness.runs.folder import RunFolder
from harness.runs.log import Heartbeat, LogContent, TrajectoryLog, read_log, truncate_to_committed
from harness.runs.manifest import check_same, environment


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """What the models of a run share; ``manifest`` is filled in as they are sampled."""

    settings: Settings
    folder: RunFolder
    manifest: dict[str, Any]
    log: LogContent
    writer: TrajectoryLog
    console: Console


def sample(settings: Settings, folder: RunFolder, resume: bool, console: Console) -> None:
    """Sample every model into the folder, or go on where its log ends."""
    prints = [fingerprint(name, settings.budget.seed) for name in settings.models]
    for name, print_ in zip(settings.models, prints, strict=True):
        settings.style.check(print_.name, print_.chat_template is not None)
        config_that_fits(name, settings.dtype, settings.device)
    if (advice := settings.style.advice(settings.budget.stop)) is not None:
        console.print(advice, highlight=False, markup=False)
    if len({p.name for p in prints}) < len(prints):
        raise InputError(f"--model: two are called {prints[0].name!r}; rename a folder")
    with folder.locked():
        goes_on = folder.manifest_path.is_file()
        manifest, log = _open(settings, folder, resume, prints, console)
        console.print(f"run: {folder.path} (if stopped: the same options with --run and --resume)", highlight=False)
        writer = TrajectoryLog(folder.log_path, time.monotonic)
        run = _Run(settings, folder, manifest, log, writer, console)
        try:
            for name, print_ in zip(settings.models, prints, strict=True):
                _sample_model(run, name, print_.name)
        except InputError:
            if not goes_on:
                folder.forget()
            raise
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
        "draws": DRAWS,
        "clock_source": "fake" if settings.fake_clock else "real",
        **({"request_seeds": settings.request_seeds, "vllm": {}} if settings.engine == "vllm" else {}),
        **({} if settings.fixed_rows is None else {"fixed_rows": settings.fixed_rows}),
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


def _sample_model(run: _Run, name: str, label: str) -> None:
    settings, manifest = run.settings, run.manifest
    if ended_rounds(run.log, label) == rounds_wanted(settings.budget, len(settings.problems)):
        return
    if label not in manifest["batch"] and settings.budget.batch == "calibrated":
        chosen = calibrate(settings, name, lambda line: run.console.print(line, highlight=False))
        manifest["calibration"][label], manifest["batch"][label] = chosen, chosen["batch"]
    with contextlib.closing(open_session(settings, name, settings.problems)) as session:
        _sample_rounds(run, session, label)


def _sample_rounds(run: _Run, session: Session, label: str) -> None:
    settings, manifest = run.settings, run.manifest
    all_rounds = rounds(settings.budget, session.prompts)
    wanted = manifest["batch"].get(label, settings.budget.batch)
    batch = session.batch(wanted, max(map(len, all_rounds)))
    manifest["batch"][label] = batch
    manifest["threads"][label] = session.threads
    # Not under "models": what a resumed run must agree in is known before any model is loaded.
    if set(session.model.config.layers) == {"attention"} and label not in manifest["teachers"]:
        manifest["teachers"].append(label)
    run.folder.write_manifest(manifest)
    done = {r: p for (model, b, r), p in run.log.rounds.items() if model == label and b == batch}
    total = sum(map(len, all_rounds))
    with _bar(run.console) as bar:
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
            return Heartbeat(run.writer, key, lambda: clock.now() if clock.running else None)

        off_clock = session.sample(batch, settings.budget, run.writer, done, on_look, around)
    run.writer.sync()
    manifest["off_clock"][label] = {k: round(v, 3) for k, v in off_clock.items()}
    if session.saturated:
        manifest.setdefault("saturated", {})[label] = session.saturated
        run.console.print(
            f"{label}: {session.saturated:,} entries of its fp16 states went beyond fp16's range and were clamped;"
            " sample with --state-dtype float32 to be sure", highlight=False, markup=False,
        )  # fmt: skip
    if facts := session.facts():
        manifest["vllm"][label] = facts
    run.folder.write_manifest(manifest)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("chains, clock {task.fields[clock]:.1f} s,"),
        TimeElapsedColumn(),
        console=console,
    )


def ended_rounds(log: LogContent, model: str) -> int:
    return sum(p.looks[-1].ended for (name, _, _), p in log.rounds.items() if name == model)


def rounds_wanted(budget: Budget, problems: int) -> int:
    return 1 if budget.clock == "task" else problems
