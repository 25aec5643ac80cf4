"""Rows of a log, and the fake backend of tests/engine."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.records import Look, Trajectory


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    name = "tests_engine_fake"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "engine" / "fake.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def trajectory(sample: int, problem: str = "p0", **changes) -> Trajectory:
    text = "½ \\boxed{é}\n\u2028"
    plain = Trajectory("m", "t", 4, problem, sample, 0.125, 0.25, 1.5, 7, 9, "eos", False, text, -1.5)
    return dataclasses.replace(plain, **changes)


def look(number: int, clock_s: float, submitted=(), ended=False, round=0) -> Look:
    return Look("m", 4, round, number, clock_s, tuple(submitted), ended)


@pytest.fixture(scope="session")
def make():
    """``make.trajectory(sample, ...)`` and ``make.look(number, clock_s, ...)``."""

    class Make:
        pass

    Make.trajectory, Make.look = staticmethod(trajectory), staticmethod(look)
    return Make
