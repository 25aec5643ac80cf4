"""Every form of answer the grader claims to read: for each, pairs that are equal and pairs that only look so."""

from __future__ import annotations

import pytest

from harness.grading.compare import compare
from harness.grading.policy import DEFAULT_POLICY
from harness.grading.quick import quick

EQUAL = {
    "grouping braces": [("3", "({3})"), ("(3,4)", "({3},{{4}})"), ("7", "{{{{7}}}}")],
    "integers": [("007", "7"), (str(10**300), "10^{300}"), ("-(-5)", "5"), ("2^{10}", "1024"), ("７", "7")],
    "fractions": [
        (r"\frac{-1}{2}", r"-\frac12"), (r"\frac{1/2}{3}", "1/6"), ("½", "0.5"), (r"\dfrac{6}{-4}", "-1.5"),
        (r"1 \over 2", "0.5"), (r"{3 \over 4}", "0.75"), (r"\nicefrac{7}{8}", "7/8"), ("2⅔", "8/3"),
    ],
    "mixed numbers": [
        (r"3 \frac{1}{2}", "7/2"), ("1 1/2", "1.5"), (r"-2\frac{1}{4}", "-9/4"), (r"1\frac{2}{3}x", r"\frac53x"),
        (r"2\frac{1}{2}\pi", r"\frac{5\pi}{2}"), (r"2\frac12\sqrt3", r"\frac{5\sqrt3}{2}"),
    ],
    "repeating decimals": [
        (r"0.\overline{3}", r"\frac13"), (r"0.1\overline{6}", "1/6"), (r"0.\bar{12}", "4/33"), ("0.333...", "1/3"),
        (r"2.0\overline{9}", "2.1"), (r"0.1666\ldots", "1/6"), ("1.(3)", "4/3"),
    ],
    "radicals": [
        (r"\sqrt{50}", r"5\sqrt2"), (r"\frac{6}{\sqrt{3}}", r"2\sqrt{3}"), (r"\sqrt[3]{-8}", "-2"),
        ("sqrt(8)", r"2\sqrt{2}"),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"), (r"\sqrt{5-\sqrt{21}}+\sqrt{5+\sqrt{21}}", r"\sqrt{14}"),
        (r"\sqrt{-4}", "2i"),
        (r"\frac{1}{1+\sqrt{2}}", r"\sqrt2-1"), ("8^{1/3}", "2"), ("8**(1/3)", "2"),
    ],
    "powers": [("2^{-3}", "1/8"), (r"(-2)^{3}", "-8"), (r"10^{-2}", "0.01"), (r"2^{100} \cdot 2", "2^{101}")],
    "logarithms": [
        (r"\log_2 8", "3"), (r"\ln e^2", "2"), (r"\log 1000", "3"), (r"\log_{4} 2", "1/2"),
        (r"\frac{\ln 3}{\ln 2}", r"\log_2 3"), (r"\ln 8", r"3\ln 2"), (r"\lg 100", "2"),
    ],
    "trigonometry": [
        (r"\sin 30^\circ", "1/2"), (r"\cos\frac{\pi}{4}", r"\frac{\sqrt2}{2}"), (r"\tan(60^\circ)", r"\sqrt3"),
        (r"\sin 75^\circ", r"\frac{\sqrt6+\sqrt2}{4}"), (r"\arctan 1", r"\frac{\pi}{4}"),
        (r"\sec x", r"\frac{1}{\cos x}"),
        (r"\cos\frac{2\pi}{7}+\cos\frac{4\pi}{7}+\cos\frac{6\pi}{7}", "-1/2"),
        (r"\tan(2\arctan\frac15-\frac{\pi}{4})", r"-\frac{7}{17}"), (r"\sin(2\arccos\frac35)", r"\frac{24}{25}"),
        (r"\arctan\frac12+\arctan\frac13", r"\frac{\pi}{4}"), (r"4\arctan\frac15-\arctan\frac1{239}", r"\frac{\pi}4"),
        (r"\arctan1+\arctan2+\arctan3", r"\pi"), (r"\cos(20^\circ+40^\circ)", "1/2"),
        (r"\tan\frac{45}{2}^\circ", r"\sqrt2-1"), (r"\sin\left(\frac{90^\circ}{3}\right)", "1/2"),
    ],
    "complex numbers": [("(1+i)^2", "2i"), (r"\frac{1}{i}", "-i"), (r"3e^{i\pi}", "-3"), (r"\frac{5}{2+i}", "2-i")],
    "percent": [(r"50\%", "50"), (r"50\%", r"\frac12"), ("0.335", r"33.5\text{ percent}"), ("12.5%", r"12.5\%")],
    "money": [
        (r"\$18.90", "18.9"), ("18.90 dollars", r"\$18.90"), (r"\$5.40", "540 cents"), (r"\$1,\!250", "1250"),
        ("5¢", r"\$0.05"), ("€5", "5 euros"),
    ],
    "degrees": [(r"90^\circ", "90"), (r"45^{\circ}", r"45 \text{ degrees}"), (r"30\degree", "30")],
    "units": [
        ("12 cm", "12"), ("12 cm", r"0.12\text{ m}"), (r"16\text{ cm}^2", "16 square centimeters"),
        ("2 hours", "120 minutes"),
        (r"864 \mbox{ inches}^2", "864"), ("4{cm}", "4"), (r"10\text{ ways}", "10"), ("60 mph", "60"), ("7 a.m.", "7"),
        (r"5\text{ m/s}", r"18\text{ km/h}"), ("60 mph", "60 miles per hour"), (r"16\text{ cm^2}", r"16\text{ cm}^2"),
        ("5 m/s", "5"),
    ],
    "thousands separators": [
        ("1,000,000", "10^6"), (r"12{,}345", "12345"), (r"12\,345", "12345"), ("12 345 678", "12345678"),
        ("10,000, 2", "10000, 2"),
    ],
    "scientific notation": [
        (r"1.5\times 10^{3}", "1500"), ("1.5e-3", "0.0015"), (r"6 \cdot 10^{-2}", ".06"),
        ("2.5 million", "2500000"), ("1.5 x 10^3", "1500"),
        ("5 hundred", "500"), ("4 hundred thousand", "400000"),
    ],
    "number bases": [
        ("101_2", "101_{2}"), ("4343_6", r"4343_{\text{six}}"), ("011_2", "11_2"), (r"\text{A5}_{11}", "A5_{11}"),
        ("12_{10}", "12"),
    ],
    "factorials": [
        ("5!", "120"), (r"\frac{10!}{8!}", "90"), (r"\binom{5}{2}", r"{5 \choose 2}"), (r"\gcd(12,18)", "6"),
    ],
    "expressions": [
        ("(a+b)^2", "a^2+2ab+b^2"), (r"\frac{x^2-1}{x-1}", "x+1"), ("x", r"\frac{2x}{2}"), ("a_1+a_{2}", "a_2+a_1"),
        (r"R_{\odot}^2 \hbar", r"\hbar R_{\odot} R_{\odot}"), (r"\frac{x}{y}", r"\frac{2x}{2y}"),
        ("2 sin x", r"2\sin x"),
    ],
    "equations": [
        ("x=5", "5"), ("y=2x+3", "2x-y+3=0"), ("y = 2x+3", "2x+3"), ("x^2+y^2=1", "1 - x^2 = y^2"),
        (r"\frac{x}{2}+\frac{y}{3}=1", "3x+2y-6=0"), ("f(x)=x^2", "x^2"), ("S_1:S=7:32", "7:32"),
        (r"x=1 \quad y=2", "(1,2)"),
    ],
    "inequalities": [
        (r"x \ge 3", r"[3,\infty)"), ("1<x<2", "(1,2)"), (r"x\neq 3", r"(-\infty,3)\cup(3,\infty)"),
        ("2x > 6", "x>3"),
        (r"x<1 \text{ or } x>2", r"(-\infty,1)\cup(2,\infty)"), ("x>1, x<3", "(1,3)"), ("x+y<1", "1>y+x"),
        ("|x|<2", "-2<x<2"), (r"|2x+1| \ge 3", r"x\le-2 \text{ or } x\ge1"), ("||x|-2|<1", "1<|x|<3"),
        ("3>2-|x|", r"\mathbb{R}"),
    ],
    "sums": [
        (r"\sum_{k=1}^{10} k^2", "385"), (r"\sum_{k=1}^3 kx", "6x"),
        (r"\sum_{k=0}^{n} a_k b_k", r"\sum_{k=0}^n b_k a_k"),
    ],
    "tuples": [
        ("(1, 2)", r"\left(1,\frac{4}{2}\right)"), ("(x,y)=(1,2)", "(1,2)"), ("x=1, y=2", "(1,2)"),
        ("y=2, x=1", "(1,2)"),
    ],
    "vectors": [
        (r"\langle 1,2 \rangle", "(1,2)"),
        (r"\begin{pmatrix}1\\ \frac24\end{pmatrix}", r"\begin{bmatrix}1\\0.5\end{bmatrix}"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\left[\begin{array}{cc}1&0\\0&1\end{array}\right]"),
        (r"\frac12\begin{pmatrix}2\\4\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}1&1\\0&1\end{pmatrix}\begin{pmatrix}2\\3\end{pmatrix}", r"\begin{pmatrix}5\\3\end{pmatrix}"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"),
    ],
    "intervals and unions": [
        (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty) \cup (-\infty,2)"), (r"[0,2]\cup[1,3]", "[0,3]"),
        (r"\mathbb{R}\setminus\{0\}", r"(-\infty,0)\cup(0,\infty)"), (r"[0,2]\cap[1,3]", "[1,2]"),
        (r"\mathbb{R}-\{0\}", r"x\neq0"),
    ],
    "sets": [
        (r"\{1,2,3\}", r"\{3,2,1\}"), ("1, 2", "2 and 1"), (r"\{1,2\}\cup\{2,3\}", r"\{1,2,3\}"),
        (r"\emptyset", r"\{\}"),
    ],
    "plus-minus": [
        (r"\pm 3", "3,-3"), (r"x = 1\pm\sqrt2", r"1+\sqrt2, 1-\sqrt2"),
        (r"\{1\pm\sqrt5,-2\}", r"-2,1+\sqrt5,1-\sqrt5"),
    ],
    "text": [
        ("cm", r"\text{cm}"), (r"\text{even}", "Even"), ("Monday", r"\text{monday}"), (r"\text{(C)}", "c"),
        (r"\text{Evelyn}", r"\textbf{Evelyn}"),
    ],
    "choices": [
        ("(C)", "C"), ("(B) 12", "12"), ("B", "(B) 12"), ("12", "B. 12"), (r"\text{(A)}\ 3", "3"),
        ("B", r"(B)\text{ even}"), ("B", "(B) even"),
    ],
    "alternatives": [(r"\frac{639}{40}", r"15\frac{39}{40}, \frac{639}{40}"), ("2-b", "-b+2, 2-b")],
}  # fmt: skip
UNEQUAL = {
    "integers": [
        (str(10**300), str(10**300 + 1)), ("12", "1,2"), ("1234", "1,23,4"), ("1234", "1, 234"), ("123", "0,123"),
    ],
    "fractions": [(r"\frac12", r"\frac13"), ("1/3", "0.33"), ("1/3", "0.3333333333"), ("3/4", "4/3")],
    "mixed numbers": [
        (r"1\frac{4}{5}", "4/5"), ("1 1/2", "11/2"), (r"2\frac12\pi", r"\pi"), (r"x1\frac12", r"\frac{x}{2}"),
    ],
    "repeating decimals": [
        (r"0.\overline{3}", "0.3"), (r"0.\overline{12}", r"0.1\overline{2}"), ("0.(3)", "0"), ("1.(3)", "3"),
    ],
    "radicals": [
        (r"\sqrt{50}", r"5\sqrt3"), (r"\sqrt{5-\sqrt{21}}", r"\sqrt{5-\sqrt{22}}"), (r"\sqrt{2}", "1.41421356"),
    ],
    "powers": [("2^{99}", "2^{98}"), ("1/2^{99}", "1/2^{98}"), ("10^{-30}", "0"), ("2^{1000}+1", "2^{1000}")],
    "factorials": [(r"\frac{1}{2004!}", r"\frac{1}{2006!}"), ("2004!+1", "2004!"), ("5!!", "5!")],
    "logarithms": [(r"\log_2 3", r"\log_3 2"), (r"\ln 2", "0.693147"), (r"\lg 5", r"\ln 5")],
    "trigonometry": [
        (r"\sin 30^\circ", r"\sin 30"), (r"\sin x", r"\cos x"), (r"\cos 20^\circ", r"\cos 21^\circ"),
        (r"\cos(20^\circ+40^\circ)", r"\cos 60"), (r"\sin x^\circ", r"\sin x"),
        (r"\arctan1+\arctan2+\arctan3", "0"), (r"4\arctan\frac15-\arctan\frac1{238}", r"\frac{\pi}4"),
    ],
    "complex numbers": [("1+i", "1-i"), ("i", "1"), ("2i", "2")],
    "percent": [(r"50\%", "5"), ("0.5", r"5\%"), ("0.1", r"1\%"), ("0.5", "50")],
    "units": [
        ("12 cm", "12 m"), (r"5.4\text{ cents}", r"5.4\text{ dollars}"), ("16 cm^2", "16 cm"), ("7 a.m.", "7 p.m."),
        ("3", "3R^2"), ("12", "12xz"), ("4", "4t"), ("6", "6ac"), (r"\$5", "5 cents"),
        (r"5\text{ m/s}", r"5\text{ km/h}"), (r"\$5", "€5"), (r"16\text{ cm^2}", "16 cm"),
    ],
    "words that change a value": [
        ("3", "3 halves"), ("3", r"3\text{ halves}"), ("7", "7 factorial"), ("10", "10 at most"), ("5", "5 hundred"),
    ],
    "number bases": [("11_2", "11"), ("11_2", "11_3"), ("11_2", "3")],
    "expressions": [
        ("x+2n+1", "x+1"), ("a_1", "a_2"), ("x^2", "x^3"), (r"R_{\odot}", "R"), ("2xy", "2x"), (r"\sqrt{x^2}", "x"),
    ],
    "equations": [
        ("x=1", "x=2"), ("y=2x+3", "y=3x+2"), ("2x+z=1", "1"), ("x=1, y=2", "x=2, y=1"), ("x=1, y=2", "(2,1)"),
        ("2", r"x=1 \quad y=2"),
    ],
    "inequalities": [
        ("x>3", r"x\ge 3"), ("x>3", "x<3"), ("x+y<1", "x+y>1"), (r"x<1, x>2", "(1,2)"), ("|x|<2", "x<2"),
        ("|x|>2", "x>2"),
    ],
    "sums": [
        (r"\sum_{k=0}^{n} a_k", r"\sum_{k=1}^{n} a_k"), (r"\sum_{k=1}^{3} k", "5"), (r"\sum_{k=1}^{2} a_k", "2a_k"),
    ],
    "tuples": [("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("(1,2)", r"\{1,2\}"), ("(1,2)", "(1,2,3)"), ("12", "(1,2)")],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    ],
    "intervals and unions": [
        ("[2,3)", "(2,3)"), (r"[0,1]\cup[2,3]", "[0,3]"), (r"\mathbb{R}", r"\mathbb{R}\setminus\{0\}"),
    ],
    "sets": [(r"\{1,2\}", r"\{1,2,3\}"), ("1, 2", "1"), (r"\{0\}", r"\emptyset"), (r"\{1,2\}", "12")],
    "plus-minus": [(r"\pm 3", "3"), (r"1\pm\sqrt2", r"1+\sqrt2")],
    "text": [(r"\text{even}", r"\text{odd}"), ("Monday", "Tuesday"), ("he began", "he begun"), ("A", "B")],
    "choices": [("(C)", "(B)"), ("B", "(A) 12"), ("12", "(B) 13"), ("(B)", "(A)(B)"), ("B", "(A) (B)")],
}  # fmt: skip


def _rows(table: dict[str, list[tuple[str, str]]]) -> list[object]:

    return [pytest.param(*pair, id=f"{form}: {pair}") for form, pairs in table.items() for pair in pairs]


@pytest.mark.parametrize(("gold", "answer"), _rows(EQUAL))
def test_equal(gold: str, answer: str) -> None:
    for one, other in ((gold, answer), (answer, gold)):
        outcome = compare(one, other, DEFAULT_POLICY)
        assert outcome.status == "correct"
        assert quick(one, other, DEFAULT_POLICY) in (None, outcome)


@pytest.mark.parametrize(("gold", "answer"), _rows(UNEQUAL))
def test_unequal(gold: str, answer: str) -> None:
    for one, other in ((gold, answer), (answer, gold)):
        outcome = compare(one, other, DEFAULT_POLICY)
        assert not outcome.correct
        assert quick(one, other, DEFAULT_POLICY) in (None, outcome)
