import numpy as np
import pytest

from harness.records import InputError
from harness.scoring.intervals import Resampler, mean_over_problems, pointwise, simultaneous_band, wilson


def test_draws_are_seeded_and_weigh_every_problem_alike():
    one, two = Resampler.over(30, 2000, seed=4), Resampler.over(30, 2000, seed=4)
    assert (one.weights == two.weights).all()
    assert one.weights.sum(axis=1) == pytest.approx(np.ones(2000))
    assert one.weights.mean(axis=0) == pytest.approx(np.full(30, 1 / 30), rel=0.1)
    with pytest.raises(InputError):
        Resampler.over(0)


def test_pointwise_interval_of_a_mean_has_the_known_width():
    values = (np.arange(400) < 120).astype(float)[:, None]
    low, high = pointwise(Resampler.over(400).means(values))
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert (low[0], high[0]) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)


def test_pairing_cancels_what_two_models_share():
    rng = np.random.default_rng(0)
    teacher = rng.integers(0, 2, (200, 1)).astype(float)
    student = teacher.copy()
    student[:10] = 1 - student[:10]
    resampler = Resampler.over(200)
    paired = resampler.means(student) - resampler.means(teacher)
    assert paired.std() < 0.5 * resampler.means(student).std()
    assert not (resampler.means(teacher) - resampler.means(teacher)).any()


def test_the_band_covers_the_whole_curve_95_times_in_100():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        steps = rng.normal(0.1, 1.0, (80, 20)).cumsum(axis=1) / 5
        truth = 0.1 * np.arange(1, 21) / 5
        draws = Resampler.over(80, 500, seed=trial).means(steps)
        band = simultaneous_band(steps.mean(axis=0), draws)
        covered += bool(((band.low <= truth) & (truth <= band.high)).all())
        assert band.c > 1.96
    assert 0.88 <= covered / 200 <= 0.99


def test_the_critical_value_equals_the_loop():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(25, 4))
    values[:, 2] = 0.0
    draws = Resampler.over(25, 300).means(values)
    d = values.mean(axis=0)
    band = simultaneous_band(d, draws)
    worst = [max(abs(row[t] - d[t]) / draws[:, t].std(ddof=1) for t in (0, 1, 3)) for row in draws]
    assert band.c == pytest.approx(np.quantile(worst, 0.95))
    assert band.low[2] == band.high[2] == 0.0


def test_timing_runs_are_averaged_below_three_and_nested_from_three():
    resampler = Resampler.over(50, 4000)
    same = np.full((50, 1), 0.5)
    two = np.stack([same - 0.2, same + 0.2])
    assert resampler.means(two).std() == pytest.approx(0, abs=1e-12)
    three = np.stack([same - 0.2, same, same + 0.2])
    draws = resampler.means(three, "a")
    assert draws.std() == pytest.approx(np.sqrt(0.08 / 3 / 3), rel=0.1)
    assert (draws == resampler.means(three, "a")).all() and (draws != resampler.means(three, "b")).any()
    assert mean_over_problems(three) == pytest.approx([0.5])


def test_wilson_is_honest_at_the_ends():
    low, high = wilson(10, 10)
    assert (low, high) == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0)
