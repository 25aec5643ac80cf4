"""Agreement with public graders' own cases and with labelled model outputs; golds equal themselves and no other."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from harness.grading.canonical import canonical
from harness.grading.compare import compare
from harness.grading.extract import extract_answer
from harness.grading.normalise import normalise
from harness.grading.policy import Policy
from harness.grading.quick import quick

DEFAULT = Policy()
CORE_FLOOR = 0.86
"""All non-conflict core rows, some thirty of which assert rounding, joined boxes or percent = fraction."""
WITHIN_POLICY_FLOOR = 0.945
PAIRS_FLOOR = 0.985
OUTPUTS_FLOOR = 0.985
AGAINST_POLICY = {
    "rounded decimals are not equal": [
        (r"$\frac{1}{12}$", "$0.0833333333333333$"),
        (r"$(\begin{pmatrix}\frac{1}{3}\\ \frac{1}{5} \end{pmatrix})$", r"$\begin{pmatrix}0.33\\0.2 \end{pmatrix}$"),
        (r"$(\frac{3}{5},\frac{8}{3}]$", "$(0.6,2.6667]$"),
        ("4.123105625617661", r"$\sqrt{17}$"),
        ("3.1416", "3.14159"),
        ("1.0001", "1"),
        (r"\cos ^{10}(\frac{\pi}{10})", "0.6054"),
        ("0.003, 5.233", "0.002, 5.234"),
        ("answer is 0.6666667", r"The final answer is \boxed{2/3}."),
    ],
    "the label is wrong": [
        (r"$1 - \frac{1}{\mathrm{e}}$", r"$1 + \frac{1}{\mathrm{e}}$"),
        ("the answer is sqrt(2)", r"After simplification we get \boxed{\sqrt{2}}"),
    ],
    "the last box alone is the answer": [
        (r"$\boxed{1}\boxed{2}$", r"$\boxed{1,2}$"),
        ("$$(3, 3), (1, 1)$$", r"$$\boxed{(3, 3)} \text{ for part (a) and } \boxed{(1, 1)}$$"),
        ("$${1,2,3}$$", r"\boxed{1} and \boxed{2} and \boxed{3}"),
        (r"\boxed{1} papers and \boxed{2} bins", r"$\boxed{1,2}$"),
        (
            r"$x_{1}=10^{\frac{-5+\sqrt{13}}{6}},\quadx_{2}=10^{\frac{-5-\sqrt{13}}{6}}$",
            r"$\boxed{10^{\frac{\sqrt{13} - 5}{6}}} \quad \text{and} \quad \boxed{10^{-\frac{5 + \sqrt{13}}{6}}}$",
        ),
        (
            "$(2,1),(1,2),(-1,-20),(-20,-1)$",
            "solutions are:\n\n\\[\n\\boxed{(1, 2)}, \\boxed{(2, 1)}, \\boxed{(-1, -20)}, \\boxed{(-20, -1)}\n\\]",
        ),
        (r"$\\boxed{35 cm} ++++++ \\boxed{4}$", "${35 cm,4}$"),
    ],
    "a percentage is its number": [
        ("0.335", r"\boxed{33.5\%}"),
        ("0.335", "33.5%"),
        ("0.335", r"33.5\%"),
        ("0.005", r"\frac{1}{2}\text{ percent}"),
        (r"33.5\%", "0.335"),
    ],
    "units are not compared": [
        (r"5.4\text{ cents}", r"5.4\text{ dollars}"),
        (r"12\text{ cm}", r"12\text{ m}"),
    ],
    "a base is": [("2516_8", "2516")],
    "a bare list has no order": [("4, 10, -2", "10, 4, -2")],
}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _agrees(row: dict[str, Any]) -> bool:
    gold, answer = row["gold"], row["pred"]
    if row["kind"] == "response" or "boxed" in answer:
        answer = extract_answer(answer)
    if "boxed" in gold or "answer is" in gold:
        gold = extract_answer(gold) or gold
    return bool(answer is not None and compare(gold, answer, DEFAULT).correct) == row["equal"]


def test_core_cases_of_public_graders(data_dir: Path) -> None:
    rows = [r for r in _rows(data_dir / "grader_cases.jsonl") if r["tier"] == "core" and not r.get("conflict")]
    against = {pair for pairs in AGAINST_POLICY.values() for pair in pairs}
    assert against <= {(r["gold"], r["pred"]) for r in rows}, "a pair listed here is not in the file"
    agreed = [_agrees(row) for row in rows]
    within = [ok for ok, row in zip(agreed, rows, strict=True) if (row["gold"], row["pred"]) not in against]
    print(f"core {sum(agreed)}/{len(agreed)}, within policy {sum(within)}/{len(within)}")
    assert sum(agreed) / len(agreed) >= CORE_FLOOR
    assert sum(within) / len(within) >= WITHIN_POLICY_FLOOR


def test_pairs_from_real_outputs(data_dir: Path) -> None:
    rows = [r for r in _rows(data_dir / "grader_pairs.jsonl") if r["equal"] is not None]
    outcomes = [compare(r["gold"], r["pred"], DEFAULT) for r in rows]
    for row, outcome in zip(rows, outcomes, strict=True):
        assert quick(row["gold"], row["pred"], DEFAULT) in (None, outcome), row
    agreed = sum(outcome.correct == row["equal"] for row, outcome in zip(rows, outcomes, strict=True))
    assert agreed / len(rows) >= PAIRS_FLOOR


def test_labelled_model_outputs(data_dir: Path) -> None:
    rows = [r for r in _rows(data_dir / "model_outputs.jsonl") if r["label"] == r["mv"]]
    agreed = 0
    for row in rows:
        answer = extract_answer(row["response"])
        correct = answer is not None and compare(row["gold"], answer, DEFAULT).correct
        agreed += correct == bool(row["label"])
    assert agreed / len(rows) >= OUTPUTS_FLOOR


def test_every_gold_equals_itself_and_is_read_as_mathematics(data_dir: Path) -> None:
    for row in _rows(data_dir / "math500.jsonl"):
        canonical(normalise(row["answer"], DEFAULT), DEFAULT)
        assert compare(row["answer"], row["answer"], DEFAULT).status == "correct", row["answer"]


def test_random_pairs_of_different_golds_are_not_equal(data_dir: Path) -> None:
    by_class: dict[str, str] = {}
    for row in _rows(data_dir / "math500.jsonl"):
        by_class.setdefault(canonical(normalise(row["answer"], DEFAULT), DEFAULT).class_id, row["answer"])
    rng = random.Random(11)
    golds = list(by_class.values())
    for _ in range(2_000):
        one, other = rng.sample(golds, 2)
        outcome = quick(one, other, DEFAULT) or compare(one, other, DEFAULT)
        assert outcome.status != "correct", (one, other)
