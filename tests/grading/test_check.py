"""Labelled rows in, counts out: both layouts, choosing and settling rows, a line for each row that cannot be read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from harness.grading.cases import Case, Cases, read_cases, read_settled
from harness.grading.check import Reading, Tally, check, disagreements, policy_of
from harness.grading.policy import Policy
from harness.records import InputError

RIGHT = {"gold": "1/2", "pred": "0.5", "equal": True, "kind": "answer"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(tmp_path: Path, *rows: Any, **given: Any) -> Cases:
    return read_cases(write(tmp_path / "rows.jsonl", *rows), **given)


def test_both_layouts_and_extra_keys(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {**RIGHT, "source": "a suite", "also": ["b"]},
        {"gold": "2", "response": r"so \boxed{3}", "label": False, "mv": False, "pred": "ignored"},
        {"gold": "2", "pred": r"the answer is 2", "equal": True, "kind": "response"},
    )
    assert found.cases == (
        Case(1, "1/2", "0.5", "answer", True),
        Case(2, "2", r"so \boxed{3}", "response", False),
        Case(3, "2", "the answer is 2", "response", True),
    )
    assert [case.answer for case in found.cases] == ["0.5", "3", "2"]
    assert (found.unlabelled, found.disputed, found.problems) == ((), 0, ())


def test_rows_without_a_label_are_skipped_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, RIGHT, {**RIGHT, "equal": None}, {"gold": "2", "response": "2", "label": None})
    assert (len(found.cases), [case.row for case in found.unlabelled], found.problems) == (1, [2, 3], ())


def test_boxes_around_golds_and_bare_answers() -> None:
    case = Case(1, r"Thus \boxed{\frac{1}{2}}.", r"\boxed{0.5}", "answer", True)
    assert (case.reference, case.answer) == (r"\frac{1}{2}", "0.5")
    assert Case(1, "x", "x^2 + 1", "answer", True).answer == "x^2 + 1"
    assert Case(1, "x", "no end", "response", True).answer is None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("not json", "not JSON"),
        ("[1]", "found list"),
        ("[" * 100_000, "not JSON"),
        ('{"gold": ' + "9" * 5_000 + "}", "not JSON"),
        ({k: v for k, v in RIGHT.items() if k != "gold"}, "gold is missing"),
        ({k: v for k, v in RIGHT.items() if k != "pred"}, "pred is missing"),
        ({k: v for k, v in RIGHT.items() if k != "equal"}, "equal is missing"),
        ({k: v for k, v in RIGHT.items() if k != "kind"}, "kind is missing"),
        ({"gold": "1", "response": "1"}, "or gold, response and label"),
        ({**RIGHT, "kind": "anwser"}, "did you mean 'answer'"),
        ({**RIGHT, "kind": ["answer"]}, "kind = ['answer']"),
        ({**RIGHT, "equal": 1}, "equal = 1"),
        ({**RIGHT, "equal": "true"}, "equal = 'true'"),
        ({**RIGHT, "gold": 3}, "gold = 3: must be text"),
    ],
)
def test_a_bad_row_is_one_line_with_its_number_and_the_rest_is_kept(tmp_path: Path, row: Any, says: str) -> None:
    found = read(tmp_path, RIGHT, row, "", RIGHT)
    assert [case.row for case in found.cases] == [1, 4]
    (problem,) = found.problems
    assert problem.startswith("rows.jsonl row 2: ") and says in problem and "\n" not in problem


def test_a_file_of_another_kind_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows.jsonl row 1: not JSON"):
        read(tmp_path, "# a heading", "and text")
    with pytest.raises(InputError, match="holds no rows"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"cannot be read"):
        read_cases(tmp_path / "missing.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot be read"):
        read_cases(tmp_path / "binary")


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", RIGHT)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [case.row for case in read_cases(path).cases] == [1]


def test_rows_are_chosen_by_field(tmp_path: Path) -> None:
    rows = [
        {**RIGHT, "tier": "core"},
        {**RIGHT, "tier": "core", "conflict": True},
        {**RIGHT, "tier": "extract", "n": 3},
        {"gold": "1", "response": "1", "label": True, "mv": True},
        {"gold": "1", "response": "1", "label": True, "mv": False},
    ]
    chosen = {
        ("tier=core",): [1, 2],
        ("tier=core", "conflict="): [1],
        ("conflict=true",): [2],
        ("n=3",): [3],
        ("label=@mv",): [4],
    }
    for where, expected in chosen.items():
        assert [case.row for case in read(tmp_path, *rows, where=where).cases] == expected
    with pytest.raises(InputError, match="--where 'tier'"):
        read(tmp_path, RIGHT, where=["tier"])
    with pytest.raises(InputError, match="--where tire=core: holds for none of the 5 rows"):
        read(tmp_path, *rows, where=["tire=core"])


def test_labels_settled_by_hand(tmp_path: Path) -> None:
    response = "a long chain"
    rows = [RIGHT, {"gold": "2", "response": response, "label": True}, {**RIGHT, "gold": "3"}]
    entries = [
        {"gold": "1/2", "pred": "0.5", "equal": False, "reason": "why"},
        {"sha256": hashlib.sha256(response.encode()).hexdigest()[:12], "equal": None, "reason": "why"},
        {"gold": "4", "equal": True, "file": "other.jsonl"},
    ]
    path = write(tmp_path / "settled.yaml", json.dumps(entries))
    settled = read_settled(path, "rows.jsonl")
    found = read(tmp_path, *rows, settled=settled)
    assert [(case.row, case.equal, case.is_settled) for case in found.cases] == [(1, False, True), (3, True, False)]
    assert (found.disputed, found.settled, found.problems) == (1, 2, ())
    found = read(tmp_path, rows[2], settled=settled)
    assert found.problems == tuple(f"settled.yaml entry {n}: fits no row of rows.jsonl" for n in (1, 2))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: b", "expected a list"),
        ("- [", "cannot be read as YAML"),
        ("- {gold: '1'}", "entry 1: expected `equal`"),
        ("- {equal: true}", "entry 1: expected `equal` and the fields"),
        ("- {gold: '1', equal: maybe}", "entry 1: equal = 'maybe'"),
        ("- {sha256: abc, equal: true}", "entry 1: sha256"),
    ],
)
def test_a_settled_file_with_a_mistake(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"settled\.yaml") as caught:
        read_settled(write(tmp_path / "settled.yaml", text), "rows.jsonl")
    assert says in str(caught.value)


def test_policy_fields() -> None:
    assert policy_of([]) == Policy()
    assert policy_of(["drop_assignment=false", "thousands_commas=true"]) == Policy(drop_assignment=False)
    for text, says in [("nosuch=1", "nosuch"), ("drop_assignment", "FIELD=VALUE"), ("drop_assignment=[", "read")]:
        with pytest.raises(InputError, match=says):
            policy_of([text])
    with pytest.raises(InputError, match="drop_assignment = 'perhaps'"):
        policy_of(["drop_assignment=perhaps"])


def test_every_field_and_its_default_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "grading.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(Policy):
        assert f"| `{field.name}` | {json.dumps(field.default)} |" in page, field.name


def test_counts() -> None:
    said = [(True, True), (True, False), (True, None), (False, True), (False, True), (False, False), (False, None)]
    cases = [Case(i, "1", "1", "answer", label) for i, (label, _) in enumerate(said)]
    readings = [Reading(equal, "") for _, equal in said]
    assert Tally.of(cases, readings, 0.5) == Tally(7, 2, 2, 1, 2, 0.5)
    assert [d.case.row for d in disagreements(cases, readings)] == [1, 2, 3, 4, 6]


def test_every_row_gets_its_own_verdict_though_equal_pairs_are_graded_once() -> None:
    cases = [
        Case(1, "(x+1)^2", r"so \boxed{x^2+2x+1}", "response", True),
        Case(2, "(x+1)^2", r"so \boxed{x^2+2x+1}", "response", False),
        Case(3, "(x+1)^2", r"so \boxed{x^2+2x+1}", "answer", True),
        Case(4, "7", "8", "answer", False),
        Case(5, "7", "cut off", "response", True),
        Case(6, "7", "10^{10^{10^{10}}}", "answer", False),
    ]
    tally, readings = check(cases, Policy(), 1)
    assert (tally.cases, tally.agree, tally.false_equal, tally.false_unequal, tally.undecided) == (6, 3, 1, 1, 1)
    assert [r.status for r in readings] == ["correct", "correct", "correct", "incorrect", "no_answer", "limit"]
    assert tally.seconds > 0
