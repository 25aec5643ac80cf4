"""The word on a figure: what must hold of it whatever the samples, and a few cases by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bench.regress_verdict import decide
from harness.records import InputError

SAMPLES = st.lists(st.floats(0.5, 2.0), min_size=2, max_size=9)
LEAST = st.floats(0.005, 0.3)


def around(middle: float, spread: float, count: int = 7) -> list[float]:
    """``count`` figures, evenly over +-``spread`` about ``middle``, out of order."""
    values = [middle * (1 + spread * (2 * i / (count - 1) - 1)) for i in range(count)]
    return values[::2] + values[1::2]


@given(SAMPLES, SAMPLES, LEAST, st.booleans())
def test_never_regressed_below_the_least_effect_nor_in_both_directions(
    base: list[float], head: list[float], least: float, higher: bool
) -> None:
    there, back = decide(base, head, least, higher), decide(head, base, least, higher)
    assert (1 + there.change) * (1 + back.change) == pytest.approx(1)
    if there.word == "regressed":
        loss = 1 / (1 + there.change) if higher else 1 + there.change
        assert loss >= (1 + least) * (1 - 1e-12)
        assert back.word == "ok"


@given(SAMPLES, SAMPLES, LEAST, st.booleans(), st.sampled_from([1e-3, 0.25, 8.0, 1e4]))
def test_units_and_the_direction_of_better_change_nothing(
    base: list[float], head: list[float], least: float, higher: bool, scale: float
) -> None:
    word = decide(base, head, least, higher).word
    # A word may turn where a median lies at the effect itself; such samples say nothing about scaling.
    if all(decide(base, head, least * f, higher).word == word for f in (0.999, 1.001)):
        assert decide([scale * b for b in base], [scale * h for h in head], least, higher).word == word
        assert decide([1 / b for b in base], [1 / h for h in head], least, not higher).word == word


@given(SAMPLES, LEAST)
def test_a_side_against_itself_never_regressed(samples: list[float], least: float) -> None:
    assert decide(samples, samples, least).word != "regressed"
    assert decide([samples[0]] * 5, [samples[0]] * 3, least).word == "ok"


@pytest.mark.parametrize(
    ("change", "spread", "word"),
    [
        (0.0, 0.004, "ok"),
        (0.2, 0.004, "ok"),
        (-0.02, 0.004, "ok"),  # below the least effect
        (-0.1, 0.004, "regressed"),
        (-0.1, 0.02, "regressed"),
        (-0.1, 0.15, "not measurable"),  # the sides overlap
        (0.0, 0.05, "not measurable"),  # a loss of 3 % would not be seen
        (-0.035, 0.03, "not measurable"),
    ],
)
@pytest.mark.parametrize("higher", [True, False])
def test_by_hand(change: float, spread: float, word: str, higher: bool) -> None:
    better = 1 + change if higher else 1 / (1 + change)
    verdict = decide(around(100, spread), around(100 * better, spread), 0.03, higher)
    assert verdict.word == word
    assert verdict.change == pytest.approx(better - 1, abs=2e-3)
    assert verdict.worst is not None and verdict.best is not None
    low, high = sorted((verdict.worst, verdict.best))
    assert low <= verdict.change <= high


@given(st.floats(0.2, 5), st.floats(0.2, 5), LEAST)
def test_measured_once_on_both_sides_says_nothing(base: float, head: float, least: float) -> None:
    verdict = decide([base], [head], least)
    assert verdict.word == "not measurable" and verdict.worst is None
    assert verdict.change == pytest.approx(head / base - 1, abs=1e-9)


def test_a_stored_figure_is_given_the_other_sides_spread() -> None:
    assert decide([100.0], around(90, 0.01), 0.03).word == "regressed"
    assert decide([100.0], around(100, 0.01), 0.03).word == "ok"
    assert decide([100.0], around(97, 0.05), 0.03).word == "not measurable"
    alone, both = decide([100.0], around(95, 0.01), 0.03), decide(around(100, 0.01), around(95, 0.01), 0.03)
    assert alone.worst is not None and both.worst is not None
    assert math.isclose(alone.worst, both.worst, abs_tol=1e-3)


def test_what_cannot_be_compared_is_named() -> None:
    for least in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(InputError, match="--min-effect"):
            decide([1.0], [1.0], least)
    for base, head in (([], [1.0]), ([1.0], []), ([0.0, 1.0], [1.0]), ([1.0], [-2.0])):
        with pytest.raises(InputError, match="not measured on both sides"):
            decide(base, head, 0.03)
