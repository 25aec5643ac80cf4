"""How a rival's runs become a row: prefill taken away, the faster of two readings, the spread. Nothing is timed."""

from __future__ import annotations

import pytest
import torch

from harness.bench import rival
from harness.bench.cell import Cell
from harness.bench.rival import Run, clock, time_cell

PREFILL_S, STEP_S = 2.0, 0.25


def lockstep(batch: int):
    """Runs in which every row draws all its tokens; the calls' tokens are kept."""
    calls: list[int] = []

    def run(new_tokens: int) -> Run:
        calls.append(new_tokens)
        ticks = [PREFILL_S + step * STEP_S for step in range(new_tokens)]
        return Run(batch * new_tokens, new_tokens, ticks[-1], ticks=ticks)

    return run, calls


def test_prefill_is_taken_away() -> None:
    run, calls = lockstep(4)
    timed = time_cell(Cell(4, 3, 100), run)
    assert calls == [64, 1, 1, 1, 100, 100, 100]
    assert timed.tokens_per_s == timed.slowest == timed.fastest == pytest.approx(4 / STEP_S)
    assert (timed.step_s, timed.prefill_s) == pytest.approx((STEP_S, PREFILL_S))
    assert timed.whole == pytest.approx(400 / (PREFILL_S + 99 * STEP_S)) and timed.joules_per_token is None


def test_the_faster_of_decoding_and_the_whole_counts() -> None:
    def timed(seconds: float, prefill_s: float):
        return rival._decoding(Run(50, 5, seconds), 10, prefill_s)

    assert timed(2.0, 1.0) == (40.0, 0.25)
    assert timed(2.0, 0.0) == (25.0, 0.4)  # all five tokens in two seconds
    assert timed(2.0, 2.5) == (25.0, 0.4)
    assert rival._decoding(Run(10, 1, 2.0), 10, 1.0) == (5.0, 2.0)  # every row ended with its first token


def test_rows_that_end_early_count_what_they_drew() -> None:
    seconds = {64: 9.0, 1: 3.0, 100: 13.0}
    timed = time_cell(Cell(3, 3, 100), lambda n: Run(3 if n == 1 else 23, 1 if n == 1 else 11, seconds[n]))
    assert timed.tokens_per_s == pytest.approx(20 / 10) and timed.step_s == pytest.approx(1.0)


def test_a_long_cell_has_its_spread_over_its_steps() -> None:
    """Eight stretches behind the first token, each slower than the one before; prefill's steps are not among them."""
    calls = []

    def run(new_tokens: int) -> Run:
        calls.append(new_tokens)
        ticks = [0.7, 1.4, PREFILL_S]  # a prefill in three steps
        for step in range(new_tokens - 1):
            ticks.append(ticks[-1] + STEP_S * (1 + step * 8 // (new_tokens - 1)))
        return Run(4 * new_tokens, new_tokens, ticks[-1], ticks=ticks)

    timed = time_cell(Cell(4, 3, 1025), run)
    assert calls.count(1025) == 1
    assert timed.tokens_per_s == pytest.approx(4 / (4.5 * STEP_S))
    assert (timed.fastest, timed.slowest) == pytest.approx((4 / STEP_S, 4 / (8 * STEP_S)))


def test_the_clock_is_around_the_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(rival.time, "perf_counter", lambda: now[0])

    def generate() -> tuple[list[int], list[float]]:
        now[0] += 3.0
        return [4, 7, 2], [8.0]

    assert clock(torch.device("cpu"), generate) == Run(13, 7, 3.0, None, [8.0])
