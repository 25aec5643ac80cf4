"""The split of each cell's step by kernel, kept in a CSV beside the throughput rows."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from harness.records import InputError
from harness.report.throughput import KernelTime, Row, write_csv

_CELL = ("model", "engine", "dtype", "state_dtype", "batch", "prompt", "new_tokens")  # of Row.cell
COLUMNS = (*_CELL, "kernel", "launches", "us_per_step")

# The lines of each cell, as they stand in the file.
Splits: TypeAlias = dict[tuple[str, ...], list[tuple[str, ...]]]


def split_path(csv_path: Path) -> Path:
    """``rows.split.csv`` beside ``rows.csv``."""
    return csv_path.with_suffix(".split.csv")


def set_split(splits: Splits, row: Row, split: tuple[KernelTime, ...]) -> None:
    """In place of what the row's cell had; nothing where it has no split now."""
    cell = tuple(str(getattr(row, field)) for field in _CELL)
    splits.pop(cell, None)
    if split:
        splits[cell] = [(*cell, part.name, f"{part.launches:g}", f"{part.us:.6g}") for part in split]


def read_splits(path: Path) -> Splits:
    """Of a file that ``write_splits`` made, nothing where there is none; InputError for any other."""
    splits: Splits = {}
    if not path.exists():
        return splits
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); move it away") from None
    for number, line in enumerate(lines, 1):
        if len(line) != len(COLUMNS) or (number == 1 and tuple(line) != COLUMNS):
            raise InputError(f"{path}, line {number}: not of the columns {','.join(COLUMNS)}; move the file away")
        if number > 1:
            splits.setdefault(tuple(line[: len(_CELL)]), []).append(tuple(line))
    return splits


def write_splits(path: Path, splits: Mapping[tuple[str, ...], list[tuple[str, ...]]]) -> None:
    """Whole or not at all."""
    write_csv(path, COLUMNS, (line for lines in splits.values() for line in lines))
