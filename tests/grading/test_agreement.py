"""Agreement with public graders' own cases and with labelled model outputs; golds equal themselves and no other."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from harness.grading.cases import Case, Settled, read_cases, read_settled
from harness.grading.compare import class_id, compare
from harness.grading.policy import DEFAULT_POLICY, Policy
from harness.grading.quick import quick

CONTESTED = Path(__file__).with_name("contested.yaml")
MAX_CONTESTED = 15
FLOORS = {"core": 0.99, "normalise": 0.96, "extract": 0.96, "parser": 0.96}
PAIRS_FLOOR = 0.99
OUTPUTS_FLOOR = 0.997
RANDOM_PAIRS = 20_000
GOLD_FILES = ("math_train", "math500", "gsm8k_train", "gsm8k_test", "amc23", "aime24", "amc_aimo83")
EQUAL_BY_HAND = {
    ("155", r"155^\circ"): "the sign for degrees may be missing (missing_degrees)",
}
"""The random pairs below that are called equal, each with why that is right."""


def _misses(cases: Sequence[Case]) -> list[str]:
    return [
        f"row {case.row}: {case.gold[:90]!r} | {case.text[-90:]!r} is {'equal' if case.equal else 'unequal'}"
        for case in cases
        if _says_equal(case) != case.equal
    ]


def _says_equal(case: Case) -> bool:
    answer = case.answer
    return answer is not None and compare(case.reference, answer, DEFAULT_POLICY).correct


def _left_out() -> list[Settled]:
    return read_settled(CONTESTED, "grader_cases.jsonl")


@pytest.mark.parametrize("tier", list(FLOORS))
def test_cases_of_public_graders(data_dir: Path, tier: str) -> None:
    path, left_out = data_dir / "grader_cases.jsonl", _left_out()
    contested = {
        row
        for row, line in enumerate(path.read_text().splitlines(), 1)
        if any(entry.fits(json.loads(line)) for entry in left_out)
    }
    cases = [case for case in read_cases(path, [f"tier={tier}", "conflict="]).cases if case.row not in contested]
    misses = _misses(cases)
    report = f"{tier}: {len(cases) - len(misses)} of {len(cases)}\n" + "\n".join(misses)
    print(report)
    assert len(misses) <= (1 - FLOORS[tier]) * len(cases), report
    assert not [case for case in cases if tier == "core" and not case.equal and _says_equal(case)], report


def test_contested_rows_are_few_and_what_the_default_policy_says(data_dir: Path) -> None:
    entries = yaml.safe_load(CONTESTED.read_text())
    fields = {*Policy.__dataclass_fields__, "none"}
    assert len(entries) <= MAX_CONTESTED
    assert all(entry["reason"] and entry["policy"] in fields for entry in entries)
    found = read_cases(data_dir / "grader_cases.jsonl", settled=_left_out())
    assert not found.problems
    rows = [json.loads(line) for line in (data_dir / "grader_cases.jsonl").read_text().splitlines()]
    settled = [case for case in found.cases if any(entry.fits(rows[case.row - 1]) for entry in _left_out())]
    assert len(settled) == len(entries)
    assert all(not rows[case.row - 1].get("conflict") and case.equal != rows[case.row - 1]["equal"] for case in settled)
    assert not _misses(settled)


def test_pairs_from_real_outputs(data_dir: Path) -> None:
    cases = read_cases(data_dir / "grader_pairs.jsonl").cases
    for case in cases:
        assert quick(case.gold, case.text, DEFAULT_POLICY) in (None, compare(case.gold, case.text, DEFAULT_POLICY)), (
            case
        )
    misses = _misses(cases)
    assert len(misses) <= (1 - PAIRS_FLOOR) * len(cases), "\n".join(misses)
    assert not [case for case in cases if not case.equal and _says_equal(case)]


def test_labelled_model_outputs(data_dir: Path) -> None:
    cases = read_cases(data_dir / "model_outputs.jsonl", ["label=@mv"]).cases
    misses = _misses(cases)
    assert len(misses) <= (1 - OUTPUTS_FLOOR) * len(cases), "\n".join(misses)


@pytest.fixture(scope="module")
def golds(data_dir: Path) -> list[str]:
    """Every distinct gold answer of the problem sets, as it is written there."""
    texts = ((data_dir / f"{name}.jsonl").read_text() for name in GOLD_FILES)
    return sorted({json.loads(line)["answer"] for text in texts for line in text.split("\n") if line})


def test_every_gold_equals_itself(golds: list[str]) -> None:
    assert len(golds) > 3_500
    for gold in golds:
        outcome = compare(gold, gold, DEFAULT_POLICY)
        assert outcome.status == "correct" and outcome.class_id == class_id(gold), gold
        assert quick(gold, gold, DEFAULT_POLICY) in (None, outcome), gold


def test_golds_are_read_as_mathematics(golds: list[str]) -> None:
    texts = [gold for gold in golds if str(class_id(gold)).startswith("text:") and any(c.isdigit() for c in gold)]
    assert len(texts) <= 5, texts


def test_random_pairs_of_different_golds_are_not_equal(golds: list[str]) -> None:
    rng = random.Random(11)
    equal = set()
    for _ in range(RANDOM_PAIRS):
        one, other = rng.sample(golds, 2)
        outcome = quick(one, other, DEFAULT_POLICY) or compare(one, other, DEFAULT_POLICY)
        if outcome.correct:
            equal.add((one, other))
    assert equal == set(EQUAL_BY_HAND)


def test_a_gold_with_one_digit_changed_is_another_answer(golds: list[str]) -> None:
    rng = random.Random(5)
    equal = []
    for gold in golds:
        digits = [i for i, char in enumerate(gold) if char.isdigit()]
        if (
            digits and "=" not in gold and r"\approx" not in gold
        ):  # there a value is said twice, and the last one counts
            at = rng.choice(digits)
            other = f"{gold[:at]}{(int(gold[at]) + rng.randint(1, 9)) % 10}{gold[at + 1 :]}"
            outcome = quick(gold, other, DEFAULT_POLICY) or compare(gold, other, DEFAULT_POLICY)
            if outcome.correct:
                equal.append((gold, other))
    assert not equal
