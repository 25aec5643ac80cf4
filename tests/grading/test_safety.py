"""Model text never reaches Python's, sympy's or mpmath's evaluators, and grading stands apart from the engine."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sympy

from harness.grading.compare import compare
from harness.grading.extract import extract_answer
from harness.grading.policy import Policy
from harness.grading.quick import quick

DECIDED = ("correct", "incorrect", "parse_error", "limit")
# Forms that make sympy work: each part of it that could turn back to text is asked at least once.
HARD_FORMS = [
    r"\frac{\sqrt{\sqrt{11}+\sqrt{194}}}{15+2\sqrt{33}}",  # radsimp, by way of nsimplify
    r"\frac{1}{\sqrt{2}+\sqrt[3]{3}}",
    r"\frac{1}{\sqrt{2+\sqrt{3}}+1}",
    r"\frac{1}{1+\sqrt{2}+\sqrt{3}+\sqrt{5}}",
    r"\sqrt{5+2\sqrt{6}}",
    r"\sqrt[3]{2+\sqrt{5}}+\sqrt[3]{2-\sqrt{5}}",
    r"\frac{a}{b}+\frac{c}{d}+\frac{p}{q}",  # polynomials in many generators
    r"\binom{n}{k}",
    r"\frac{(n+1)!}{n!}",
    r"\cos\frac{\pi}{7}+\sin^2 x+\cot x",
    r"\log_2 3+\ln 5",
    r"e^{i\pi/3}",
    r"x^2+y^2=1",
    r"2x+3 \le 7",
    r"(-\infty,-\sqrt{2})\cup[\pi,5)",
    r"\begin{pmatrix}1&x\\\sqrt{2}&0\end{pmatrix}",
    r"1.5\cdot 10^{-3}",
    r"0.\overline{142857}",
    r"2516_8",
    r"3\pm\sqrt{7}",
    r"|x-3|+\lfloor 2.5\rfloor",
    r"17 \text{ cm}",
    r"12.5\%",
    "3:4:5",
]


def _compared(pairs: Iterator[tuple[str, str]]) -> int:
    """How many distinct pairs were compared; any evaluator reached on the way raises."""
    distinct = dict.fromkeys(pairs)
    for gold, answer in distinct:
        quick(gold, answer, Policy())
        assert compare(gold, answer, Policy()).status in DECIDED, (gold, answer)
    return len(distinct)


def test_hard_forms_reach_no_evaluator(evaluators_raise: None) -> None:
    assert _compared((gold, answer) for gold in HARD_FORMS for answer in (gold, f"1+{gold}", "7"))


def _rows(data_dir: Path, name: str) -> Iterator[dict[str, str]]:
    with (data_dir / name).open() as lines:  # not splitlines, which splits at more than line ends
        yield from map(json.loads, lines)


@pytest.mark.parametrize("name", ["grader_cases.jsonl", "grader_pairs.jsonl"])
def test_cases_reach_no_evaluator(name: str, data_dir: Path, evaluators_raise: None) -> None:
    def pairs() -> Iterator[tuple[str, str]]:
        for row in _rows(data_dir, name):
            answer = extract_answer(row["pred"]) if row["kind"] == "response" else row["pred"]
            if answer is not None:
                yield row["gold"], answer
                yield answer, row["gold"]

    assert _compared(pairs()) >= 400


def test_extracted_answers_reach_no_evaluator(data_dir: Path, evaluators_raise: None) -> None:
    rows = _rows(data_dir, "model_outputs.jsonl")
    pairs = ((row["gold"], extract_answer(row["response"])) for row in rows)
    assert _compared((gold, answer) for gold, answer in pairs if answer is not None) >= 1_000


@pytest.mark.parametrize(
    "name", ["math_train", "math500", "gsm8k_train", "gsm8k_test", "amc23", "amc_aimo83", "aime24"]
)
def test_golds_reach_no_evaluator(name: str, data_dir: Path, evaluators_raise: None) -> None:
    """Against themselves spelt otherwise, so that equal text does not decide, and against another value."""
    golds = [str(row["answer"]) for row in _rows(data_dir, f"{name}.jsonl")]
    assert _compared((gold, answer) for gold in golds for answer in (f"0+{gold}", "7")) >= 20


def test_the_guard_itself_works(evaluators_raise: None) -> None:
    from mpmath import identify

    for attempt in (
        lambda: sympy.sympify("1"),
        lambda: sympy.S("x"),
        lambda: sympy.Number("1.5"),
        lambda: sympy.parse_expr("1"),
        lambda: sympy.lambdify(sympy.Symbol("x"), sympy.Symbol("x")),
        lambda: identify(1.5),
        lambda: eval("1"),
        lambda: exec("1"),
    ):
        with pytest.raises(AssertionError):
            attempt()


def test_grading_imports_neither_torch_nor_the_engine() -> None:
    code = (
        "import pkgutil, sys, importlib, harness.grading;"
        "names = [m.name for m in pkgutil.iter_modules(harness.grading.__path__)];"
        "assert len(names) > 10;"
        "[importlib.import_module('harness.grading.' + name) for name in names];"
        "bad = [m for m in sys.modules if m in ('torch', 'triton') or m.startswith(('torch.', 'triton.', 'harness.'))"
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
