"""math-verify beside our grader: what it says, where they part, and that it can neither hang us nor change verdicts."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest

from harness.grading import peer as peer_module
from harness.grading.audit import Parting, audit
from harness.grading.cases import Case
from harness.grading.check import compare
from harness.grading.peer import Peer, require
from harness.grading.policy import Policy
from harness.records import InputError, Problem, Status, Trajectory, Verdict

needs_peer = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed (extra math-verify)"
)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"reasoning-harness\[math-verify\]"):
        require()
    with pytest.raises(InputError, match=r"reasoning-harness\[math-verify\]"):
        Peer(1)


@needs_peer
def test_verdicts_come_in_order_from_several_processes() -> None:
    pairs = [("7", f"so the answer is \\boxed{{{i}}}", "response") for i in range(20)]
    pairs += [(r"\$10", "10", "answer"), ("$1/2$", r"\frac{1}{2}", "answer"), ("1/2", r"$0.5$", "answer")]
    with Peer(2) as peer:
        assert peer.verdicts(pairs) == [i == 7 for i in range(20)] + [True, True, True]  # type: ignore[arg-type]
        assert peer.verdicts([]) == []


@needs_peer
def test_a_process_that_hangs_or_dies_costs_its_own_pair_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "HANG_S", 0.5)
    pairs = [("7", f"{i}", "answer") for i in range(5)]
    with Peer(1) as peer:
        victim = peer._processes[0]
        os.kill(victim._process.pid, signal.SIGSTOP)
        assert peer.verdicts(pairs) == [False] * 5  # type: ignore[arg-type]
        assert peer._processes[0] is not victim and not victim._process.is_alive()
        os.kill(peer._processes[0]._process.pid, signal.SIGKILL)
        assert peer.verdicts([("7", "7", "answer")]) == [None]
        assert peer.verdicts([("7", "7", "answer")]) == [True]


@needs_peer
def test_a_broken_installation_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('antlr is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="math-verify: its process ended"), Peer(1):
        pass


@needs_peer
def test_both_graders_over_the_same_rows() -> None:
    cases = [
        Case(1, "1/2", "0.5", "answer", True),
        Case(2, "11", "11_2", "answer", False, is_settled=True),  # math-verify drops the base
        Case(3, "11", "11_2", "answer", None),
        Case(4, "3", "4", "answer", False),
    ]
    found = compare(cases, Policy(), processes=1, repeats=2)
    assert (found.ours.cases, found.ours.agree, found.ours.false_equal) == (3, 3, 0)
    assert (found.theirs.cases, found.theirs.agree, found.theirs.false_equal) == (3, 2, 1)
    assert [(case.row, ours.equal, theirs.equal) for case, ours, theirs in found.parted] == [
        (2, False, True),
        (3, False, True),
    ]
    assert (found.pairs, found.repeats) == (3, 2)
    summary = found.summary("0")
    assert summary["parted"] == {
        "rows": 2,
        "unsettled": 1,
        "harness": {"false_equal": 0, "false_unequal": 0},
        "math-verify 0": {"false_equal": 1, "false_unequal": 0},
    }
    rates = [summary[name]["pairs_per_s"] for name in ("harness", "math-verify 0")]
    assert summary["speedup"] == pytest.approx(rates[0] / rates[1], rel=0.05)


@needs_peer
def test_an_audit_lists_each_answer_once_and_leaves_out_what_we_did_not_decide() -> None:
    problems = {"p": Problem("p", "?", "11"), "q": Problem("q", "?", "1/2")}
    samples: list[tuple[str, str, Status]] = [
        ("p", "11", "correct"),
        ("p", "11_2", "incorrect"),
        ("p", "11_2", "incorrect"),
        ("p", "12", "timeout"),
        ("q", "0.5", "incorrect"),  # a wrong verdict of ours
        ("q", "2", "incorrect"),
    ]
    trajectories, verdicts = [], []
    for i, (problem, answer, status) in enumerate(samples):
        text = f"so $\\boxed{{{answer}}}$"
        trajectories.append(Trajectory("m", "t", 1, problem, i, 0, 0, 1, 1, 1, "eos", False, text, 0.0))
        verdicts.append(Verdict("m", "t", 1, problem, i, answer, "c", status, status == "correct"))
    found = audit(problems, trajectories, verdicts, processes=1)
    assert (found.samples, found.unscored, found.parted) == (5, 1, 3)
    assert found.partings == (
        Parting("p", 1, 2, "11", "11_2", "incorrect", True),
        Parting("q", 4, 1, "1/2", "0.5", "incorrect", True),
    )
