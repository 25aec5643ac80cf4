"""The families by name, and ``generate``: one item as a pure function of seed, index, family and level.

A draft is drawn again, from the same stream, when its prompt or solution has the wrong length or its
answer is a small integer that anyone could guess.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

from .arithmetic import arithmetic
from .checks import estimate
from .choice import choice
from .counting import counting
from .geometry import geometry
from .item import LENGTH, Draft, Item, finish
from .linear import linear
from .numbers import numbers
from .quadratic import quadratic
from .radicals import radicals
from .sequences import sequences

_PROMPT_MOST = 110
_SOLUTION_MOST = 910
# Of the level's length: a draft with too little to check, or too much work for its level, is drawn again.
_LEAST, _MOST = 0.7, 1.6

_DRAFTS: dict[str, Callable[[random.Random, int], Draft]] = {
    "arithmetic": arithmetic,
    "linear": linear,
    "quadratic": quadratic,
    "radicals": radicals,
    "numbers": numbers,
    "counting": counting,
    "sequences": sequences,
    "geometry": geometry,
}


def generate(seed: int, index: int, *, family: str | None = None, level: int | None = None) -> Item:
    rng = random.Random(f"{seed}:{index}")
    if family is None:
        family = rng.choice(list(FAMILIES))
    if level is None:
        level = rng.randint(1, 5)
    return FAMILIES[family](rng, level)


def _plain(family: str, rng: random.Random, level: int) -> Item:
    while True:
        item = finish(_DRAFTS[family](rng, level), family)
        if _usable(item):
            return item


def _multiple_choice(rng: random.Random, level: int) -> Item:
    while True:
        draft = _DRAFTS[rng.choice(list(_DRAFTS))](rng, level)
        if _guessable(draft.answer):
            continue
        item = choice(draft, rng, "choice")
        if _usable(item):
            return item


def _usable(item: Item) -> bool:
    if _guessable(item.answer) or estimate(item.prompt) > _PROMPT_MOST:
        return False
    usual = LENGTH[item.level]
    return _LEAST * usual < estimate(item.solution) < min(_MOST * usual, _SOLUTION_MOST)


def _guessable(answer: str) -> bool:
    digits = answer.removeprefix("-")
    return digits.isdecimal() and int(digits) <= 20


FAMILIES: dict[str, Callable[[random.Random, int], Item]] = {
    **{name: functools.partial(_plain, name) for name in _DRAFTS},
    "choice": _multiple_choice,
}
