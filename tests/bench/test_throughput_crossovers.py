"""Predicted crossovers: with one ceiling for all products, and with each model's own where they were measured."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from harness.bench.cell import Cell
from harness.bench.crossovers import find_crossovers
from harness.bench.roofline import Ceilings, Workload, crossover_tokens, step_seconds
from harness.models.shapes import SHAPES
from harness.report.throughput import Crossover, crossover_table

CONFIGS = {"llama": SHAPES["llama-3.2-1b"], "llamba": SHAPES["llamba-1b"]}
H100, WORK = Ceilings(3.0e12, 700e12), Workload(256, 128, 1024)


def test_a_students_own_products_move_its_crossover() -> None:
    slow, fast = (dataclasses.replace(H100, product_flop_per_s=rate) for rate in (100e12, 600e12))
    both = crossover_tokens(*CONFIGS.values(), WORK, fast)
    turn = crossover_tokens(*CONFIGS.values(), WORK, fast, slow)
    assert both is not None and turn is not None and turn > both
    for tokens, ahead in ((turn, True), (turn - 1, False)):
        work = dataclasses.replace(WORK, new_tokens=tokens)
        assert (step_seconds(CONFIGS["llamba"], work, slow) < step_seconds(CONFIGS["llama"], work, fast)) is ahead


def test_own_products_count_where_both_models_were_measured() -> None:
    cells = [Cell(256, 128, 1024), Cell(64, 128, 1024)]
    products = {"llama": {256: 600e12, 64: 300e12}, "llamba": {256: 100e12}}
    large, small, along_batch = find_crossovers(CONFIGS, WORK, cells, H100, products, [])
    own = [dataclasses.replace(H100, product_flop_per_s=products[model][256]) for model in CONFIGS]
    assert large.own_known and large.own == crossover_tokens(*CONFIGS.values(), WORK, *own) != large.predicted
    assert not small.own_known and small.predicted is not None and not along_batch.own_known


def test_the_table_has_both_predictions() -> None:
    console = Console(record=True, width=80)
    given = ("random:mamba-in-llama-3b", "random:llama-3.2-3b", "batch 1024", "new tokens")
    found = [
        Crossover(*given, 1 << 20, None, (4096,), 191, True),
        Crossover(*given, 7, 8, (8,), None, True),
        Crossover(*given, None, None, ()),
    ]
    console.print(crossover_table(found))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert [line.partition("new tokens ")[2] for line in lines if "new tokens" in line] == [
        "1,048,576 191 not by 4,096", "7 never 8", "never – –",
    ]  # fmt: skip
