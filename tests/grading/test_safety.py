"""Model text never reaches Python's or sympy's evaluators, and grading stands apart from the engine."""

from __future__ import annotations

import builtins
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sympy
import sympy.core.numbers
import sympy.parsing.sympy_parser
from latex2sympy2_extended import latex2sympy2

from harness.grading.compare import compare, self_test
from harness.grading.policy import Policy
from harness.grading.quick import quick

ATTACKS = [
    "__import__('os').system('touch /tmp/owned')",
    r"\text{__import__('os').system('id')}",
    "().__class__.__bases__[0].__subclasses__()",
    "exec('1')",
    "eval(compile('1','','eval'))",
    "lambda: 1",
    "1.__class__",
    r"\operatorname{__import__}(os)",
    r"\sqrt{__import__}",
    "0x10",
    "1e5",
    "1_000",
    "1.5.2",
    "١٢",
    "1,234,567.5",
    "0,111",
    "3,333",
    r"12_{34}",
    r"50\%",
    r"\max(1,2)",
    r"\gcd(12, 18)",
    r"f(3, 4)",
    r"g(3)",
    r"\variable{x}",
    r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}",
    r"\det(2)",
    r"\frac{d}{dx} x^2",
    r"\sum_{k=1}^{5} k",
    r"\lim_{x \to 0} x",
]


@pytest.fixture
def evaluators_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluator raises; imports (which use exec) are done first by one run of the self-test."""
    assert self_test() is None

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("an evaluator was reached")

    converter = sympy.sympify

    def guarded(a: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(a, str):
            raise AssertionError("sympify was given a string")
        return converter(a, *args, **kwargs)

    for name, module in list(sys.modules.items()):
        if not name.startswith(("sympy", "latex2sympy2_extended", "harness.grading")):
            continue
        if getattr(module, "sympify", None) is converter:
            monkeypatch.setattr(module, "sympify", guarded)
        if hasattr(module, "parse_expr"):
            monkeypatch.setattr(module, "parse_expr", refuse)
    # Number(str) and Float(str) convert without eval only for plain digits: no string may get there at all
    plain_number = sympy.core.numbers.Number.__new__
    monkeypatch.setattr(
        sympy.core.numbers.Number,
        "__new__",
        lambda cls, *args: refuse() if any(isinstance(a, str) for a in args) else plain_number(cls, *args),
    )
    monkeypatch.setattr(latex2sympy2, "convert_number", refuse)
    monkeypatch.setattr(builtins, "eval", refuse)
    monkeypatch.setattr(builtins, "exec", refuse)


def _raises_nothing(answers: list[str]) -> None:
    for answer in answers:
        assert compare("7", answer, Policy()).status in ("correct", "incorrect", "parse_error", "limit"), answer


def test_attacks_never_reach_an_evaluator(evaluators_raise: None) -> None:
    _raises_nothing(ATTACKS)


def test_real_golds_never_reach_an_evaluator(data_dir: Path, evaluators_raise: None) -> None:
    rows = (data_dir / "math500.jsonl").read_text().splitlines()
    _raises_nothing([json.loads(row)["answer"] for row in rows])


def test_the_guard_itself_works(evaluators_raise: None) -> None:
    with pytest.raises(AssertionError):
        sympy.sympify("1")
    with pytest.raises(AssertionError):
        sympy.Number("1.5")


def test_grading_imports_neither_torch_nor_the_engine() -> None:
    code = (
        "import sys, harness.grading.grader, harness.grading.worker, harness.grading.compare;"
        "bad = [m for m in sys.modules if m == 'torch' or m.startswith(('torch.', 'harness.'))"
        " and not m.startswith(('harness.grading', 'harness.records'))];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_parent_needs_no_sympy() -> None:
    code = "import sys, harness.grading.grader; assert 'sympy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


PIECES = [
    *"0123456789abxyief+-*/^_(){}[]|!.,;:=<> $%&'\"\\~",
    *(r"\frac", r"\sqrt", r"\pi", r"\text{", r"\le ", r"\in ", r"\cup ", r"\pm ", r"\{", r"\}", r"\boxed{", "\\\\"),
    *(
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        "and",
        "cm",
        "10",
        "1,000",
        r"\infty",
        r"\log",
        r"^\circ",
        "\x0c",
        "²",
        "١",
    ),
]


def test_no_text_raises_and_both_paths_agree() -> None:
    rng = random.Random(5)
    for _ in range(800):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))
        outcome = compare("12", text, Policy())
        assert quick("12", text, Policy()) in (None, outcome), text
        assert compare(text, text, Policy()).status in ("correct", "limit"), text


@pytest.mark.parametrize(
    "text",
    [
        *("1 " * 2500, "\\text{" * 800, "1," * 2500, "$" * 5000, "1 aa " * 1000, "1" + " a" * 2400, "=1" * 2500),
        *("A," * 2500, "\\frac" * 1000, "1e" * 2500, "\\text{a" + "\x01" * 4000, "{" * 5000),
        "\\frac{" + "9" * 3900 + "}{." + "9" * 900 + "}",
    ],
)
def test_the_parent_is_quick_on_hostile_text(text: str) -> None:
    start = time.process_time()
    quick("12", text, Policy())
    assert time.process_time() - start < 1.0
