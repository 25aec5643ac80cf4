"""Common answers decided without sympy: numbers, radicals, polynomials, complex numbers, and tuples and lists of them.

The class strings are those the sympy path gives for the same value (a test holds the two together on
random answers); whatever this file does not know for certain, it leaves to that path by returning None.
It imports no sympy, so the parent process stays light.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from harness.grading import terms
from harness.grading.assignment import resolved
from harness.grading.limits import Unparsable
from harness.grading.normalise import Normal, text_class
from harness.grading.policy import Policy
from harness.grading.render import alternative, render, set_string, whole
from harness.grading.structure import Node, is_inequality, parse
from harness.grading.terms import Terms, TooComplex

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_RATIONAL = re.compile(rf"([+-]?)({_NUMBER})(?:/(\d+))?")
_FRACTION = re.compile(rf"([+-]?)\\frac\{{([+-]?{_NUMBER})\}}\{{([+-]?{_NUMBER})\}}")
_MIXED = re.compile(r"([+-]?)(\d+)\\frac\{(\d+)\}\{(\d+)\}")
_BASED = re.compile(r"(-?)([0-9A-Z]+)_(?:\{(\d+)\}|(\d+))")
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline\{(\d+)\}")
_INFINITY = re.compile(r"([+-]?)\\infty")
_SUBSCRIPTED = r"[a-zA-Z]_(?:[0-9a-zA-Z]|\{[0-9a-zA-Z]+\})(?!_)"
_TOKEN = re.compile(
    rf" *(?:(?P<number>{_NUMBER})|(?P<command>\\[a-zA-Z]+)|(?P<name>{_SUBSCRIPTED})|(?P<letter>[a-zA-Z])"
    r"|(?P<sign>[-+*/^(){}\[\]]))"
)
_WORD = re.compile(r"[a-zA-Z]{5}")
_GREEK = frozenset("\\alpha \\beta \\gamma \\delta \\theta \\lambda \\mu \\phi \\omega".split())  # noqa: SIM905
_NOT_NAMES = frozenset("eEI")
"""Letters with a meaning of their own."""
_MAY_BE_FUNCTIONS = frozenset("fghFGHPQWT")
"""Letters that may name a function before a bracket."""
_CLOSE = {"(": ")", "{": "}", "[": "]"}
_MAX_TOKENS = 80
MAX_PLAIN_DIGITS = 100
"""Far below every limit on the digits of a number."""
_END = ""


@dataclasses.dataclass(frozen=True, slots=True)
class FastForm:
    """``class_id`` and ``also`` as in ``canonical.Form``."""

    class_id: str
    also: tuple[str, ...] = ()


def fast_form(normal: Normal, policy: Policy) -> FastForm | None:
    """The form of a common answer, or None where the sympy path must decide."""
    if normal.is_word:
        return FastForm(text_class(normal))
    if len(normal.text) <= MAX_PLAIN_DIGITS and normal.text.isascii() and normal.text.isdigit():
        return FastForm(normal.text.lstrip("0") or "0")  # most answers, so worth a line
    based = based_class(normal.text)
    if based is not None:
        return FastForm(based)
    try:
        top = resolved(parse(normal.text, policy), policy, _is_number)
        top = alternative(top, _leaf)
        if top.kind == "relation":
            difference = _difference(top)
            also = tuple(terms.terms_string(side) for side in terms.right_sides(difference))
            return FastForm(terms.equation_string(difference), also)
        if top.solution:
            children = [render(child, _leaf) for child in top.children]
            return FastForm(render(top, _leaf), (set_string(children),))
        return FastForm(whole(render(top, _leaf)))
    except (TooComplex, Unparsable):
        return None


def based_class(text: str) -> str | None:
    """The class of a number whose base is written: ``12_{10}`` is 12, ``11_2`` never that of its digits alone."""
    based = _BASED.fullmatch(text)
    if based is None or not any(char.isdigit() for char in based[2]):
        return None
    digits, base = based[2].lstrip("0") or "0", based[3] or based[4]
    signed = digits if digits == "0" else based[1] + digits
    return signed if base == "10" and digits.isdigit() else f"{signed}_{base}"


def _difference(node: Node) -> Terms:
    if is_inequality(node) or any(side.kind != "leaf" for side in node.children):
        raise TooComplex
    first, last = (read_terms(side.text) for side in node.children)
    return terms.polynomial(terms.add(first, terms.scaled(last, Fraction(-1))))


def _leaf(node: Node) -> str:
    if node.kind != "leaf":
        raise TooComplex
    value = number(node.text)
    if value is not None:
        return terms.terms_string(terms.checked(terms.rational(value)))
    infinity = _INFINITY.fullmatch(node.text)
    if infinity:
        return "-oo" if infinity[1] == "-" else "oo"
    return terms.terms_string(read_terms(node.text))


def _is_number(text: str) -> bool:
    if number(text) is not None or _INFINITY.fullmatch(text):
        return True
    return all(name == "pi" for key in read_terms(text) for name, _ in key[2])


def number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction or mixed number (1.5 is 3/2), or None."""
    match = _RATIONAL.fullmatch(text)
    if match:
        return _quotient(match[1], match[2], match[3] or "1")
    match = _FRACTION.fullmatch(text)
    if match:
        return _quotient(match[1], match[2], match[3])
    match = _MIXED.fullmatch(text)
    if match and 0 < int(match[3]) < int(match[4]):
        value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return -value if match[1] == "-" else value
    match = _REPEATING.fullmatch(text)
    if match:
        value = repeating(match[2], match[3], match[4])
        return -value if match[1] == "-" else value
    return None


def repeating(whole: str, fixed: str, period: str) -> Fraction:
    """The value of ``whole.fixed`` and then ``period`` without end."""
    below = (10 ** len(period) - 1) * 10 ** len(fixed)
    return int(whole or "0") + Fraction(int(fixed or "0"), 10 ** len(fixed)) + Fraction(int(period), below)


def read_terms(text: str) -> Terms:
    """The value of a polynomial with radicals, pi and i; raises TooComplex for any other text."""
    if _WORD.search(re.sub(r"\\[a-zA-Z]+", " ", text)):
        raise TooComplex
    return _Reader(text).read()


class _Reader:
    """Recursive descent over the tokens; each method reads what it is named for and moves past it."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None or len(self._tokens) >= _MAX_TOKENS:
                raise TooComplex
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        self._at = 0

    def read(self) -> Terms:
        value = self._sum()
        if self._at != len(self._tokens):
            raise TooComplex
        return value

    @property
    def _next(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else _END

    def _take(self, text: str) -> None:
        if self._next != text:
            raise TooComplex
        self._at += 1

    def _sum(self) -> Terms:
        negative = self._next == "-"
        if self._next in ("+", "-"):
            self._at += 1
        value = self._product()
        value = terms.scaled(value, Fraction(-1)) if negative else value
        while self._next in ("+", "-"):
            sign = Fraction(1 if self._next == "+" else -1)
            self._at += 1
            value = terms.add(value, terms.scaled(self._product(), sign))
        return value

    def _product(self) -> Terms:
        value = self._factors()
        while self._next in ("*", "\\cdot", "\\times", "/"):
            divides = self._next == "/"
            self._at += 1
            if divides:
                value = terms.divide(value, self._factor())
                if self._starts_factor():  # 1/2x: left to the other path
                    raise TooComplex
            else:
                value = terms.multiply(value, self._factors())
        return value

    def _factors(self) -> Terms:
        """Factors side by side; a number can only be the first."""
        value = self._factor()
        after_number = self._tokens[self._at - 1][0] == "number"
        while self._starts_factor():
            if self._tokens[self._at][0] == "number" or (after_number and self._next == "\\frac"):
                raise TooComplex
            value = terms.multiply(value, self._factor())
            after_number = False
        return value

    def _starts_factor(self) -> bool:
        if self._at == len(self._tokens):
            return False
        kind, text = self._tokens[self._at]
        return (
            kind in ("number", "letter", "name")
            or (kind == "command" and text not in ("\\cdot", "\\times"))
            or text in _CLOSE
        )

    def _factor(self) -> Terms:
        base = self._base()
        if self._next != "^":
            return base
        self._at += 1
        if self._next == "{":
            self._at += 1
            negative = self._next == "-"
            self._at += negative
            exponent = self._integer()
            self._take("}")
        else:
            negative, exponent = False, self._integer()
        if self._next == "^":
            raise TooComplex
        return terms.power(base, -exponent if negative else exponent)

    def _integer(self) -> int:
        if not self._next.isdigit() or len(self._next) > 5:
            raise TooComplex
        value = int(self._next)
        self._at += 1
        return value

    def _base(self) -> Terms:
        if self._at == len(self._tokens):
            raise TooComplex
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return terms.rational(Fraction(text))
        if kind == "name":
            return terms.name(re.sub(r"[{}]", "", text))
        if kind == "letter":
            if text == "i":
                return terms.imaginary()
            if text in _NOT_NAMES or (text in _MAY_BE_FUNCTIONS and self._next == "("):
                raise TooComplex
            return terms.name(text)
        if text in _CLOSE:
            value = self._sum()
            self._take(_CLOSE[text])
            return value
        if text == "\\frac":
            above = self._group()
            return terms.divide(above, self._group())
        if text == "\\sqrt":
            return terms.root(_as_rational(self._group()))
        if (text == "\\pi" or text in _GREEK) and self._next != "(":
            return terms.name(text[1:])
        raise TooComplex

    def _group(self) -> Terms:
        self._take("{")
        value = self._sum()
        self._take("}")
        return value


def _as_rational(value: Terms) -> Fraction:
    if not value:
        return Fraction(0)
    if len(value) != 1 or (1, 0, ()) not in value:
        raise TooComplex
    return value[(1, 0, ())]


def _quotient(sign: str, top: str, bottom: str) -> Fraction | None:
    below = Fraction(bottom)
    if below == 0:
        return None
    value = Fraction(top) / below
    return -value if sign == "-" else value
