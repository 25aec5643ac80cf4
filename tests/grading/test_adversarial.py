"""The adversarial panel: nothing is executed, nothing runs past its deadline, and the pool still grades right.

The panel lies in ``adversarial.jsonl``. An answer that equals its gold may be beyond a limit but never wrong; one that
does not may be anything but right; none may be an ``error``, which would be a crash.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.grading.compare import compare
from harness.grading.extract import extract_answer
from harness.grading.isolation import MEMORY_LIMIT_BYTES
from harness.grading.limits import MAX_ANSWER_CHARS
from harness.grading.policy import Policy
from harness.grading.pool import Worker
from harness.grading.quick import quick

DEADLINE_S = 1.0
MAY_BE = {
    "equal": {"correct", "limit", "timeout"},
    "unequal": {"incorrect", "parse_error", "no_answer", "limit", "timeout"},
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Where the payloads write; nothing may be there afterwards, nor beside it."""
    yield tmp_path / "canary"
    assert list(tmp_path.iterdir()) == [], "a payload was executed"


def test_panel_is_large_and_its_payloads_work(panel: list[Any], tmp_path: Path) -> None:
    answers = [attack for attack in panel if attack.kind == "answer"]
    assert len(answers) >= 200 and len(panel) >= 600
    live = [attack for attack in panel if attack.live == "eval"]
    assert len(live) >= 20
    for i, attack in enumerate(live):
        canary = tmp_path / f"canary{i}"
        subprocess.run([sys.executable, "-c", f"eval({attack.text.replace('CANARY', str(canary))!r})"], check=False)
        assert canary.exists() or canary.is_symlink(), attack.text


def test_panel_in_the_pool(panel: list[Any], canary: Path) -> None:
    """Each of two workers takes every other row, so that the many that meet the deadline cost half the time."""
    workers = [Worker(Policy(), timeout_s=DEADLINE_S) for _ in range(2)]
    try:
        with ThreadPoolExecutor(len(workers)) as threads:
            shares = [panel[number :: len(workers)] for number in range(len(workers))]
            wrong = list(itertools.chain(*threads.map(_wrong, workers, shares, [canary] * len(workers))))
        assert not wrong, f"{len(wrong)} of {len(panel)}: {wrong[:20]}"
        for worker in workers:
            assert 0 < worker.peak_rss_bytes <= MEMORY_LIMIT_BYTES
            assert worker.compare("(x+1)^2", "x^2+2x+1").status == "correct"
            assert worker.compare("(x+1)^2", "x^2+2x").status == "incorrect"
    finally:
        for worker in workers:
            worker.close()


def _wrong(worker: Worker, attacks: list[Any], canary: Path) -> list[tuple[str, ...]]:
    found = []
    for attack in attacks:
        text = attack.text.replace("CANARY", str(canary))
        answer = extract_answer(text) if attack.kind == "response" else text
        # the worker is asked even where the parent would decide alone: it must stand on its own
        status = "no_answer" if answer is None else worker.compare(attack.gold, answer).status
        if status not in MAY_BE[attack.truth]:
            found.append((attack.about, attack.gold, text[:80], status))
    return found


IN_THE_PARENT = f"""
import json, resource, sys, time
from harness.grading.extract import extract_answer
from harness.grading.policy import Policy
from harness.grading.quick import quick
for line in sys.stdin:
    kind, gold, truth, text = json.loads(line)
    print(kind, ascii(text[:40]), flush=True)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + {DEADLINE_S}) + 1, -1))
    answer = extract_answer(text) if kind == 'response' else text
    outcome = answer and quick(gold, answer, Policy())
    assert not outcome or outcome.status != 'correct' or truth == 'equal'
"""
PIECES = (
    *(
        " ",
        "\t",
        "\n",
        "7",
        "7 ",
        " 7",
        "a",
        "a ",
        " a",
        "x_",
        "x^",
        "-",
        "- ",
        "+",
        ".",
        ". ",
        ",",
        ", ",
        ";",
        ":",
        "=",
        "!",
    ),
    *(
        "%",
        "$",
        "&",
        "|",
        "'",
        '"',
        "~",
        "<",
        ">",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "{}",
        "()",
        "\\",
        "\\\\",
        "\\,",
        "\\!",
        "\\ ",
    ),
    *(
        r"\frac",
        r"\frac{",
        r"\frac1",
        r"\sqrt",
        r"\sqrt{",
        r"\text",
        r"\text{",
        r"\text{a}",
        r"\left",
        r"\left(",
        r"\pi",
    ),
    *(
        r"\le",
        r"\ge ",
        r"\in ",
        r"\cup",
        r"\pm",
        r"\{",
        r"\}",
        r"\boxed{",
        r"\begin{array}",
        r"\begin",
        r"\end",
        r"^\circ",
    ),
    *(
        "and",
        "and ",
        " and",
        "or ",
        "cm",
        "cm ",
        "cm^",
        "dollars ",
        "1,000",
        "1,000,",
        "1e",
        "e5",
        "0.",
        "1/",
        "/1",
        "**",
    ),
    *(
        "sqrt(",
        "pi",
        "oo",
        "(A)",
        "(A) ",
        "A. ",
        "answer is ",
        "answer: ",
        "####",
        "<answer>",
        "percent ",
        "\x01",
        "\x02",
        "²",
        "é",
    ),
)
"""Each repeated to the longest text that is read, with something before and behind that keeps a pattern from ending."""


def _in_the_parent(rows: list[tuple[str, str, str, str]]) -> None:
    """Extraction and common forms are decided where nobody can be killed: here the kernel holds the deadline."""
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_PARENT],
        input="".join(json.dumps(row) + "\n" for row in rows),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout.splitlines()[-1:], done.stderr[-500:])
    assert len(done.stdout.splitlines()) >= len(rows)


def test_panel_in_the_parent(panel: list[Any]) -> None:
    _in_the_parent([(attack.kind, attack.gold, attack.truth, attack.text) for attack in panel])


@pytest.mark.parametrize(
    ("before", "behind"), [("", ""), ("", "\u2020"), ("7", "x"), ("x", "7"), (r"\text{", "}"), ("(", ")")]
)
def test_repeated_pieces_in_the_parent(before: str, behind: str) -> None:
    room = MAX_ANSWER_CHARS - len(before + behind)
    texts = [before + piece * (room // len(piece)) + behind for piece in PIECES]
    _in_the_parent([(kind, "12345", "unequal", text) for text in texts for kind in ("answer", "response")])


def test_panel_reaches_no_evaluator(panel: list[Any], canary: Path, evaluators_raise: None) -> None:
    """In this process, with every evaluator raising; what is only slow is left to the pool."""
    slow = {"powers", "factorials", "nesting", "size", "pattern bombs"}
    for attack in panel:
        text = attack.text.replace("CANARY", str(canary))
        answer = extract_answer(text) if attack.kind == "response" else text
        if answer is not None and attack.about not in slow:
            quick(attack.gold, answer, Policy())
            assert compare(attack.gold, answer, Policy()).status in MAY_BE[attack.truth], answer[:80]
