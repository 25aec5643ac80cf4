"""What a graded run comes to in counts: statuses, and classes whose members were judged differently."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping

from harness.records import UNSCORED, Status, Verdict


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """``split_classes``: answer classes (within one model, batch and problem) that hold both right and wrong verdicts.

    A tolerant comparison can part answers that vote together; the class then counts by its lowest-numbered sample.
    """

    statuses: Mapping[Status, int]
    classes: int
    split_classes: int

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.statuses.items())
        classes = f"{self.classes} answer classes, {self.split_classes} with verdicts at odds"
        return f"{counts or 'no samples'}; {classes}"


def summarise(verdicts: Iterable[Verdict]) -> Summary:
    """Counts over all verdicts; unscored ones and those without a class vote for nothing and are in no class."""
    statuses: collections.Counter[Status] = collections.Counter()
    said: dict[tuple[str, str, int, str, str], set[bool]] = {}
    for v in verdicts:
        statuses[v.status] += 1
        if v.class_id is not None and v.status not in UNSCORED:
            said.setdefault((v.model, v.task, v.batch, v.problem_id, v.class_id), set()).add(v.correct)
    return Summary(dict(statuses.most_common()), len(said), sum(len(both) == 2 for both in said.values()))
