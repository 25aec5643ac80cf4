"""A second grader over a graded run: where it says otherwise, and nothing that it says changes a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from harness.grading.peer import Pair, Peer
from harness.records import UNSCORED, Problem, Status, Trajectory, Verdict


@dataclasses.dataclass(frozen=True, slots=True)
class Parting:
    """An answer of a problem that the graders judge differently: the lowest sample that gave it, and how many did.

    ``peer_equal`` None: the second grader hung, died or raised.
    """

    problem_id: str
    sample: int
    times: int
    gold: str
    answer: str | None
    status: Status
    peer_equal: bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class Audit:
    """``samples`` were read by both (not the ``unscored``, where ours decided nothing); ``parted`` counts samples."""

    samples: int
    unscored: int
    parted: int
    partings: tuple[Parting, ...]


def audit(
    problems: Mapping[str, Problem], trajectories: Iterable[Trajectory], verdicts: Iterable[Verdict], processes: int
) -> Audit:
    """math-verify on each distinct (gold, text) of the samples that our grader decided."""
    text_of = {trajectory.key: trajectory.text for trajectory in trajectories}
    every = list(verdicts)
    scored = [v for v in every if v.status not in UNSCORED]
    pair_of: dict[tuple[object, ...], Pair] = {
        v.key: (problems[v.problem_id].answer, text_of[v.key], "response") for v in scored
    }
    pairs = list(dict.fromkeys(pair_of.values()))
    with Peer(processes) as peer:
        said = dict(zip(pairs, peer.verdicts(pairs), strict=True))
    groups: dict[tuple[str, str | None, bool | None], list[Verdict]] = {}
    for v in scored:
        equal = said[pair_of[v.key]]
        if equal != v.correct:
            groups.setdefault((v.problem_id, v.answer, equal), []).append(v)
    partings = []
    for (problem_id, answer, equal), members in groups.items():
        first = min(members, key=lambda v: v.sample)
        gold = problems[problem_id].answer
        partings.append(Parting(problem_id, first.sample, len(members), gold, answer, first.status, equal))
    parted = sum(map(len, groups.values()))
    return Audit(len(scored), len(every) - len(scored), parted, tuple(partings))
