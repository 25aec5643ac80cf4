"""Fuzzes extraction and the reading of answers until the time is up: ``make fuzz FUZZ_SECONDS=600``.

Answers are built from pieces of LaTeX, from the adversarial panel, and from real references where $HARNESS_DATA is
set. Of each, these are held: extraction gives a stripped part of the text or nothing, and never raises; what the parent
decides alone the worker decides alike; no text crashes the worker or fails to equal itself; nothing is called correct
one time and incorrect another. Deadlines and limits may be met: they are counted, not held. Hypothesis shrinks what
fails to a small example and ends the run; the last line is one JSON object with the counts.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness.grading.extract import extract_answer
from harness.grading.policy import Policy
from harness.grading.pool import Worker
from harness.grading.quick import Outcome, quick

DEADLINE_S = 2.0
EXAMPLES_A_ROUND = 500
UNDECIDED = ("limit", "timeout")
REFERENCES = ("math_train.jsonl", "grader_cases.jsonl", "grader_pairs.jsonl")
PIECES = (
    *"0123456789abcdefinxyzABCDE+-*/^_(){}[]|!.,;:=<>$%&'\"\\~ \n",
    *(
        "10",
        "12",
        "0.5",
        "1,000",
        "1e5",
        "3.14",
        "00",
        "99999999",
        "and",
        "or",
        "cm",
        "percent",
        "even",
        "Monday",
        "oo",
        "pi",
    ),
    *(
        r"\frac{1}{2}",
        r"\frac",
        r"\dfrac{",
        r"\sqrt{2}",
        r"\sqrt",
        r"\sqrt[3]{",
        r"\pi",
        r"\infty",
        r"\cdot ",
        r"\times 10^{",
    ),
    *(
        r"\sin ",
        r"\cos(",
        r"\log_2 ",
        r"\ln ",
        r"\text{",
        r"\text{ cm}",
        r"\mathrm{",
        r"\left(",
        r"\right)",
        r"\left[",
        r"\le ",
    ),
    *(
        r"\ge ",
        r"\ne ",
        r"\in ",
        r"\cup ",
        r"\cap ",
        r"\pm ",
        r"\mp ",
        r"\{",
        r"\}",
        r"\%",
        r"\$",
        r"^\circ",
        r"\overline{",
        "\\\\",
    ),
    *(
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        "&",
        r"\binom{5}{2}",
        "5!",
        r"\lfloor ",
        r"\rfloor",
        r"|x|",
        "x^2",
        "_{8}",
        "_2",
        "f(x)=",
    ),
    *(
        r"\boxed{",
        r"\fbox{",
        "The answer is ",
        "#### ",
        "A: ",
        "(B)",
        "**",
        "<answer>",
        "</answer>",
        "−",
        "²",
        "π",
        "１",
        "\x00",
        "\u200b",
    ),
)


def seeds() -> list[str]:
    """Whole answers to start from: the panel's shorter ones, and real references if they are there."""
    panel = Path(__file__).parents[1] / "grading" / "adversarial.jsonl"
    rows = [json.loads(line)["text"] for line in panel.read_text().splitlines()]
    found = [row[0] for row in rows if len(row) == 1 and isinstance(row[0], str)]
    root = os.environ.get("HARNESS_DATA")
    for name in REFERENCES if root else ():
        for row in map(json.loads, (Path(str(root)) / name).open()):
            found.append(str(row.get("gold", row.get("answer"))))
    return sorted(text for text in set(found) if len(text) < 200)


def answers(known: list[str]) -> st.SearchStrategy[str]:
    """Pieces in a row; a known answer, cut and joined with pieces or another; brackets around any of these."""
    pieces = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=14).map("".join)
    whole = st.sampled_from(known)
    cut = st.builds(lambda text, a, b: text[min(a, b) : max(a, b)], whole, st.integers(0, 200), st.integers(0, 200))
    joined = st.lists(whole | cut | pieces, min_size=1, max_size=3).map("".join)
    wraps = (
        r"\frac{%s}{2}",
        r"\sqrt{%s}",
        "(%s)",
        "-%s",
        "x=%s",
        r"\{%s\}",
        "(1,%s)",
        "[0,%s)",
        "2^{%s}",
        r"\text{%s}",
        "$%s$",
    )
    wrapped = st.builds(lambda wrap, text: wrap.replace("%s", text), st.sampled_from(wraps), joined)
    return pieces | whole | joined | wrapped


class Target:
    """One worker and the counts; ``check`` holds the properties for one pair of texts."""

    def __init__(self) -> None:
        self.worker = Worker(Policy(), timeout_s=DEADLINE_S)
        self.worker.ready()
        self.executions = 0
        self.statuses: collections.Counter[str] = collections.Counter()

    def check(self, gold: str, text: str) -> None:
        self.executions += 1
        extracted = extract_answer(text)
        assert extracted is None or (extracted and extracted == extracted.strip())
        boxed = extract_answer(f"So we get \\boxed{{{text}}}.")
        outcome = self.agreed(gold, text)
        assert outcome.status != "no_answer"
        assert self.agreed(text, text).status in ("correct", *UNDECIDED), "a text differs from itself"
        for part in {extracted, boxed} - {None, text}:
            assert part is not None
            self.agreed(gold, part)
        again = self.worker.compare(gold, text)
        assert outcome.status in UNDECIDED or again.status in UNDECIDED or again == outcome, "two verdicts for one pair"

    def agreed(self, gold: str, answer: str) -> Outcome:
        """The worker's outcome, which must not be a crash and must be the parent's where that has one."""
        outcome = self.worker.compare(gold, answer)
        self.statuses[outcome.status] += 1
        assert outcome.status != "error", "the worker crashed"
        alone = quick(gold, answer, Policy())
        assert alone is None or outcome.status in UNDECIDED or alone == outcome, (alone, outcome)
        return outcome


def main(seconds: float) -> int:
    target, start, rounds = Target(), time.monotonic(), 0
    strategy = answers(seeds())
    phases = (Phase.generate, Phase.shrink)
    silent = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
    try:
        while time.monotonic() - start < seconds:
            rounds += 1
            one_round = given(strategy, strategy)(lambda gold, text: target.check(gold, text))
            seed(rounds)(
                settings(
                    max_examples=EXAMPLES_A_ROUND,
                    deadline=None,
                    database=None,
                    phases=phases,
                    suppress_health_check=silent,
                )(one_round)
            )()
    finally:
        target.worker.close()
        counts = {
            "executions": target.executions,
            "seconds": round(time.monotonic() - start, 1),
            "rounds": rounds,
            "peak_rss_mb": target.worker.peak_rss_bytes >> 20,
            **target.statuses,
        }
        print(json.dumps(counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0))
