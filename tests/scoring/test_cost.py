import math

import numpy as np
import pytest

from harness.scoring import cost

ROWS = [
    {"p": "a", "t": 2.0, "tokens": 21, "ok": True, "cls": "x"},
    {"p": "a", "t": 4.0, "tokens": 41, "finish": "length"},
    {"p": "b", "t": 3.0, "tokens": 31, "status": "timeout"},
]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("clock", ["task", "problem"])
def test_the_decomposition_sums_exactly(table, random_rows, seed, clock):
    teacher = cost.cost_by(table(random_rows(seed)), 8.0, clock).decomposition()
    student = cost.cost_by(table(random_rows(seed + 100)), 6.0, clock).decomposition()
    for d in (teacher, student, student.minus(teacher)):
        total = d.log_seconds_per_token + d.log_tokens_per_attempt - d.log_successes_per_attempt
        assert d.log_seconds_per_success == pytest.approx(total, abs=1e-12)


def test_totals_by_hand(table):
    assert cost.cost_by(table(ROWS), 3.0, "task") == cost.Cost(3.0, 52, 2, 1)
    assert cost.cost_by(table(ROWS), 3.0, "problem") == cost.Cost(6.0, 52, 2, 1)


def test_nothing_solved_is_infinite_and_nothing_finished_undefined(table):
    unsolved = cost.cost_by(table([{"p": "a", "t": 1.0}]), 2.0, "task").decomposition()
    assert unsolved.log_seconds_per_success == math.inf and unsolved.log_successes_per_attempt == -math.inf
    nothing = cost.cost_by(table([{"p": "a", "t": 5.0}]), 2.0, "task").decomposition()
    assert math.isnan(nothing.log_tokens_per_attempt)


def test_elapsed_stops_when_nothing_is_in_flight(table):
    grid = np.array([1.0, 3.5, 10.0])
    assert cost.elapsed_s(table(ROWS), grid, "task").tolist() == [1.0, 3.5, 4.0]
    assert cost.elapsed_s(table(ROWS), grid, "problem").tolist() == [2.0, 6.5, 7.0]
    for flying in ({"finish": "deadline", "t": 10.0}, {"late": True, "t": 12.0}):
        assert cost.elapsed_s(table([*ROWS, {"p": "a", **flying}]), grid, "task").tolist() == [1.0, 3.5, 10.0]
    assert cost.elapsed_s(table(ROWS, started={"b": 2}), grid, "problem").tolist() == [2.0, 7.0, 14.0]


def test_tokens_lie_evenly_between_first_and_last(table):
    t = table(
        [
            {"p": "a", "t": 3.0, "first": 1.0, "tokens": 21},
            {"p": "a", "t": 9.0, "first": 1.0, "tokens": 41, "late": True},
        ]
    )
    assert cost.tokens_per_s(t, np.array([0.5, 1.0, 2.0, 5.0]), "task") == pytest.approx([0, 2, 17 / 2, (21 + 21) / 5])


def test_on_clock_problem_the_seconds_of_all_problems_add_up(table):
    assert cost.tokens_per_s(table(ROWS), np.array([10.0]), "problem") == pytest.approx([93 / 7])


def test_shares(table):
    c = cost.chains(table(ROWS), 10.0)
    assert (c.finished, c.mean_length) == (3, 31) and c.unscored == c.truncated == pytest.approx(1 / 3)
    assert c.no_vote == pytest.approx(1 / 3)
    assert math.isnan(cost.chains(table(ROWS), 1.0).mean_length)
    late = table([*ROWS, {"p": "b", "t": 20.0, "late": True, "tokens": 91}])
    assert cost.chains(late).mean_length == 46 and cost.chains(late, 30.0).mean_length == 31
