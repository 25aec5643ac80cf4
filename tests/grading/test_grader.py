"""Trajectories in, verdicts out: order, keys, statuses, de-duplication, errors a user can make."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.grading.grader import WINDOW_ANSWERS, Grader
from harness.grading.judge import Judge
from harness.grading.policy import Policy
from harness.grading.pool import GraderUnavailable, Worker
from harness.grading.quick import Outcome
from harness.grading.summary import summarise
from harness.records import InputError, Problem, Status, Trajectory, Verdict

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
        ("square", r"\boxed{x^2+2x+1}", "correct", "x^2+2x+1", "x^2+2*x+1"),
        ("letter", "I take (B)", "correct", "(B)", "text:b"),
        ("letter", "I take (C)", "incorrect", "(C)", "text:c"),
    ]
    chains = [chain(problem, i, text) for i, (problem, text, *_) in enumerate(rows)]
    verdicts = list(grader.grade(chains))
    assert [v.key for v in verdicts] == [t.key for t in chains]
    assert [(v.status, v.answer, v.class_id) for v in verdicts] == [tuple(row[2:]) for row in rows]
    assert all(v.correct == (v.status == "correct") for v in verdicts)


def test_each_distinct_answer_is_compared_once() -> None:
    with Grader(PROBLEMS) as grader:
        verdicts = list(grader.grade(chain("square", i, rf"\boxed{{\sin {i % 2}x}}") for i in range(50)))
        assert grader._judge.asked == 2
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
        verdicts = list(grader.grade([chain("square", i, rf"\boxed{{\sin((a+b+c+d+{i})^{{90}})}}") for i in range(2)]))
        assert [(v.status, v.class_id, v.correct) for v in verdicts] == [("timeout", None, False)] * 2
        assert next(grader.grade([chain("half", 0, r"\boxed{1/2}")])).status == "correct"


def test_mistakes_of_the_user(grader: Grader) -> None:
    with pytest.raises(InputError, match="problem_id = 'other'"):
        list(grader.grade([chain("other", 0, r"\boxed{1}")]))
    with pytest.raises(InputError, match="timeout_s"):
        Grader(PROBLEMS, timeout_s=0)
    with pytest.raises(InputError, match="workers"):
        Grader(PROBLEMS, workers=0)
    with pytest.raises(RuntimeError, match="`with`"):
        list(Grader(PROBLEMS).grade([chain("half", 0, r"\boxed{1}")]))


def test_one_worker_that_cannot_start_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []

    def start(policy: Policy, timeout_s: float) -> Worker:
        if started:
            raise GraderUnavailable("unfit")
        started.append(Worker(policy, timeout_s))
        return started[0]

    monkeypatch.setattr("harness.grading.judge.Worker", start)
    with pytest.raises(GraderUnavailable, match="unfit"), Judge(workers=2):
        pass
    assert started[0].pid is None


def test_what_was_not_decided_when_the_judge_closed_says_so() -> None:
    with Judge() as judge:
        pending = [judge.submit("7", rf"\sin({i}x)") for i in range(3)]
    assert not pending[-1].done()
    with pytest.raises(RuntimeError, match="closed"):
        pending[-1].result()


def test_warm_up_is_answered_before_anything_is_asked() -> None:
    with Judge(workers=2, warm_up=[("\\sin x", "\\cos x"), ("1", "\\tan x")]) as judge:
        assert judge.asked == 0 and not any(worker.busy for worker in judge._workers)
        assert judge.matches("\\sin x", "\\sin(x)").correct


def test_one_answer_at_a_time() -> None:
    with Judge() as judge:
        assert judge.grade("4", r"so $x = \boxed{2^2}$") == Outcome("correct", "4")
        assert judge.grade("4", "no end") == Outcome("no_answer", None)
        assert judge.matches("x(x+1)", "x^2+x").status == "correct"
        assert judge.class_id("x(x+1)") == judge.class_id("x+x^2") != judge.class_id("x^2")
        assert judge.class_id("9" * 10_000) is None


def test_the_package_can_be_imported_on_its_own() -> None:
    code = (
        "import sys; from harness.grading import *; from harness.grading import Judge, Policy, extract_answer;"
        "heavy = {'torch', 'sympy', 'numpy', 'latex2sympy2_extended', 'math_verify'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_summary_counts_classes_with_verdicts_at_odds() -> None:
    def verdict(problem: str, sample: int, class_id: str | None, status: Status) -> Verdict:
        return Verdict("m", "t", 1, problem, sample, "a", class_id, status, status == "correct")

    verdicts = [
        verdict("p", 0, "1", "correct"),
        verdict("p", 1, "1", "incorrect"),
        verdict("p", 2, "2", "incorrect"),
        verdict("q", 0, "1", "incorrect"),
        verdict("q", 1, "1", "timeout"),
        verdict("q", 2, None, "no_answer"),
    ]
    summary = summarise(verdicts)
    assert (summary.classes, summary.split_classes) == (3, 1)
    assert summary.statuses == {"correct": 1, "incorrect": 3, "timeout": 1, "no_answer": 1}
    assert "3 answer classes, 1 with verdicts at odds" in str(summary)
    assert str(summarise([])).startswith("no samples; 0 answer classes")
