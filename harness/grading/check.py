"""Graders held against labelled rows: ours alone, or ours and math-verify side by side, counts and throughput.

Identical (gold, text) pairs are graded once. A pass is timed from the first pair handed over to the last outcome
back, in worker processes that are started and have read the same few pairs (``peer.WARM_UP``), without any cache;
every repeat has fresh processes, so that none profits from an earlier one's memory.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from harness.grading.cases import Case
from harness.grading.judge import Judge
from harness.grading.peer import WARM_UP, Pair, Peer
from harness.grading.policy import Policy
from harness.records import UNSCORED, InputError, build


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a grader says of one row: ``equal`` is None where it decided nothing."""

    equal: bool | None
    status: str
    answer: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Disagreement:
    case: Case
    reading: Reading


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """One grader's counts over the labelled rows; ``seconds`` of one pass over the distinct pairs of all rows."""

    cases: int
    agree: int
    false_equal: int
    false_unequal: int
    undecided: int
    seconds: float

    @classmethod
    def of(cls, cases: Sequence[Case], readings: Sequence[Reading], seconds: float) -> Tally:
        pairs = zip(cases, readings, strict=True)
        said = [(case.equal, reading.equal) for case, reading in pairs if case.equal is not None]
        return cls(
            cases=len(said),
            agree=sum(label == equal for label, equal in said),
            false_equal=sum(equal is True and not label for label, equal in said),
            false_unequal=sum(equal is False and label for label, equal in said),
            undecided=sum(equal is None for _, equal in said),
            seconds=round(seconds, 4),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Both graders over the same rows. ``seconds`` of each are medians over ``repeats``; ``pairs`` are distinct."""

    ours: Tally
    theirs: Tally
    parted: tuple[tuple[Case, Reading, Reading], ...]
    pairs: int
    processes: int
    repeats: int

    @property
    def speedup(self) -> float:
        """Throughput of ours over theirs."""
        return self.theirs.seconds / self.ours.seconds

    def summary(self, version: str) -> dict[str, Any]:
        """What the last line of the command holds."""
        sides = {"harness": self.ours, f"math-verify {version}": self.theirs}
        numbers = {
            name: {**dataclasses.asdict(tally), "pairs_per_s": round(self.pairs / tally.seconds, 1)}
            for name, tally in sides.items()
        }
        rest = {"distinct_pairs": self.pairs, "processes": self.processes, "repeats": self.repeats}
        return {**numbers, "speedup": round(self.speedup, 2), "parted": self._parted_counts(version), **rest}

    def _parted_counts(self, version: str) -> dict[str, Any]:
        """On the rows where the graders part: who is wrong how often, and how many labels nobody settled by hand."""
        cases = [case for case, _, _ in self.parted]
        sides = {"harness": [a for _, a, _ in self.parted], f"math-verify {version}": [b for _, _, b in self.parted]}
        counts: dict[str, Any] = {"rows": len(cases), "unsettled": sum(not case.is_settled for case in cases)}
        for name, readings in sides.items():
            tally = Tally.of(cases, readings, 0.0)
            counts[name] = {"false_equal": tally.false_equal, "false_unequal": tally.false_unequal}
        return counts


def policy_of(assignments: Iterable[str]) -> Policy:
    """The default policy with FIELD=VALUE changes; InputError for a field or value that it does not know."""
    fields: dict[str, Any] = {}
    for text in assignments:
        field, sign, value = text.partition("=")
        if not sign:
            raise InputError(f"--policy {text!r}: must be FIELD=VALUE")
        try:
            fields[field.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--policy {text!r}: the value cannot be read") from None
    return build(Policy, fields, "--policy")


def check(
    cases: Sequence[Case], policy: Policy, processes: int, warm_up: Sequence[tuple[str, str]] = ()
) -> tuple[Tally, list[Reading]]:
    """Our grader over ``cases``, and what it says of each; without a cache, so that every pair is judged now."""
    with Judge(policy=policy, workers=processes, warm_up=warm_up) as judge:
        start = time.perf_counter()
        readings = _readings(cases, judge)
        seconds = time.perf_counter() - start
    return Tally.of(cases, readings, seconds), readings


def disagreements(cases: Sequence[Case], readings: Sequence[Reading]) -> list[Disagreement]:
    """The labelled rows that a grader reads otherwise than their label, or not at all."""
    return [Disagreement(c, r) for c, r in zip(cases, readings, strict=True) if r.equal != c.equal is not None]


def compare(cases: Sequence[Case], policy: Policy, processes: int, repeats: int) -> Comparison:
    """Ours and math-verify over ``cases``, in turn, ``repeats`` times each."""
    ours_s, theirs_s = [], []
    for _ in range(repeats):
        tally, ours = _in_a_fresh_process(cases, policy, processes)
        ours_s.append(tally.seconds)
        seconds, theirs = _peer_readings(cases, processes)
        theirs_s.append(seconds)
    return Comparison(
        ours=Tally.of(cases, ours, statistics.median(ours_s)),
        theirs=Tally.of(cases, theirs, statistics.median(theirs_s)),
        parted=tuple((c, a, b) for c, a, b in zip(cases, ours, theirs, strict=True) if a.equal != b.equal),
        pairs=len({_pair(case) for case in cases}),
        processes=processes,
        repeats=repeats,
    )


def _in_a_fresh_process(cases: Sequence[Case], policy: Policy, processes: int) -> tuple[Tally, list[Reading]]:
    """``check`` where nothing is remembered of an earlier pass: this process grades common answers itself."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        return executor.submit(check, cases, policy, processes, WARM_UP).result()


def _readings(cases: Sequence[Case], judge: Judge) -> list[Reading]:
    pending = {}
    references: dict[str, str] = {}  # most golds belong to many rows
    for case in cases:
        pair = _pair(case)
        if pair not in pending:
            answer = case.answer
            if case.gold not in references:
                references[case.gold] = case.reference
            pending[pair] = (answer, judge.submit(references[case.gold], answer))
    readings = {}
    for pair, (answer, outcome) in pending.items():
        status = outcome.result().status
        readings[pair] = Reading(None if status in UNSCORED else status == "correct", status, answer)
    return [readings[_pair(case)] for case in cases]


def _peer_readings(cases: Sequence[Case], processes: int) -> tuple[float, list[Reading]]:
    with Peer(processes) as peer:
        start = time.perf_counter()
        pairs = list(dict.fromkeys(map(_pair, cases)))
        verdicts = dict(zip(pairs, peer.verdicts(pairs), strict=True))
        seconds = time.perf_counter() - start
    words = {True: "equal", False: "unequal", None: "undecided"}
    return seconds, [Reading(verdicts[_pair(case)], words[verdicts[_pair(case)]]) for case in cases]


def _pair(case: Case) -> Pair:
    return case.gold, case.text, case.kind
