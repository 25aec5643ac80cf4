import numpy as np

from harness.records import Problem
from harness.scoring.groups import accuracy_by


def test_groups_leave_out_what_has_no_label():
    problems = [
        Problem("a", "", "", "geometry", 2),
        Problem("b", "", "", None, 2),
        Problem("c", "", "", "algebra", None),
    ]
    covered, voted = np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.0, 1.0])
    (level,) = accuracy_by(problems, "level", covered, voted)
    assert (level.label, level.n_problems, level.coverage, level.majority) == ("2", 2, 0.5, 0.25)
    assert level.coverage_interval[0] < 0.5 < level.coverage_interval[1]
    assert [g.label for g in accuracy_by(problems, "subject", covered, voted)] == ["algebra", "geometry"]


def test_levels_are_ordered_as_numbers():
    problems = [Problem(str(n), "", "", None, n) for n in (10, 2, 1)]
    assert [g.label for g in accuracy_by(problems, "level", np.ones(3), np.ones(3))] == ["1", "2", "10"]
