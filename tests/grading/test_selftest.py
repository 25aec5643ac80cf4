"""An unfit grader refuses to grade: each way in which an installation was seen to break is broken here on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.grading import selftest
from harness.grading.policy import Policy
from harness.grading.pool import GraderUnavailable, Worker
from harness.grading.quick import Outcome

RAISES = "raise ImportError('Unsupported ANTLR version')"
# sitecustomize is imported before anything else: what it changes, the worker's imports meet
MISSING_RUNTIME = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == 'antlr4' or name.startswith('antlr4.'):
            raise ModuleNotFoundError(f'No module named {name!r}')
sys.meta_path.insert(0, Missing())
"""
OTHER_RUNTIME = """
import importlib.metadata
version = importlib.metadata.version
importlib.metadata.version = lambda name: '4.7.2' if name.startswith('antlr4') else version(name)
"""
SILENT_PARSER = """
import latex2sympy2_extended.latex2sympy2 as library
def fail(*_): raise Exception('I expected something else here')
library._Latex2Sympy.create_parser = fail
"""
EVERYTHING_EQUAL = """
import harness.grading.compare as compare
from harness.grading.quick import Outcome
compare.compare = lambda gold, answer, policy: Outcome('correct', '7')
"""
ENDS_AT_ONCE = "import os; os._exit(3)"


def test_this_installation_is_fit() -> None:
    assert selftest.self_test() is None


@pytest.mark.parametrize(
    ("file", "code", "reason"),
    [
        ("latex2sympy2_extended/__init__.py", RAISES, "Unsupported ANTLR version"),
        ("sitecustomize.py", MISSING_RUNTIME, "No module named 'antlr4"),
        ("sitecustomize.py", OTHER_RUNTIME, "4.7.2"),
        ("sitecustomize.py", SILENT_PARSER, "came out parse_error, not correct"),
        ("sitecustomize.py", EVERYTHING_EQUAL, "came out correct, not incorrect"),
        ("sitecustomize.py", ENDS_AT_ONCE, "it ended before its self-test"),
    ],
)
def test_broken_installations_refuse(
    file: str, code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / file
    broken.parent.mkdir(exist_ok=True)
    broken.write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(GraderUnavailable, match="refuses to grade") as refusal:
        Worker(Policy(), timeout_s=5.0).ready()
    assert reason in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_python_that_cannot_be_started_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(GraderUnavailable, match="/nowhere/python"):
        Worker(Policy(), timeout_s=5.0)


@pytest.mark.parametrize("case", selftest.KNOWN)
def test_every_known_answer_counts(case: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    compare = selftest.compare

    def wrong_once(gold: str, answer: str, policy: Policy) -> Outcome:
        outcome = compare(gold, answer, policy)
        return Outcome("parse_error", None) if (gold, answer) == case[:2] else outcome

    monkeypatch.setattr(selftest, "compare", wrong_once)
    assert repr(case[1]) in (selftest.self_test() or "")
