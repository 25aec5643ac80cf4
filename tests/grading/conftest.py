"""What the tests of the grader's safety share: the adversarial panel, and evaluators that raise when reached."""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

PANEL = Path(__file__).with_name("adversarial.jsonl")


@dataclasses.dataclass(frozen=True, slots=True)
class Attack:
    """``truth``: whether the text (an ``answer`` or a whole ``response``) is ``equal`` to the gold or ``unequal``.

    ``live`` is what would run the text as code: ``eval`` or nothing. Each test puts a path of its own for CANARY.
    """

    about: str
    kind: str
    gold: str
    truth: str
    text: str
    live: str | None = None


@pytest.fixture(scope="session")
def panel() -> list[Attack]:
    """The rows of ``adversarial.jsonl``; there a text is a list of pieces, and [piece, n] stands for n of them."""
    attacks = []
    for line in PANEL.read_text().splitlines():
        row = json.loads(line)
        pieces = (piece if isinstance(piece, str) else piece[0] * piece[1] for piece in row.pop("text"))
        attacks.append(Attack(text="".join(pieces), **row))
    return attacks


@pytest.fixture
def evaluators_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way from text to code raises, in Python, in sympy and in mpmath; what sympy builds late is built first."""
    from harness.grading.prepare import prepare
    from harness.grading.selftest import self_test

    prepare()
    assert self_test() is None

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("an evaluator was reached")

    def refuse_text(original: Any) -> Any:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(arg, str) for arg in args):
                raise AssertionError("text was given to sympify or Number")
            return original(*args, **kwargs)

        return guarded

    converter = importlib.import_module("sympy.core.sympify").sympify
    guarded_converter = refuse_text(converter)
    for name, module in list(sys.modules.items()):
        if not name.startswith(("sympy", "mpmath", "latex2sympy2_extended", "harness.grading")):
            continue
        for attribute, value in list(vars(module).items()):
            if value is converter:
                monkeypatch.setattr(module, attribute, guarded_converter)
            elif attribute in ("parse_expr", "lambdify", "identify", "convert_number") and callable(value):
                monkeypatch.setattr(module, attribute, refuse)
    # Number(str) sympifies all but a few words; Float(str) only reads digits, and sympy itself calls it
    number = importlib.import_module("sympy.core.numbers").Number
    monkeypatch.setattr(number, "__new__", refuse_text(number.__new__))
    monkeypatch.setattr(builtins, "eval", refuse)
    monkeypatch.setattr(builtins, "exec", refuse)
