import numpy as np
import pytest

from harness.records import InputError
from harness.scoring.crossover import Comparison, compare, crossover_times, outcome_of, proven_span, speedups, time_to
from harness.scoring.intervals import Band, Resampler

GRID = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
INF = float("inf")


def brute_crossover(student, teacher):
    t0 = next((t for t, a, b in zip(GRID, student, teacher, strict=True) if max(a, b) >= 0.05), INF)
    for g, t in enumerate(GRID):
        if t >= t0 and all(a > b for a, b in zip(student[g:], teacher[g:], strict=True)):
            return t
    return INF


def test_crossover_equals_the_definition_on_random_curves():
    rng = np.random.default_rng(0)
    curves = np.sort(rng.integers(0, 6, (2, 500, 5)), axis=2) / 50
    got = crossover_times(curves[0], curves[1], GRID)
    assert got.tolist() == [brute_crossover(s, t) for s, t in zip(*curves, strict=True)]
    assert np.isinf(got).any() and np.isfinite(got).any()


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([0, 0.1, 0.2, 0.5, 0.6], [0, 0.2, 0.3, 0.4, 0.4], 4.0),
        ([0, 0.1, 0.5, 0.2, 0.6], [0, 0.0, 0.3, 0.4, 0.4], 5.0),
        ([0.02, 0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0, 0], 2.0),
        ([0.5, 0.5, 0.5, 0.5, 0.5], [0, 0.1, 0.2, 0.3, 0.5], INF),
        ([0.02] * 5, [0.01] * 5, INF),
    ],
)
def test_crossover_by_hand(student, teacher, expected):
    assert crossover_times(np.array(student), np.array(teacher), GRID) == expected


def test_time_to_and_speedups():
    teacher, student = np.array([0, 0.2, 0.4, 0.6, 1.0]), np.array([0.3, 0.3, 0.5, 0.55, 0.55])
    assert time_to(teacher, 0.4, GRID) == 3.0 and time_to(teacher, 1.1, GRID) == INF
    s = speedups(student, teacher, GRID)
    assert s.tolist() == [2, 2, 3, 1, 4 / 3, 0, 0, 0, 0]
    assert np.isnan(speedups(student, np.zeros(5), GRID)).all()


def band(signs: str) -> Band:
    middle = np.array([{"+": 0.2, "-": -0.2, "?": 0.01, "!": -0.01}[s] for s in signs])
    return Band(middle, np.full(len(signs), 0.05), 2.0, middle - 0.1, middle + 0.1)


@pytest.mark.parametrize(
    ("signs", "outcome"),
    [
        ("??+++", "ahead"), ("+?", "ahead"), ("+!", "undecided"), ("---", "never"), ("-!", "never"),
        ("-?", "undecided"), ("-?+", "crosses"), ("-+?", "crosses"), ("-+!", "undecided"), ("+-", "falls back"),
        ("-+-", "falls back"), ("+-+", "crosses"), ("??!", "undecided"), ("", "undecided"),
    ],
)  # fmt: skip
def test_outcome_is_read_off_the_band(signs, outcome):
    assert outcome_of(band(signs), 100) == outcome
    assert outcome_of(band(signs), 9) == "undecided"


def curves(rates, n=200, seed=0):
    """Per-problem 0/1 curves whose mean follows ``rates``."""
    threshold = np.random.default_rng(seed).random(n)
    return (threshold[:, None] < np.array(rates)).astype(float)


def test_a_student_that_overtakes_crosses(table):
    c = compare(
        curves([0, 0.1, 0.3, 0.7, 0.9], seed=1), curves([0, 0.4, 0.5, 0.5, 0.5], seed=2), GRID, Resampler.over(200)
    )
    assert c.outcome == "crosses" and c.crossover_s == 4.0 and c.t0_s == 2.0 and c.p_crossed > 0.99
    assert c.crossover_quantiles_s == (4.0, 4.0, 4.0)
    assert proven_span(c) == (4.0, 5.0) and proven_span(c, ahead=False) == (2.0, 3.0)
    assert len(c.judged_s) == len(c.band.low) == 4


def test_equal_models_are_undecided_and_infinity_stays_in_the_quantiles():
    same = curves([0, 0.2, 0.4, 0.5, 0.6])
    c = compare(same, same, GRID, Resampler.over(200))
    assert c.outcome == "undecided" and c.crossover_s == INF and c.p_crossed == 0
    assert c.crossover_quantiles_s == (INF, INF, INF)
    assert c.speedup == pytest.approx(np.ones(9))


def test_half_of_the_draws_never_cross_for_a_coin_flip():
    c = compare(curves([0.5] * 5, seed=3), curves([0.5] * 5, seed=4), GRID, Resampler.over(200))
    assert 0.01 < c.p_crossed < 0.99 and c.crossover_quantiles_s[-1] == INF


def test_a_pair_that_solves_nothing_and_a_single_problem():
    nothing = compare(curves([0] * 5), curves([0] * 5), GRID, Resampler.over(200))
    assert nothing.t0_s == INF and nothing.outcome == "undecided" and np.isnan(nothing.speedup).all()
    one = compare(np.ones((1, 5)), np.zeros((1, 5)), GRID, Resampler.over(1))
    assert one.outcome == "undecided" and one.crossover_s == 1.0


def test_timing_runs_of_different_number_compare():
    runs = np.stack([curves([0, 0.1, 0.3, 0.7, 0.9], seed=1)] * 3)
    c = compare(runs, runs[:1, ::-1], GRID, Resampler.over(200))
    assert isinstance(c, Comparison) and c.outcome == "undecided"
    with pytest.raises(InputError, match="same problems"):
        compare(runs, runs[:, :5], GRID, Resampler.over(200))
