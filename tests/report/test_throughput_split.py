"""The split of a step by kernel beside the rows: what it holds, and that a cell's old lines give way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from harness.bench.grid import _Book
from harness.report.throughput import KernelTime, Measurement, Row
from harness.report.throughput_split import COLUMNS, read_splits, split_path

ROW = Row("a", "native", "a GPU", "bfloat16", "float16", 4, 16, 64, 100.0, 1.0, 0.5, 0.1, 0.1, 2.0, None)
HEADER = ",".join(COLUMNS)


def measured(us: float, *more: KernelTime, **changes: object) -> Measurement:
    split = (KernelTime("matrix products", 9.0, us, 2500.0), *more)
    return Measurement(dataclasses.replace(ROW, **changes), split=split)  # type: ignore[arg-type]


def test_a_cells_split_is_kept_and_replaced(tmp_path: Path) -> None:
    path, kept = tmp_path / "rows.csv", tmp_path / "rows.split.csv"
    assert (
        split_path(path) == kept
        and HEADER == "model,engine,dtype,state_dtype,batch,prompt,new_tokens,kernel,launches,us_per_step"
    )
    book = _Book(path, [])
    book.add(measured(75.1234567, KernelTime("norm, gated", 3.5, 25.0, 1.0)))
    book.add(measured(50.0, batch=8))
    exact = "a,native,bfloat16,float32,4,16,64,matrix products,9,99"
    book.add(measured(99.0, state_dtype="float32"))  # a cell of its own
    assert kept.read_text().splitlines() == [
        HEADER,
        "a,native,bfloat16,float16,4,16,64,matrix products,9,75.1235",
        'a,native,bfloat16,float16,4,16,64,"norm, gated",3.5,25',
        "a,native,bfloat16,float16,8,16,64,matrix products,9,50",
        exact,
    ]
    later = _Book(path, list(book.rows.values()), read_splits(kept))
    later.add(measured(10.0, tokens_per_s=90.0))  # slower: neither its row nor its split counts
    later.add(measured(60.0, tokens_per_s=110.0))
    lines = [
        HEADER,
        "a,native,bfloat16,float16,8,16,64,matrix products,9,50",
        exact,
        "a,native,bfloat16,float16,4,16,64,matrix products,9,60",
    ]
    assert kept.read_text().splitlines() == lines
    later.add(Measurement(dataclasses.replace(ROW, tokens_per_s=120.0)))  # of this row there is no split
    assert kept.read_text().splitlines() == lines[:3]


def test_a_csv_written_anew_leaves_no_split_of_before(tmp_path: Path) -> None:
    _Book(tmp_path / "rows.csv", []).add(measured(75.0))
    _Book(tmp_path / "rows.csv", []).add(Measurement(dataclasses.replace(ROW, engine="eager")))
    assert (tmp_path / "rows.split.csv").read_text().splitlines() == [HEADER]


def test_where_there_is_no_split_there_is_no_file(tmp_path: Path) -> None:
    _Book(tmp_path / "rows.csv", []).add(Measurement(ROW))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    assert read_splits(tmp_path / "rows.split.csv") == {}
