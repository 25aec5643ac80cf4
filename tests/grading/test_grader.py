"""Trajectories in, verdicts out: order, keys, statuses, de-duplication, errors a user can make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.grading.grader import GRADER_VERSION, WINDOW_ANSWERS, Grader
from harness.records import InputError, Problem, Trajectory

PROBLEMS = {
    "half": Problem("half", "?", r"\frac{1}{2}"),
    "square": Problem("square", "?", "(x+1)^2"),
    "letter": Problem("letter", "?", r"\text{(B)}"),
}


def chain(problem: str, sample: int, text: str) -> Trajectory:
    return Trajectory("m", "t", 1, problem, sample, 0.0, 0.1, 1.0, 5, 9, "eos", False, text, -1.0)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(PROBLEMS, timeout_s=5.0) as grader:
        yield grader


def test_statuses_answers_and_classes(grader: Grader) -> None:
    rows = [
        ("half", r"\boxed{0.5}", "correct", "0.5", "1/2"),
        ("half", r"\boxed{50/100}", "correct", "50/100", "1/2"),
        ("half", r"\boxed{2}", "incorrect", "2", "2"),
        ("half", "cut off", "no_answer", None, None),
        ("half", r"\boxed{\int x}", "parse_error", r"\int x", r"text:\intx"),
        ("half", r"\boxed{10^{10^{10^{10}}}}", "limit", "10^{10^{10^{10}}}", None),
        ("half", r"\boxed{" + "9" * 4_001 + "}", "limit", "9" * 4_001, None),
        ("square", r"\boxed{x^2+2x+1}", "correct", "x^2+2x+1", "x**2+2*x+1"),
        ("letter", "I take (B)", "correct", "(B)", "text:b"),
        ("letter", "I take (C)", "incorrect", "(C)", "text:c"),
    ]
    chains = [chain(problem, i, text) for i, (problem, text, *_) in enumerate(rows)]
    verdicts = list(grader.grade(chains))
    assert [v.key for v in verdicts] == [t.key for t in chains]
    assert [(v.status, v.answer, v.class_id) for v in verdicts] == [tuple(row[2:]) for row in rows]
    assert all(v.correct == (v.status == "correct") for v in verdicts)


def test_each_distinct_answer_is_compared_once(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    compare = grader._compare
    monkeypatch.setattr(grader, "_compare", lambda gold, answer: asked.append(answer) or compare(gold, answer))
    verdicts = list(grader.grade(chain("square", i, rf"\boxed{{x({i % 2} + x)}}") for i in range(50)))
    assert sorted(asked) == ["x(0 + x)", "x(1 + x)"]
    assert len({v.class_id for v in verdicts}) == 2


def test_long_logs_are_graded_lazily_and_in_order(grader: Grader) -> None:
    taken = 0

    def log() -> Iterator[Trajectory]:
        nonlocal taken
        for i in range(5 * WINDOW_ANSWERS):
            taken += 1
            yield chain("half", i, rf"\boxed{{{i}}}")

    verdicts = grader.grade(log())
    assert next(verdicts).sample == 0
    assert taken <= WINDOW_ANSWERS + 2
    assert [v.sample for v in verdicts] == list(range(1, 5 * WINDOW_ANSWERS))


def test_several_workers_keep_the_order() -> None:
    with Grader(PROBLEMS, workers=2) as grader:
        chains = [chain("square", i, rf"\boxed{{(x+{i})(x-1)}}") for i in range(40)]
        assert [v.sample for v in grader.grade(chains)] == list(range(40))


def test_deadline_is_a_timeout_and_grading_goes_on() -> None:
    with Grader(PROBLEMS, timeout_s=0.001) as grader:
        verdicts = list(grader.grade([chain("square", i, rf"\boxed{{(x+{i})^{{50}}}}") for i in range(2)]))
        assert [(v.status, v.class_id, v.correct) for v in verdicts] == [("timeout", None, False)] * 2
        assert next(grader.grade([chain("half", 0, r"\boxed{1/2}")])).status == "correct"


def test_mistakes_of_the_user(grader: Grader) -> None:
    with pytest.raises(InputError, match="problem_id = 'other'"):
        list(grader.grade([chain("other", 0, r"\boxed{1}")]))
    with pytest.raises(InputError, match="timeout_s"):
        Grader(PROBLEMS, timeout_s=0)
    with pytest.raises(InputError, match="workers"):
        Grader(PROBLEMS, workers=0)
    with pytest.raises(RuntimeError, match="with Grader"):
        list(Grader(PROBLEMS).grade([]))


def test_version_is_a_string() -> None:
    assert isinstance(GRADER_VERSION, str)
