"""Real chains of thought: agreement with their safe labels, and the rows on which math-verify 0.9.0 and we part.

``parted.yaml`` settles those rows by hand as mathematics; ``mv`` in the data is math-verify's verdict.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.grading.compare import compare
from harness.grading.extract import extract_answer
from harness.grading.policy import DEFAULT_POLICY

FLOOR = 0.997
SETTLED = Path(__file__).parent / "parted.yaml"


@pytest.fixture(scope="module")
def settled() -> dict[tuple[str, str], bool | None]:
    """(gold, first digits of the response's sha256) -> whether they are equal, None where nobody can say."""
    return {(entry["gold"], entry["sha256"]): entry["equal"] for entry in yaml.safe_load(SETTLED.read_text())}


@functools.cache
def _says(gold: str, answer: str | None) -> bool:
    return answer is not None and compare(gold, answer, DEFAULT_POLICY).status == "correct"


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["gold"], hashlib.sha256(row["response"].encode()).hexdigest()[:12]


def _rows(data_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (data_dir / "model_outputs.jsonl").read_text().splitlines()]
    return [row | {"ours": _says(row["gold"], extract_answer(row["response"]))} for row in rows]


def test_labels_that_math_verify_shares(data_dir: Path) -> None:
    rows = [row for row in _rows(data_dir) if row["label"] == row["mv"]]
    agreed = sum(row["ours"] == row["label"] for row in rows)
    print(f"{agreed}/{len(rows)}")
    assert agreed / len(rows) >= FLOOR


def test_rows_where_the_graders_part(data_dir: Path, settled: dict[tuple[str, str], bool | None]) -> None:
    parted = [row for row in _rows(data_dir) if row["ours"] != row["mv"]]
    assert parted
    assert not [_key(row) for row in parted if _key(row) not in settled], "not settled"
    wrong = [_key(row) for row in parted if settled[_key(row)] not in (None, row["ours"])]
    assert not wrong, "settled for math-verify"


def test_every_settled_row_is_one_of_the_file(data_dir: Path, settled: dict[tuple[str, str], bool | None]) -> None:
    keys = [_key(row) for row in _rows(data_dir)]
    assert all(keys.count(key) == 1 for key in settled)
