from collections import Counter
from math import comb

import numpy as np
import pytest

from harness.records import InputError
from harness.scoring import clock

GRID = np.array([0.5, 1.0, 2.5, 4.0, 8.0, 9.0, 20.0])


def by_hand(rows, pid, t):
    """Samples of ``pid`` that count by t, in order of their numbers."""
    return [
        r for r in rows if r["p"] == pid and r["t"] <= t and not r.get("late") and r.get("finish") in (None, "length")
    ]


@pytest.mark.parametrize("seed", range(20))
def test_coverage_majority_and_counts_equal_the_loop(table, random_rows, seed):
    rows = random_rows(seed)
    t = table(rows)
    covered, voted, done = clock.coverage(t, GRID), clock.majority(t, GRID), clock.finished(t, GRID)
    tokens = clock.tokens_finished(t, GRID)
    for i, pid in enumerate("abcdefg"):
        for g, second in enumerate(GRID):
            seen = by_hand(rows, pid, second)
            assert covered[i, g] == any(r["ok"] for r in seen)
            assert done[i, g] == len(seen)
            assert tokens[i, g] == sum(r["tokens"] for r in seen)
            votes = Counter(r["cls"] for r in seen if r["cls"] is not None and r.get("status") != "timeout")
            leaders = [c for c in votes if votes[c] == max(votes.values())]
            expected = sum(c == f"c{i % 4}" for c in leaders) / len(leaders) if leaders else 0.0
            assert voted[i, g] == pytest.approx(expected)


def test_a_tie_is_shared_and_no_vote_is_zero(table):
    t = table(
        [
            {"p": "a", "t": 1.0, "cls": "x", "ok": True},
            {"p": "a", "t": 2.0, "cls": "y"},
            {"p": "a", "t": 3.0, "cls": "y"},
            {"p": "b", "t": 1.0, "cls": None, "status": "no_answer"},
        ]
    )
    assert clock.majority(t, np.array([0.5, 1.0, 2.0, 3.0])).tolist() == [[0, 1, 0.5, 0], [0, 0, 0, 0]]


def test_all_late_scores_nothing_on_the_clock(table):
    t = table([{"p": "a", "t": 1.0, "cls": "x", "ok": True, "late": True}])
    assert not clock.coverage(t, GRID).any() and not clock.majority(t, GRID).any() and not clock.finished(t, GRID).any()


def test_a_problem_without_samples_counts_as_unsolved(table):
    t = table([{"p": "a", "t": 1.0, "cls": "x", "ok": True}], problems="ab")
    assert clock.coverage(t, np.array([2.0])).mean() == 0.5


def test_coverage_k_divides_by_started_not_by_finished(table):
    rows = [{"p": "a", "t": float(j), "cls": "x", "ok": j in (2, 5)} for j in range(1, 7)]
    t = table([*rows, {"p": "a", "t": 6.0, "finish": "deadline"}, {"p": "a", "t": 9.0, "late": True, "ok": True}])
    for k in range(1, 9):
        got = clock.coverage_k(t, np.array([1.0, 2.0, 6.0]), k)[0]
        assert got == pytest.approx([1 - comb(8 - c, k) / comb(8, k) for c in (0, 1, 2)])


def test_coverage_k_needs_a_common_start_and_enough_samples(table):
    refilled = table([{"p": "a", "t": 1.0}, {"p": "a", "t": 2.0, "submit": 1.0}])
    with pytest.raises(InputError, match="cov_k"):
        clock.coverage_k(refilled, GRID, 1)
    with pytest.raises(InputError, match="k = 3"):
        clock.coverage_k(table([{"p": "a", "t": 1.0}, {"p": "a", "t": 2.0}]), GRID, 3)
    assert not clock.started_together(table([{"p": "a", "t": 1.0}], started={"a": 2}))


def test_in_flight_ratio_warns_only_while_something_flies(table):
    t = table([{"p": p, "t": float(j)} for p in "ab" for j in (1, 2, 3)], batch=1)
    on_task = clock.in_flight(t, np.array([0.5, 1.0, 2.0, 3.0]), "task")
    assert on_task.ratio.tolist() == [np.inf, 1 / 2, 1 / 4, 1 / 6]
    assert on_task.warn.tolist() == [True, True, True, False]
    assert clock.in_flight(t, np.array([3.0]), "problem").ratio.tolist() == [1 / 3]
    cut = table([{"p": "a", "t": 1.0}, {"p": "a", "t": 3.0, "finish": "deadline"}], batch=1)
    assert clock.in_flight(cut, np.array([3.0]), "task").warn.tolist() == [True]


def test_curve_grid_runs_from_the_first_finish_to_the_deadline_and_holds_every_budget(table):
    t = table([{"p": "a", "t": 0.5}, {"p": "a", "t": 7.0}])
    grid = clock.curve_grid([t], (2.0, 20.0))
    assert grid[0] == 0.5 and grid[-1] == 20.0 and 2.0 in grid and len(grid) in (60, 61) and (np.diff(grid) > 0).all()
    assert clock.curve_grid([table([{"p": "a", "t": 50.0}])], (2.0, 20.0)).tolist() == [2.0, 20.0]


def test_event_grid_is_exact_until_the_limit():
    assert clock.event_grid([np.array([1.0, np.inf]), np.array([3.0, 1.0, 30.0])], 20.0).tolist() == [1.0, 3.0, 20.0]
    thinned = clock.event_grid([np.arange(1.0, 5000.0)], 4000.0, limit=100)
    assert len(thinned) == 100 and thinned[0] == 1.0 and thinned[-1] == 4000.0
