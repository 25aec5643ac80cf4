"""The small reader gives what the full grammar gives, wherever it gives anything."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig

from harness.grading.evaluate import evaluate
from harness.grading.latex import _Converter
from harness.grading.limits import LimitExceeded, Unparsable
from harness.grading.normalise import normalise
from harness.grading.policy import Policy
from harness.grading.reader import MAX_DEPTH, read

ATOMS = ["2", "3", "10", "x", "y", "n", "i", "e", "a", "b", "1.5", ".5", r"\pi", r"\infty", "w"]
SHAPES = [
    *("{}+{}", "{}-{}", "{}{}", r"{}\cdot {}", "{}/{}", "-{}", r"\frac{{{}}}{{{}}}", r"\sqrt{{{}}}", r"\sqrt[3]{{{}}}"),
    *("({})", "{}^{{{}}}", "{}^2", "{}!", r"\sin({})", r"\cos {}", r"\tan{{{}}}", r"\sin^2 {}", "f({})", "2x({})"),
    *(
        r"\binom{{{}}}{{{}}}",
        r"{}\times {}",
        "{} {}",
        r"\arctan({})",
        r"\ln {}",
        "|{}|",
        r"{}\div {}",
        "{}*{}",
        "{{{}}}",
    ),
]


def expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(ATOMS)
    shape = rng.choice(SHAPES)
    return shape.format(*(expression(rng, depth - 1) for _ in range(shape.replace("{{", "").count("{}"))))


def value(tree: sympy.Basic) -> sympy.Expr | str:
    try:
        return evaluate(tree, {})
    except (Unparsable, LimitExceeded) as error:
        return type(error).__name__


def full(text: str) -> sympy.Expr | str:
    """By the whole grammar; its own syntax errors are bare Exceptions."""
    try:
        return value(_Converter(config=ConversionConfig(lowercase_symbols=False)).expression(text))
    except Exception:
        return "Unparsable"


def agree(text: str) -> bool:
    """Whether the reader read ``text``; it then must have read what the full grammar reads."""
    tree = read(text)
    if tree is None:
        return False
    ours, theirs = value(tree), full(text)
    same = ours == theirs or (
        isinstance(ours, sympy.Expr) and isinstance(theirs, sympy.Expr) and sympy.expand(ours - theirs) == 0
    )
    assert same, (text, ours, theirs)
    return True


def test_random_expressions() -> None:
    rng = random.Random(3)
    texts = [
        t
        for t in (expression(rng, rng.randint(1, 3)) for _ in range(600))
        if len(t) < 60 and ")^" not in t and ")!" not in t
    ]
    assert sum(map(agree, texts)) > 0.5 * len(texts)


def test_every_reference_answer(data_dir: Path) -> None:
    rows = [json.loads(row) for row in (data_dir / "math500.jsonl").read_text().splitlines()]
    texts = {normalise(row["answer"], Policy()).text for row in rows}
    assert sum(map(agree, sorted(texts))) > 0.5 * len(texts)


def test_brackets_after_a_letter_multiply_and_a_power_is_theirs_alone() -> None:
    x, b = sympy.symbols("x b")
    assert value(read("x(b)^2")) == x * b**2  # type: ignore[arg-type]
    assert value(read("x(b+1)")) == x * (b + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "f(x)",
            "x^23",
            "x^-2",
            "2^3^4",
            "1\\frac{1}{2}",
            "2 3",
            "x^2 3",
            "2.",
            "1e5",
            "2E3",
            "dx",
        ),
        *(
            "sin(x)",
            "abc",
            "(1,2)",
            "x=1",
            "[1]",
            "(1",
            "1)",
            "\\frac12",
            "\\frac{1}",
            "\\sqrt",
            "\\unknown{x}",
            "{x}",
            "--x",
        ),
        *("\\sin x y", "\\sin x^2", "\\log x", "|x|", "x!!", "x_1", "\\", "\\ ", "é", "\x00", "x'", "3%", "1/", "^2"),
        *("(" * (MAX_DEPTH + 1) + "x" + ")" * (MAX_DEPTH + 1), "x+" * 1000 + "x"),
    ],
)
def test_what_it_is_not_sure_of_it_leaves(text: str) -> None:
    assert read(text) is None
