"""results/h100/ring_kernels.py and ring_rivals.py: cursors, the plain recurrence, what a check refuses, what is timed.

No rival's package is needed: those here are ``Plain``, a ring of ReplaySSM's written out in torch.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import silu, softplus

FOLDER = Path(__file__).parents[2] / "results" / "h100"
K = 4

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the scripts would take the GPU's cells")


@pytest.fixture(scope="module")
def script(h100_script: Callable[[str], Any]) -> Any:
    return h100_script("ring_kernels")


@pytest.fixture(scope="module")
def cell(script: Any) -> Any:
    """4 heads, 2 groups; rows enough for some at every phase of 16."""
    return script.Cell("plain", (4, 8, 16), 2, False, 40, torch.device("cpu"))


@pytest.fixture
def plain(script: Any) -> Any:
    class Plain(script.ReplaySSM):
        """``wrong``: changes (rival, output, new state), a step's before they are kept."""

        name = "plain"
        used: Any = None
        wrong: Callable[[Any, torch.Tensor, torch.Tensor], None] | None = None

        def run(self) -> torch.Tensor:
            dt = softplus(self.dt[..., 0].float() + self.bias[:, 0])
            state = script.grown(self, script.replayed(self), self.x, dt, self.b)
            c = self.c.float().repeat_interleave(self.cell.shape[0] // self.cell.groups, 1)
            y = (state * c[:, :, None]).sum(-1) + self.d * self.x.float()
            self.out.copy_(y * silu(self.z.float()))
            if self.wrong is not None:
                self.wrong(self.out, state)
            for row, (at, commits) in enumerate(zip(self.position.tolist(), self.commits.tolist(), strict=True)):
                if commits:
                    self.state[1 + row] = state[row]
                else:
                    self.x_ring[1 + row, :, at], self.b_ring[1 + row, :, at] = self.x[row], self.b[row]
                    self.dt_ring[1 + row, :, at] = dt[row]
            return self.out

        @classmethod
        def launches(cls, cell: Any) -> list[tuple[str, Any]]:
            return [("other", "other"), ("too large", "too large")]

        @classmethod
        def use(cls, settings: Any) -> None:
            cls.used = settings

    return Plain


def checkpointing(script: Any, monkeypatch: pytest.MonkeyPatch, cell: Any, length: int) -> Any:
    rivals = sys.modules["ring_rivals"]
    monkeypatch.setattr(rivals, "_checkpointing_ssu", lambda: (None, lambda *_: (None,) * 3))
    return script.CheckpointingSSU(cell, torch.float32, length)


@pytest.mark.parametrize("length", [1, 4, 16])
def test_replayssm_replays_what_came_since_the_last_commit(script: Any, cell: Any, length: int) -> None:
    rival = script.ReplaySSM(cell, torch.float32, length)
    assert rival.filled().tolist() == [row % length for row in range(cell.rows)]
    since = [[("drawn", row, i) for i in range(row % length)] for row in range(cell.rows)]
    rings: list[list[Any]] = [[("drawn", row, i) for i in range(length)] for row in range(cell.rows)]
    for step in range(2 * length + 1):
        filled, commits = rival.filled().tolist(), rival.commits.tolist()
        for row in range(cell.rows):
            assert [rings[row][int(rival.order(i)[row])] for i in range(filled[row])] == since[row]
            assert commits[row] == (len(since[row]) == length - 1)  # with the step's own, K inputs
            rings[row][int(rival.position[row])] = (step, row)
            since[row] = [] if commits[row] else [*since[row], (step, row)]
        rival.advance()
    rival.at(torch.full((cell.rows,), 2 * length + 1))
    assert rival.filled().unique().tolist() == [1 % length]


@pytest.mark.parametrize("length", [1, 4, 16])
def test_checkpointing_ssu_commits_a_full_ring_without_the_steps_own(
    script: Any, cell: Any, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    rival = checkpointing(script, monkeypatch, cell, length)
    assert rival.entries == length + 1
    assert rival.filled().tolist() == [1 + row % length for row in range(cell.rows)]
    since = [[int(rival.order(i)[row]) for i in range(1 + row % length)] for row in range(cell.rows)]
    rings: list[list[Any]] = [list(range(length + 1)) for _ in range(cell.rows)]
    for step in range(2 * length + 1):
        filled = rival.filled().tolist()
        for row in range(cell.rows):
            assert [rings[row][int(rival.order(i)[row])] for i in range(filled[row])] == since[row]
            free = int(rival.order(filled[row])[row])  # the one place that no replayed entry has
            assert free not in {int(rival.order(i)[row]) for i in range(filled[row])}
            rings[row][free] = ("step", step)
            since[row] = [*([] if filled[row] == length else since[row]), ("step", step)]
        rival.advance()


def test_the_recurrence_and_the_replay_are_those_of_a_plain_loop(
    script: Any, cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entry by entry and number by number, with a ring that wraps round."""
    small = dataclasses.replace(cell, rows=6)
    rival = checkpointing(script, monkeypatch, small, K)
    rival.advance()
    rival.advance()
    assert max(rival.start[1:].tolist()) + K > rival.entries
    found = script.replayed(rival)
    for row in (0, 3, 5):
        for head, dim, n in ((0, 0, 0), (1, 7, 3), (3, 2, 15)):
            value, slot = float(rival.state[1 + row, head, dim, n]), 1 + row
            for entry in range(int(rival.count[slot])):
                at = (int(rival.start[slot]) + entry) % (K + 1)
                dt = float(rival.dt_ring[slot, head, at])
                x, b = float(rival.x_ring[slot, head, at, dim]), float(rival.b_ring[slot, head // 2, at, n])
                value = math.exp(dt * float(rival.a[head, dim, n])) * value + dt * x * b
            assert float(found[row, head, dim, n]) == pytest.approx(value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("state_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", [K, 16])
def test_a_ring_that_does_as_it_should_passes(
    script: Any, cell: Any, plain: Any, state_dtype: torch.dtype, length: int
) -> None:
    output, state = script.check_rival(plain(cell, state_dtype, length))
    assert 0 < output < 8e-3 and state < 8e-3


def test_a_commit_row_that_is_a_tenth_off_is_refused(script: Any, cell: Any, plain: Any) -> None:
    """Over all rows it would be off by less than 3 %."""
    rival = plain(cell, torch.float32, 16)

    def wrong(out: torch.Tensor, _: torch.Tensor) -> None:
        exact = out.clone()
        committing = rival.commits.nonzero()[:, 0]
        out[committing[exact[committing].flatten(1).norm(dim=1).argmin()]] *= 1.1
        assert (out - exact).float().norm() < 3e-2 * exact.float().norm()

    rival.wrong = wrong
    with pytest.raises(RuntimeError, match=r"a row's output is off by 1.* at plain, torch.float32, K = 16"):
        script.check_rival(rival)


def test_a_state_that_is_kept_wrongly_is_refused(script: Any, cell: Any, plain: Any) -> None:
    """By the last step's commit alone, which no output shows."""
    rival, steps = plain(cell, torch.float32, K), 0

    def wrong(_: torch.Tensor, state: torch.Tensor) -> None:
        nonlocal steps
        steps += 1
        if steps == K + 2:
            state[int(rival.commits.nonzero()[0])] *= 1.05

    rival.wrong = wrong
    with pytest.raises(RuntimeError, match=r"a row's state is off by 5"):
        script.check_rival(rival)


def test_an_output_that_is_not_written_is_refused(script: Any, cell: Any, plain: Any) -> None:
    rival = plain(cell, torch.float32, K)
    rival.wrong = lambda out, _: out[7, 1].fill_(math.nan)
    with pytest.raises(RuntimeError, match="output is off by inf"):
        script.check_rival(rival)


def test_sides_are_timed_in_turn_and_medians_kept(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def side(name: str, steps: int, spans: list[float]) -> Any:
        left = iter(spans)
        return script.Captured(name, "", lambda: order.append(name) or next(left), steps)

    monkeypatch.setattr(script, "spans", lambda runs, _: [run() for run in runs])
    sides = [side("a", 1, [90, 1, 2, 9]), side("b", 2, [90, 14, 10, 12]), side("c", 1, [90, 3, 3, 4])]
    assert script.in_turn(sides, 3, "cpu") == [(2, 1, 9), (6, 5, 7), (3, 3, 4)]  # without the first round's
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds == ["abc", "acb", "cab", "cba"]


def test_every_tile_is_tried_that_either_default_has(script: Any, cell: Any) -> None:
    for size, count in ((64, 24), (128, 54)):
        wide = dataclasses.replace(cell, shape=(4, 64, size))
        found = [settings for _, settings in script.ReplaySSM.launches(wide)]
        assert len(set(found)) == len(found) == count and max(max(e[2:4]) for e in found) <= size
        assert {(16, 1, 64, size, 2), (64, 1, 32, 64, 2), (64, 1, 64, 64, 2), (32, 1, 64, 64, 2)} <= set(found)


class TestCommand:
    @pytest.fixture(autouse=True)
    def _small(self, script: Any, cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny = dataclasses.replace(cell, shape=(2, 4, 16), rows=3)
        monkeypatch.setattr(script, "cells", lambda _: [tiny])
        monkeypatch.setattr(script.Cell, "length", lambda *_: 16)
        # ``step_kernels.py`` has a dry run of ours.
        captured = script.Captured("inner", "ours", lambda: 1.0, 1)
        monkeypatch.setattr(script, "ours", lambda *_: script.Side([captured], lambda: 0.5))

    @staticmethod
    def run(script: Any, monkeypatch: pytest.MonkeyPatch, path: Path, *kinds: Any) -> list[dict[str, str]]:
        monkeypatch.setattr(script, "RIVALS", kinds)
        monkeypatch.setattr(sys, "argv", ["x", "--dry-run", "--cells", "0", "--states", "float32", "--csv", str(path)])
        script.main()
        return rows_of(path)

    def test_a_rivals_best_is_checked_and_timed_beside_its_own(
        self, script: Any, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        captures: list[Any] = []

        def graphed(calls: Any, _: torch.device) -> Callable[[], float]:
            captures.append(plain.used)
            if plain.used == "too large":
                raise script.OutOfResources(2, 1, "shared memory")
            return lambda seconds={None: 3.0, "other": 2.0}[plain.used]: seconds

        monkeypatch.setattr(script, "graphed", graphed)
        monkeypatch.setattr(script, "spans", lambda runs, _: [run() for run in runs])
        checked: list[Any] = []
        monkeypatch.setattr(script, "check_rival", lambda _: checked.append(plain.used) or (0.0, 0.0))
        rows = self.run(script, monkeypatch, tmp_path / "ring.csv", plain)
        assert [(r["what"], r["launch"], float(r["us"])) for r in rows] == [
            ("inner", "ours", 1e6), ("plain", "own", 3e6), ("plain, best of 2", "other", 2e6),
            ("inner, one phase", "ours", 5e5), ("plain, one phase", "other", 2e6),
        ]  # fmt: skip
        assert checked == [None, "other"] and plain.used is None
        assert captures == [None, "other", "too large"] + 16 * ["other"]  # the phases with the best

    def test_a_rival_that_cannot_run_says_so_and_fails_the_command(
        self, script: Any, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        class Broken(plain):
            name = "broken"

            def run(self) -> torch.Tensor:
                raise ValueError("no such\nkernel")

        path = tmp_path / "ring.csv"
        with pytest.raises(SystemExit, match="1 failures of rivals"):
            self.run(script, monkeypatch, path, Broken, plain)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "cannot run" in line]
        assert line.startswith("broken cannot run: ValueError: no such kernel ('plain', 3, 'float32', 16)")
        assert "plain" in {row["what"] for row in rows_of(path)}

    def test_ours_that_is_wrong_ends_the_command(
        self, script: Any, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        def wrong(*_: Any) -> Iterator[Any]:
            raise SystemExit("Launch is off by 1.0e+00 at plain")

        monkeypatch.setattr(script, "ours", wrong)
        with pytest.raises(SystemExit, match="is off by"):
            self.run(script, monkeypatch, tmp_path / "ring.csv", plain)
        assert "cannot run" not in capsys.readouterr().out


def test_a_launchs_settings_do_not_outlast_a_failure(script: Any, plain: Any) -> None:
    with contextlib.suppress(ValueError), plain.using("other"):
        assert plain.used == "other"
        raise ValueError
    assert plain.used is None


def test_the_parts_compile_every_launch_once(
    script: Any, cell: Any, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, Any]] = []
    mine: list[int] = []

    class Noted(plain):
        def run(self) -> torch.Tensor:
            ran.append((self.length, type(self).used))
            return self.out

    class Ours:
        def __init__(self, cell: Any, state_dtype: torch.dtype, length: int, width: int) -> None:
            self.memory, self.length = None, length

        def run(self, launch: Any) -> None:
            mine.append(self.length)

    monkeypatch.setattr(script, "ReplaySSM", Noted)
    monkeypatch.setattr(script, "Inputs", Ours)
    monkeypatch.setattr(script, "launch_for", lambda *_: None)
    runs = [(cell, torch.float32, length) for length in (2, 3, 4)]
    parts = []
    for part in range(2):
        script.compile_part(runs, part, 2)
        parts.append(len(ran) - sum(parts))
    assert sorted(mine) == [2, 3, 4] and max(parts) - min(parts) <= 1
    assert sorted(ran, key=str) == sorted(
        [(length, used) for length in (2, 3, 4) for used in (None, "other", "too large")], key=str
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
