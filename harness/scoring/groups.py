"""Accuracy of parts of a task: by level or by subject, at one second of the clock.

A group is small, so its intervals are Wilson's, which stay honest at 0 and at 1. Problems without
the label are left out, not put in a group of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.records import Problem
from harness.scoring.intervals import wilson
from harness.scoring.table import FloatArray


@dataclass(frozen=True)
class Group:
    """One level or subject: coverage and majority accuracy in 0..1, with 95 % intervals."""

    label: str
    n_problems: int
    coverage: float
    coverage_interval: tuple[float, float]
    majority: float
    majority_interval: tuple[float, float]


def accuracy_by(
    problems: Sequence[Problem], field: Literal["level", "subject"], coverage: FloatArray, majority: FloatArray
) -> tuple[Group, ...]:
    """Groups in the order of their labels; ``coverage`` and ``majority`` (P,) are values per problem."""
    labels = [getattr(problem, field) for problem in problems]
    groups = []
    for label in sorted({label for label in labels if label is not None}):
        member = np.array([other == label for other in labels])
        n = int(member.sum())
        solved, voted = float(coverage[member].sum()), float(majority[member].sum())
        groups.append(Group(str(label), n, solved / n, wilson(solved, n), voted / n, wilson(voted, n)))
    return tuple(groups)
