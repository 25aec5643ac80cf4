"""Tiny tables written by hand, and random ones with every kind of sample in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.records import Trajectory, Verdict
from harness.scoring.table import SampleTable


def make_records(rows: list[dict[str, Any]], batch: int = 4) -> tuple[list[Trajectory], list[Verdict]]:
    trajectories, verdicts = [], []
    count: dict[str, int] = {}
    for row in rows:
        pid = row["p"]
        sample = row.get("sample", count.get(pid, 0))
        count[pid] = sample + 1
        key = ("m", "t", batch, pid, sample)
        finish, start = row.get("finish", "eos"), row.get("submit", 0.0)
        t = row["t"]
        first, tokens, late = row.get("first", start), row.get("tokens", 10), row.get("late", False)
        trajectories.append(Trajectory(*key, start, first, t, 5, tokens, finish, late, "", 0.0))
        if finish not in ("deadline", "error"):
            status = row.get("status", "correct" if row.get("ok") else "incorrect")
            verdicts.append(Verdict(*key, row.get("cls"), row.get("cls"), status, bool(row.get("ok"))))
    return trajectories, verdicts


@pytest.fixture
def records():
    return make_records


@pytest.fixture
def table() -> Callable[..., SampleTable]:
    def build(rows: list[dict[str, Any]], problems: str = "", batch: int = 4, started: Any = None) -> SampleTable:
        trajectories, verdicts = make_records(rows, batch)
        ids = list(problems) or sorted({row["p"] for row in rows})
        counts = {p: sum(row["p"] == p for row in rows) for p in ids} | (started or {})
        return SampleTable.from_records(trajectories, verdicts, ids, counts)

    return build


@pytest.fixture
def random_rows():
    """Random rows over 7 problems: ties in time and votes, late, cut, failed, unscored, unanswered samples."""

    def make(seed: int, drained: bool = False) -> list[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        rows = []
        for i, pid in enumerate("abcdefg"):
            for _ in range(int(rng.integers(4, 9))):
                cls = None if rng.random() < 0.15 else f"c{rng.integers(3)}"
                row = {"p": pid, "t": float(rng.integers(1, 9)), "cls": cls, "ok": cls == f"c{i % 4}"}
                row["tokens"] = int(rng.integers(1, 50))
                kind = rng.random()
                if kind < 0.1:
                    row |= {"status": "timeout", "ok": False}
                elif kind < 0.2:
                    row |= {"late": True, "t": 11.0}
                elif kind < 0.3 and not drained:
                    row |= {"finish": "deadline", "t": 8.0}
                elif kind < 0.35 and not drained:
                    row |= {"finish": "error"}
                elif kind < 0.4:
                    row |= {"finish": "length"}
                rows.append(row)
        return rows

    return make
