"""The path without sympy says exactly what the sympy path says, on random common answers."""

from __future__ import annotations

import random

import pytest

from harness.grading.canonical import canonical
from harness.grading.fast import fast_class
from harness.grading.limits import Unparsable
from harness.grading.normalise import normalise
from harness.grading.policy import Policy

DEFAULT = Policy()
CASES = 400


def _scalar(rng: random.Random) -> str:
    a, b, n = rng.randint(-60, 60), rng.randint(0, 40), rng.randint(0, 400)
    k = rng.choice(["", "-", str(a)])
    return rng.choice(
        [
            str(a),
            str(10 ** rng.randint(5, 40) + a),
            f"{a}.{b:02d}",
            f".{b}",
            f"{a}/{b}",
            f"\\frac{{{a}}}{{{b}}}",
            f"\\frac{{{a}}}{{-{b}}}",
            f"-\\dfrac{{{a}.5}}{{{b}}}",
            f"{b}\\frac{{{n}}}{{{abs(a)}}}",
            f"{k}\\sqrt{{{n}}}",
            f"{k}\\sqrt{{{n}}}/{b}",
            f"\\frac{{{k}\\sqrt{{{n}}}}}{{{b}}}",
            f"+{n}",
            "\\infty",
            "-\\infty",
        ]
    )


def _answer(rng: random.Random) -> str:
    shape = rng.choice(
        ["{0}", "({0},{1})", "[{0},{1})", "({0}, {1}, {2})", r"\{{{0},{1}\}}", "{0}, {1}", r"\left({0}\right)"]
    )
    return shape.format(_scalar(rng), _scalar(rng), _scalar(rng))


def test_fast_and_sympy_agree_on_random_answers() -> None:
    rng = random.Random(7)
    decided = 0
    for _ in range(CASES):
        text = _answer(rng)
        normal = normalise(text, DEFAULT)
        fast = fast_class(normal, DEFAULT)
        if fast is None:
            continue
        decided += 1
        assert canonical(normal, DEFAULT).class_id == fast, text
    assert decided > CASES / 2


@pytest.mark.parametrize("text", ["1/0", r"\frac{3}{0}", r"\sqrt{2}/0"])
def test_undefined_is_left_to_the_other_path_which_refuses(text: str) -> None:
    normal = normalise(text, DEFAULT)
    assert fast_class(normal, DEFAULT) is None
    with pytest.raises(Unparsable):
        canonical(normal, DEFAULT)
