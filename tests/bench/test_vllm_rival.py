"""Which of vLLM's settings are run; tests/engine/test_vllm.py runs them where vLLM is installed."""

from __future__ import annotations

import types

import pytest

from harness.bench.cell import Cell
from harness.bench.vllm_rival import SETTINGS, Setting, _capacity, chosen_settings
from harness.records import InputError


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (None, SETTINGS),
        ("in-process", (Setting(False, False), Setting(False, True))),
        ("asynchronous", (Setting(False, True), Setting(True, True))),
        ("in-process,asynchronous", (Setting(False, True),)),
        ("multiprocess, synchronous, asynchronous", (Setting(True, False), Setting(True, True))),
    ],
)
def test_words_choose_settings(words: str | None, chosen: tuple[Setting, ...]) -> None:
    assert chosen_settings(words) == chosen


def test_an_unknown_word_is_named() -> None:
    with pytest.raises(InputError, match="--vllm-settings 'async': did you mean 'asynchronous'"):
        chosen_settings("in-process,async")


def test_capacity_is_that_of_the_cells_length() -> None:
    engine = types.SimpleNamespace(facts={"settings": {"blocks": 101, "block_size": 16}})
    assert _capacity(engine, Cell(1, 16, 16)) == 50  # type: ignore[arg-type]
    assert _capacity(engine, Cell(1, 16, 17)) == 33  # type: ignore[arg-type]
