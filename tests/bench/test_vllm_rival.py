"""Which of vLLM's settings are run, and how; tests/engine/test_vllm.py runs them where vLLM is installed."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from harness.bench import rival, vllm_rival
from harness.bench.cell import Cell
from harness.bench.rival import Circumstances
from harness.bench.roofline import Ceilings
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


FIRST_S, STEP_S = 2.0, 0.25  # of the fake: the prompt with the first token's draw, and a step behind it
NAME = "random:tiny-teacher"


class Fake:
    """A vLLM whose ``generate`` moves a clock of its own; ``broken`` raises at that many tokens."""

    made: list[Fake]
    broken: int | None

    def __init__(self, *given: Any, **settings: Any) -> None:
        self.settings, self.closed = settings, False
        self.calls: list[Any] = []
        self.facts = {"version": "9", "settings": {"blocks": 101, "block_size": 16}}
        Fake.made.append(self)

    def forget(self) -> None:
        self.calls.append("forget")

    def generate(self, prompts: list[list[int]], params: Any) -> tuple[list[int], list[float]]:
        budget, eos, outputs = params
        new_tokens = budget.max_new_tokens
        different = len({tuple(prompt) for prompt in prompts})
        self.calls.append((len(prompts), different, new_tokens, outputs, budget.temperature, eos))
        if new_tokens == Fake.broken:
            raise RuntimeError("CUDA out of\nmemory")
        ticks = [Clock.now + FIRST_S + step * STEP_S for step in range(new_tokens)]
        Clock.now = ticks[-1]
        return [new_tokens] * len(prompts), ticks

    def close(self) -> None:
        self.closed = True


class Clock:
    now = 0.0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake.made, Fake.broken, Clock.now = [], None, 0.0
    monkeypatch.setattr(vllm_rival, "VllmEngine", Fake)
    monkeypatch.setattr(vllm_rival, "sampling_params", lambda budget, eos, outputs: (budget, list(eos), outputs))
    monkeypatch.setattr(vllm_rival, "product_ceilings", lambda config, cells, given: {c.batch: 2e9 for c in cells})
    monkeypatch.setattr(rival, "time", types.SimpleNamespace(perf_counter=lambda: Clock.now))


def measured(cells: list[Cell], settings: tuple[Setting, ...] = SETTINGS[:1], ignore_eos: bool = True):
    given = Circumstances(
        torch.device("cpu"), "a CPU", torch.bfloat16, torch.float16, Ceilings(1e10, 1e11), ignore_eos
    )  # fmt: skip
    lines: list[str] = []
    return list(vllm_rival.measure_rival(NAME, cells, given, lines.append, settings)), lines


def test_requests_are_those_of_its_own_generate(fake: None) -> None:
    ((found,), (line,)) = measured([Cell(4, 3, 100)])
    (engine,) = Fake.made
    runs: list[Any] = [(4, 4, n, "FINAL_ONLY", 0.8, []) for n in (64, 1, 1, 1, 100, 100, 100)]
    # Nothing of a run before helps the prefill of the next.
    assert engine.calls == [call for run in runs for call in ("forget", run)] and engine.closed
    assert engine.settings == {"multiprocess": False, "async_scheduling": False, "prefix_caching": False}
    row = found.row
    assert row.tokens_per_s == found.slowest == found.fastest == pytest.approx(4 / STEP_S)
    assert row.ms_per_step == pytest.approx(1000 * STEP_S) and found.prefill_s == FIRST_S
    assert (row.engine, row.state_dtype, row.peak_gib, found.largest_batch) == ("vllm", "float16", None, 14)
    whole = 400 / (FIRST_S + 99 * STEP_S)
    assert line == (
        f"{NAME}, vLLM 9 in-process, synchronous scheduling: 4 x 100: {row.tokens_per_s:,.0f} tokens/s,"
        f" {whole:,.0f} with prefill counted"
    )


def test_shared_prompts_keep_the_prefix_cache_and_eos_is_the_codecs(fake: None) -> None:
    measured([Cell(6, 3, 8, rows_per_prompt=3)], ignore_eos=False)
    (engine,) = Fake.made
    assert engine.settings["prefix_caching"] is None
    rows, prompts, *_, eos = engine.calls[1]
    assert (rows, prompts) == (6, 2) and eos


def test_one_start_serves_a_settings_cells_and_what_will_not_run_is_a_line(fake: None) -> None:
    cells = [Cell(4, 3, 1), Cell(40, 16, 48), Cell(4, 3, 8), Cell(2, 3, 8)]
    Fake.broken = 8
    found, lines = measured([*cells[:2], Cell(2, 3, 4), *cells[2:]], SETTINGS)
    assert len(Fake.made) == 4 and all(engine.closed for engine in Fake.made)
    assert [m.row.new_tokens for m in found] == [4] * 4
    assert [line.partition("scheduling: ")[2].partition(" tokens/s")[0] for line in lines[:4]] == [
        "4 x 1: decodes nothing behind the prompt's own token",
        "its cache holds 25 rows, not 40",
        "2 x 4: 8",
        "4 x 8: CUDA out of memory; with this setting no cell behind it",
    ]
    assert len(lines) == 16 and {s for s in SETTINGS if str(s) in "".join(lines)} == set(SETTINGS)


def test_a_start_that_fails_leaves_the_other_settings(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*given: Any, multiprocess: bool, **settings: Any) -> Fake:
        if multiprocess:
            raise RuntimeError("Engine core initialization failed.\nSee above.")
        return Fake(*given, **settings)

    monkeypatch.setattr(vllm_rival, "VllmEngine", make)
    found, lines = measured([Cell(4, 3, 8)], SETTINGS)
    assert len(found) == 2
    failed = f"{NAME}, vLLM multiprocess, synchronous scheduling: Engine core initialization failed. See above."
    assert failed in lines
