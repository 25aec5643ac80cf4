"""The one adapter over latex2sympy2_extended: a LaTeX expression to an unevaluated sympy tree.

Held here: no string of the text reaches ``sympy.Number(str)`` or ``sympify(str)``, which eval (digits become
exact Integers and Rationals), a base subscript is an error and never dropped, ``2(3)`` is a product and
only ``1\\frac{4}{5}`` a mixed number, and no command outside ``_COMMANDS`` reaches the parser. The
library's own text normalisation, which drops words it takes for units, is switched off.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy

from harness.grading.fast import repeating
from harness.grading.limits import LimitExceeded, Unparsable
from harness.grading.reader import read
from harness.grading.symbols import hide_names

_COMMAND_NAMES = (
    "frac sqrt pi infty cdot times div binom sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh "
    "log ln exp floor ceil lfloor rfloor lceil rceil lvert rvert vert alpha beta gamma delta epsilon varepsilon zeta "
    "eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi "
    "Pi Sigma Upsilon Phi Psi Omega"
)
_COMMANDS = frozenset(_COMMAND_NAMES.split())
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{5,}")
"""Five letters in a row are a word, not a product; as a product ``begins`` would equal ``beings``."""
_PLAIN = re.compile(r"[0-9a-zA-Z+\-*/^_()\[\]{}|!. \\]*")
_DIGITS = re.compile(r"\d+")
_DECIMAL = re.compile(r"(\d*)\.(\d*)")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
_DOUBLE_FACTORIAL = re.compile(r"(?<!!)!!(?!!)")
_GCD = re.compile(r"\\(gcd|lcm)\((\d+(?:,\d+)+)\)")
_FRACTION = re.compile(r"\\frac\{(\d+)\}\{(\d+)\}")
_CHAINED_POWER = re.compile(r"\^(?:[0-9a-zA-Z]|\{[^{}]*\})\^")


@functools.lru_cache(64)
def parse_expression(text: str) -> tuple[sympy.Basic, dict[str, str]]:
    """The tree of one scalar expression, unevaluated, and what the letters that hide a longer name stand for.

    Raises Unparsable or LimitExceeded.
    """
    text = _REPEATING.sub(_repeating, text)
    text = _GCD.sub(_gcd, text)
    text, names = hide_names(text)
    if not _PLAIN.fullmatch(text):
        raise Unparsable("a character that is not mathematics")
    if _WORD.search(text):
        raise Unparsable("a word")
    for command in _COMMAND.findall(text):
        if command not in _COMMANDS:
            raise Unparsable(f"command \\{command} is not read")
    if _CHAINED_POWER.search(text):
        raise Unparsable("a power of a power without braces")
    if _DOUBLE_FACTORIAL.search(text):
        raise Unparsable("a double factorial")
    common = read(text)
    if common is not None:
        return common, names
    try:
        tree = _Converter(config=ConversionConfig(lowercase_symbols=False)).expression(text)
    except (Unparsable, LimitExceeded, MemoryError):
        raise
    except RecursionError as error:
        raise LimitExceeded("nests too deeply to parse") from error
    except Exception as error:  # the library raises bare Exception for every syntax error
        raise Unparsable(f"not read by the parser: {type(error).__name__}") from error
    if not isinstance(tree, sympy.Basic):
        raise Unparsable("not one expression")
    return tree, names


def exact_number(text: str) -> sympy.Rational:
    """Digits, with or without a point, to an exact number: 1.5 is Rational(3, 2)."""
    if _DIGITS.fullmatch(text):
        return sympy.Integer(int(text))
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        raise Unparsable("not a number")
    return sympy.Rational(int((match[1] + match[2]) or "0"), 10 ** len(match[2]))


def _repeating(match: re.Match[str]) -> str:
    value = repeating(match[1], match[2], match[3])
    return f"(\\frac{{{value.numerator}}}{{{value.denominator}}})"


def _gcd(match: re.Match[str]) -> str:
    function = math.gcd if match[1] == "gcd" else math.lcm
    return f"({function(*map(int, match[2].split(',')))})"


class _Converter(_Latex2Sympy):
    """The library's tree walk with its unsafe or wrong steps replaced."""

    def expression(self, text: str) -> Any:
        top = self.create_parser(text).math()
        relation = top.set_elements_relation() or top.set_relation()
        elements = top.set_elements()
        if relation is not None or elements is None:
            raise Unparsable("not one expression")
        return self.convert_set_elements(elements)

    def parse(self, latex_str: str) -> Any:
        """The library comes back here with the text of arguments; its own version reads ``Number(str)``."""
        return self.expression(latex_str)

    def parse_number(self, text: str) -> sympy.Rational:
        return exact_number(text)

    def convert_atom(self, atom: Any) -> Any:
        if atom.number_subexpr():
            if atom.number_subexpr().subexpr():
                raise Unparsable("a base subscript")
            return exact_number(atom.number_subexpr().NUMBER().getText())
        if atom.E_NOTATION() or atom.PERCENT_NUMBER() or atom.VARIABLE() or atom.DIFFERENTIAL():
            return self._rare_atom(atom)
        return super().convert_atom(atom)

    def _rare_atom(self, atom: Any) -> Any:
        if atom.DIFFERENTIAL():  # "dx" is d times x where no integral is read
            letters = atom.DIFFERENTIAL().getText().replace(" ", "")
            if not letters.isalpha():
                raise Unparsable("a differential")
            return sympy.Mul(*(sympy.Symbol(letter) for letter in letters), evaluate=False)
        if atom.E_NOTATION():
            digits, _, exponent = atom.E_NOTATION().getText().upper().partition("E")
            return sympy.Mul(
                exact_number(digits), sympy.Pow(10, sympy.Integer(int(exponent)), evaluate=False), evaluate=False
            )
        raise Unparsable("a percentage or placeholder inside an expression")

    def convert_postfix_list(self, arr: Any, i: int = 0) -> Any:
        factors = [self.convert_postfix(postfix) for postfix in arr[i:]]
        texts = [postfix.getText() for postfix in arr[i:]]
        if not all(isinstance(factor, sympy.Expr) for factor in factors):
            raise Unparsable("a factor that is not a number or symbol")
        for at, (left, right) in enumerate(itertools.pairwise(texts)):
            part = _FRACTION.match(right) if _DIGITS.fullmatch(left) else None
            if part is not None and 0 < int(part[1]) < int(part[2]):
                if at or part.end() < len(right):
                    raise Unparsable("a mixed number that can be read in two ways")
                factors[:2] = [factors[0] + factors[1]]  # both rational: evaluated here, at once exact
            if left[-1].isdigit() and (right[0].isdigit() or right[0] == "."):
                raise Unparsable("two numbers side by side")
        return factors[0] if len(factors) == 1 else sympy.Mul(*factors, evaluate=False)

    def convert_frac(self, frac: Any) -> Any:
        above, below = self.convert_expr(frac.upper), self.convert_expr(frac.lower)
        if isinstance(above, sympy.Integer) and isinstance(below, sympy.Integer) and below != 0:
            return sympy.Rational(above, below)
        return sympy.Mul(above, sympy.Pow(below, -1, evaluate=False), evaluate=False)

    def convert_binom(self, binom: Any) -> Any:
        return sympy.binomial(self.convert_expr(binom.upper), self.convert_expr(binom.lower), evaluate=False)
