"""A small reader of common LaTeX expressions, about fifty times as fast as the full grammar of ``latex.py``.

It builds the tree that the full grammar builds, or returns None wherever it is not sure to: whatever is rare, can be
read in two ways, or is malformed. A test holds the two together on reference answers and on random expressions.
Recursive descent: sums of products of signed factors; juxtaposition binds tighter than the division sign.
"""

from __future__ import annotations

import re

import sympy

from harness.grading.evaluate import FUNCTION_NAMES

MAX_TOKENS = 400
MAX_DEPTH = 40
"""Braces, brackets and signs inside each other; beyond, the full grammar answers."""

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|\\([a-zA-Z]+)|([a-zA-Z])|([-+*/^(){}\[\]!]))")
_TIMES = {"*", "\\cdot", "\\times"}
_OVER = {"/", "\\div"}
_FUNCTIONS = {
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{"arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "ln": sympy.log},
}
_ENDS_ARGUMENT = {"", "+", "-", ")", "}"}
_WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|(?<![\\a-zA-Z])(?:ln|lg|or|in|pi|oo|to)(?![a-zA-Z])|d")
"""Letters side by side that the full grammar may take for one name, and d, which it may take for a differential."""
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_SIDE_BY_SIDE = re.compile(r"[\d.]\s+[\d.]|\d\.(?!\d)|\d\s*[eE]")


class _Unsure(Exception):
    pass


def read(text: str) -> sympy.Expr | None:
    """The unevaluated tree of ``text``, or None where the full grammar must read it."""
    if _SIDE_BY_SIDE.search(text) or _WORDS.search(_COMMAND.sub("\\\\", text)):
        return None
    tokens = _tokens(text)
    if tokens is None:
        return None
    try:
        reader = _Reader(tokens)
        tree = reader.sum()
    except _Unsure:
        return None
    return tree if reader.next == "" else None


def _tokens(text: str) -> list[str] | None:
    tokens: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) == MAX_TOKENS:
            return None
        at = match.end()
        tokens.append(match[1] or (match[2] and "\\" + match[2]) or match[3] or match[4])
    return [*tokens, ""]


class _Reader:
    """``next`` is the token to read; the last one is the empty string."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    @property
    def next(self) -> str:
        return self._tokens[self._at]

    def _take(self) -> str:
        token = self._tokens[self._at]
        if token == "":
            raise _Unsure
        self._at += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise _Unsure

    def sum(self) -> sympy.Expr:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Unsure
        total = self._term()
        while self.next in ("+", "-"):
            minus = self._take() == "-"
            term = self._term()
            total = sympy.Add(total, _negative(term) if minus else term, evaluate=False)
        self._depth -= 1
        return total

    def _term(self) -> sympy.Expr:
        product = self._signed()
        while self.next in _TIMES or self.next in _OVER:
            over = self._take() in _OVER
            factor = self._signed()
            product = sympy.Mul(product, _inverse(factor) if over else factor, evaluate=False)
        return product

    def _signed(self) -> sympy.Expr:
        if self.next in ("+", "-"):
            minus = self._take() == "-"
            if self.next in ("+", "-"):
                raise _Unsure
            value = self._juxtaposed()
            return _negative(value) if minus else value
        return self._juxtaposed()

    def _juxtaposed(self) -> sympy.Expr:
        factors = [self._factor()]
        while self._starts_factor():
            if self._tokens[self._at - 1][-1].isdigit() and self.next[0] in ".0123456789":
                raise _Unsure
            if self._tokens[self._at - 1].isdigit() and self.next == "\\frac":
                raise _Unsure  # a mixed number
            factors.append(self._factor())
        return factors[0] if len(factors) == 1 else sympy.Mul(*factors, evaluate=False)

    def _starts_factor(self) -> bool:
        token = self.next
        return token != "" and token not in "+-*/^)}]![" and token not in _TIMES and token not in _OVER

    def _factor(self) -> sympy.Expr:
        base = self._atom()
        if self.next == "!":
            self._take()
            base = sympy.factorial(base, evaluate=False)
        elif self.next == "^":
            self._take()
            base = sympy.Pow(base, self._script(), evaluate=False)
        if self.next in ("!", "^"):
            raise _Unsure
        return base

    def _script(self) -> sympy.Expr:
        """An exponent: a group, a letter or one digit."""
        if self.next == "{":
            return self._group()
        token = self._take()
        if len(token) != 1 or not token.isalnum():
            raise _Unsure
        return sympy.Integer(int(token)) if token.isdigit() else sympy.Symbol(token)

    def _group(self, opening: str = "{", closing: str = "}") -> sympy.Expr:
        self._expect(opening)
        value = self.sum()
        self._expect(closing)
        return value

    def _atom(self) -> sympy.Expr:
        token = self.next
        if token[:1].isdigit() or token[:1] == ".":
            return _number(self._take())
        if token.isalpha():
            self._take()
            if self.next == "(" and token in FUNCTION_NAMES:
                raise _Unsure
            return sympy.Symbol(token)
        return self._group("(", ")") if token == "(" else self._command()

    def _command(self) -> sympy.Expr:
        name = self._take()[1:]
        if name in ("pi", "infty"):
            if self.next == "(":
                raise _Unsure
            return sympy.pi if name == "pi" else sympy.oo
        if name == "frac":
            above = self._group()
            return sympy.Mul(above, _inverse(self._group()), evaluate=False)
        if name == "sqrt":
            degree = self._group("[", "]") if self.next == "[" else sympy.Integer(2)
            return sympy.Pow(self._group(), _inverse(degree), evaluate=False)
        if name == "binom":
            above = self._group()
            return sympy.binomial(above, self._group(), evaluate=False)
        if name not in _FUNCTIONS:
            raise _Unsure
        return self._applied(name)

    def _applied(self, name: str) -> sympy.Expr:
        """A function of brackets or of one number, letter or fraction, with nothing behind it that it could take in."""
        if self.next not in ("(", "{", "\\frac", "\\pi") and not self.next.isalnum():
            raise _Unsure
        argument = self._group() if self.next == "{" else self._atom()
        if self.next not in _ENDS_ARGUMENT:
            raise _Unsure
        return _FUNCTIONS[name](argument, evaluate=False)


def _number(token: str) -> sympy.Rational:
    whole, _, part = token.partition(".")
    return sympy.Rational(int(whole + part), 10 ** len(part)) if part else sympy.Integer(int(whole))


def _negative(value: sympy.Expr) -> sympy.Expr:
    return sympy.Mul(sympy.Integer(-1), value, evaluate=False)


def _inverse(value: sympy.Expr) -> sympy.Expr:
    return sympy.Pow(value, sympy.Integer(-1), evaluate=False)
