import numpy as np
import pytest

from harness.records import InputError
from harness.scoring import guess

GOLD = {"a": "2", "b": "2", "c": "2", "d": "7"}


def test_own_answer_is_left_out():
    assert guess.hit_rates("abcd", GOLD) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])
    assert guess.hit_rates("d", GOLD).tolist() == [0.0]


def test_guess_curve_equals_a_simulation():
    rng = np.random.default_rng(0)
    others = np.array(["2", "2", "7"])
    hits = (others[rng.integers(3, size=(20_000, 4))] == "2").any(axis=1).mean()
    assert guess.guess_at_k("abcd", [4], GOLD)[0, 0] == pytest.approx(hits, abs=0.01)
    assert guess.guess_at_k("abcd", [1, 2], GOLD)[3].tolist() == [0.0, 0.0]


def test_on_the_clock_it_uses_the_models_own_count(table):
    t = table([{"p": "a", "t": 1.0}, {"p": "a", "t": 2.0}, {"p": "b", "t": 2.0, "late": True}], problems="abcd")
    got = guess.guess_on_clock(t, np.array([0.5, 1.0, 2.0]), GOLD)
    assert got[0] == pytest.approx([0, 2 / 3, 1 - (1 / 3) ** 2])
    assert not got[1:].any()


def test_every_problem_needs_the_class_of_its_gold():
    with pytest.raises(InputError, match="'e'"):
        guess.hit_rates("ae", GOLD)
