"""``harness score``: a run's finished chains through a reward model, into rewards.jsonl; goes on where it stopped."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.bench.job import ended_run
from harness.records import InputError, Reward, Trajectory
from harness.rewards.log import FORMAT, NAME, Header, RewardLog, appending, check_same, read_rewards
from harness.rewards.scorer import Encoded, Scorer, Settings, load_scorer
from harness.runs.folder import RunFolder
from harness.runs.manifest import device_facts
from harness.scoring.table import UNFINISHED

Job = tuple[Trajectory, Encoded]


def score(settings: Settings, batch: int, folder: RunFolder, console: Console) -> None:
    """Score every finished chain, late ones included, longest first, so that what does not fit shows at once.

    One batch is run before the clock to warm up. A batch's seconds are shared out by tokens. Chains longer than the
    model can read get no score and cost nothing.
    """
    if batch < 1:
        raise InputError(f"--batch {batch}: must be at least 1")
    run = ended_run(folder)
    start = time.perf_counter()
    scorer = load_scorer(settings)
    load_s = time.perf_counter() - start
    header = _header(settings, batch, scorer, run.manifest["created"])
    path = folder.path / NAME
    with folder.locked():
        log = read_rewards(path)
        if log.header is not None:
            check_same(log.header, header, path)
        known = {r.key for r in log.rewards}
        due = [t for t in run.log.trajectories if t.finish not in UNFINISHED and t.key not in known]
        question = {p.id: p.prompt for p in run.problems}
        jobs = [(t, scorer.encode(question[t.problem_id], t.text)) for t in due]
        jobs.sort(key=lambda job: len(job[1].tokens), reverse=True)
        scored = [*log.rewards, *_score_all(scorer, jobs, batch, path, log, header, console)]
        manifest = folder.read_manifest()
        seconds = sum(r.seconds for r in scored)
        manifest["reward"] = {
            **dataclasses.asdict(header),
            "context": scorer.context,
            "chains": len(scored),
            "too_long": (too_long := sum(r.score is None for r in scored)),
            "seconds": round(seconds, 3),
            "load_s": round(load_s, 3),
        }
        folder.write_manifest(manifest)
    console.print(f"rewards: {len(scored)} chains in {seconds:.1f} s by {header.label}", highlight=False)
    if too_long:
        console.print(
            f"{too_long} chains have no score: longer than its {scorer.context} tokens (or 1000 steps)", highlight=False
        )


def _score_all(
    scorer: Scorer, jobs: Sequence[Job], batch: int, path: Path, log: RewardLog, header: Header, console: Console
) -> list[Reward]:
    readable = [job for job in jobs if job[1].readable]
    results = [_reward(t, encoded, None, (), 0.0) for t, encoded in jobs if not encoded.readable]
    with appending(path, log, header) as writer, _bar(console) as bar:
        progress = bar.add_task("scoring", total=len(jobs))
        writer.append(results)
        bar.advance(progress, len(results))
        for first in range(0, len(readable), batch):
            part = readable[first : first + batch]
            if first == 0:
                _run(scorer, part, batch)
            start = time.perf_counter()
            scores = _run(scorer, part, batch)
            seconds_per_token = (time.perf_counter() - start) / sum(len(encoded.tokens) for _, encoded in part)
            rewards = []
            for (t, encoded), (value, steps) in zip(part, scores, strict=True):
                if not math.isfinite(value):
                    raise InputError(f"reward of {t.key} = {value}: not finite; try --dtype float32, or other weights")
                rewards.append(_reward(t, encoded, value, steps, seconds_per_token * len(encoded.tokens)))
            writer.append(rewards)
            results += rewards
            bar.advance(progress, len(part))
    return results


def _run(scorer: Scorer, part: Sequence[Job], batch: int) -> list[tuple[float, tuple[float, ...]]]:
    try:
        # The numbers come back as Python's: a GPU is done when they are there.
        return [(s.score, s.steps) for s in scorer.score([encoded for _, encoded in part])]
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        longest = max(len(encoded.tokens) for _, encoded in part)
        raise InputError(f"--batch {batch}: out of memory at {longest} tokens a chain; use a smaller one") from error


def _reward(t: Trajectory, encoded: Encoded, value: float | None, steps: tuple[float, ...], seconds: float) -> Reward:
    return Reward(*t.key, score=value, steps=steps, tokens=len(encoded.tokens), seconds=seconds)


def _header(settings: Settings, batch: int, scorer: Scorer, run: str) -> Header:
    of_label = "" if settings.label is None else f" of {settings.label}"
    setting = settings.aggregate or "last" if settings.kind == "prm" else (settings.value or "probability") + of_label
    return Header(
        format=FORMAT,
        run=run,
        reward=scorer.name,
        sha256=scorer.sha256,
        scorer=settings.kind,
        setting=setting,
        dtype=str(settings.dtype).removeprefix("torch."),
        device=device_facts(settings.device)["name"],
        batch=batch,
    )


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
