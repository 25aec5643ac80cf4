"""A simulated run: a slow strong teacher and fast weaker students through a slot scheduler with refill."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from harness.records import Budget, Problem, Trajectory, Verdict
from harness.report.data import RunData


@dataclass(frozen=True)
class Model:
    batch: int
    step_s: float
    skill: float
    length: float = 60.0


MODELS = {
    "llama-1b": Model(64, 0.020, 0.45),
    "mamba2-1b": Model(256, 0.034, -0.35),
    "hybrid-1b": Model(128, 0.017, -0.15),
}
TRUE_ANSWERS = 12


def sample_model(
    name: str, model: Model, hard: np.ndarray, golds: list[int], n: int, seconds: float, drain: bool, seed: int
) -> tuple[list[Trajectory], list[Verdict]]:
    """Samples dealt j outer, i inner onto ``batch`` slots of one clock; longer chains are wrong more often."""
    rng = np.random.default_rng(seed)
    slots = [0.0] * model.batch
    trajectories, verdicts = [], []
    for j in range(n):
        for i, difficulty in enumerate(hard):
            start = heapq.heappop(slots)
            if start >= seconds:
                heapq.heappush(slots, start)
                continue
            tokens = min(512, 8 + int(rng.lognormal(np.log(model.length * (1 + difficulty)), 0.5)))
            end = start + 0.05 + tokens * model.step_s
            heapq.heappush(slots, end)
            p = 1 / (1 + np.exp(-(model.skill - 6 * (difficulty - 0.35) - 0.004 * tokens)))
            draw = rng.random()
            answer = golds[i] if draw < p else int(rng.integers(TRUE_ANSWERS))
            status: Any = "correct" if answer == golds[i] else "incorrect"
            class_id: str | None = f"c{answer}"
            if draw > 0.97:
                status, class_id = "no_answer", None
            elif draw > 0.965:
                status, class_id = "timeout", None
            finish: Any = "length" if tokens == 512 else "eos"
            late = end > seconds
            if late and not drain:
                tokens = 1 + int((seconds - start - 0.05) / model.step_s) if seconds > start + 0.05 else 0
                finish, end, late = "deadline", seconds, False
            key = (name, "simulated", model.batch, f"p{i:03d}", j)
            trajectories.append(Trajectory(*key, start, start + 0.05, end, 80, tokens, finish, late, "", -1.0))
            if finish != "deadline":
                verdicts.append(Verdict(*key, class_id, class_id, status, status == "correct"))
    return trajectories, verdicts


def simulate(
    n_problems: int = 60,
    n: int = 48,
    seconds: tuple[float, ...] = (2.0, 5.0, 10.0, 30.0),
    drain: bool = True,
    seed: int = 0,
    **changes: Any,
) -> RunData:
    rng = np.random.default_rng(1)
    hard = np.sort(rng.uniform(0, 1, n_problems))
    golds = [int(g) for g in rng.zipf(1.15, n_problems) % (40 * TRUE_ANSWERS)]
    problems = tuple(
        Problem(f"p{i:03d}", "?", str(golds[i]), ("algebra", "geometry")[i % 2], 1 + int(5 * hard[i]))
        for i in range(n_problems)
    )
    models = {
        name: sample_model(name, model, hard, golds, n, max(seconds), drain, seed + at)
        for at, (name, model) in enumerate(changes.pop("specs", MODELS).items())
    }
    fields: dict[str, Any] = {
        "task": "simulated",
        "problems": problems,
        "budget": Budget(seconds, "task", n, 512, 0.8, 1.0, 0, 7, "calibrated", drain=drain),
        "models": models,
        "gold_class_ids": {p.id: f"c{p.answer}" for p in problems},
        "manifest": {"device": "simulated device", "date": "2026-01-31", "commit": "0" * 12},
        "teacher": "llama-1b",
        "drained": drain,
        "accuracy_allowed": True,
    }
    return RunData(**(fields | changes))


@pytest.fixture
def simulated_run():
    return simulate


@pytest.fixture(scope="session")
def simulate_once():
    return simulate()
