"""``harness curves``: files, labels and the guess curve; what it refuses."""

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from harness.bench.recorded import draw_recorded
from harness.records import InputError
from harness.scoring.recorded import LABEL


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"dataset": "made up", "counts": [i % 9 for i in range(250)], "ns": [8] * 250}))
    return path


def test_table_csv_and_plot_carry_the_label(counts: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=100)
    draw_recorded(counts, ["teacher=1000", "4000"], 500, "builtin", tmp_path / "out", console)
    with (tmp_path / "out" / "coverage.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["speed"] for r in rows} == {"teacher", "4000 tokens/s"}
    assert {r["kind"] for r in rows} == {LABEL}
    assert all(0 < float(r["guess"]) < float(r["coverage"]) for r in rows)
    assert (tmp_path / "out" / "coverage.png").stat().st_size > 10_000
    assert console.export_text().count(LABEL) == 2


def test_without_a_task_there_is_no_guess(counts: Path, tmp_path: Path) -> None:
    draw_recorded(counts, ["1000"], 500, None, tmp_path, Console(quiet=True))
    with (tmp_path / "coverage.csv").open() as file:
        assert {r["guess"] for r in csv.DictReader(file)} == {""}


@pytest.mark.parametrize(
    ("speeds", "message"),
    [(["fast"], "--throughput 'fast'"), (["a=1", "a=2"], "a is named twice"), (["-5"], "tokens_per_s = -5")],
)
def test_refusals(counts: Path, tmp_path: Path, speeds: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_recorded(counts, speeds, 500, None, tmp_path, Console(quiet=True))


@pytest.mark.usefixtures("data_dir")
def test_a_task_of_other_problems_is_refused(counts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--task amc23"):
        draw_recorded(counts, ["1"], 500, "amc23", tmp_path, Console(quiet=True))
