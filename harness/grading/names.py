"""What can only be the name of a quantity: ``x``, ``a_{n}``, ``f(x)``, ``|AB|``, ``(p,q)``, ``S_1:S_2``."""

from __future__ import annotations

import re

from harness.grading.brackets import spans, split

_VARIABLE = r"(?:\\Delta ?)?\\?[a-zA-Z]+'?(?:_(?:[a-zA-Z0-9]|\\[a-z]+|\{[^{}]*\}))?"
_NAME = re.compile(
    rf"{_VARIABLE}(?:\([a-zA-Z](?:,[a-zA-Z])*\))?"
    r"|[A-Z]{2,3}|\\frac\{[A-Z]{2}\}\{[A-Z]{2}\}|\|[a-zA-Z]+\||\\(?:angle|overline|triangle)[ {][a-zA-Z]+\}?"
)
_QUOTIENT = re.compile(rf"\\frac\{{{_VARIABLE}\}}\{{{_VARIABLE}\}}")
_NUMBERS = ("\\pi", "\\infty", "e", "i")


def is_name(text: str) -> bool:
    """Whether ``text`` can only name a quantity, or several in brackets or in a ratio."""
    if _NAME.fullmatch(text):
        return text not in _NUMBERS
    if text.startswith("(") and text.endswith(")") and spans(text):
        return all(is_name(part) for part in split(text[1:-1], ","))
    return text.count(":") > 0 and all(_NAME.fullmatch(part) for part in text.split(":"))


def is_quotient(text: str) -> bool:
    """Whether ``text`` is one name over another: a ratio that a number can be the value of."""
    return _QUOTIENT.fullmatch(text) is not None


def is_unknown(text: str) -> bool:
    """Whether ``text`` is one plain unknown, as an equation may be solved for."""
    return re.fullmatch(r"\\?[a-zA-Z]+(?:_.*)?", text) is not None and is_name(text)


def is_opaque(text: str) -> bool:
    """Whether ``text`` in a relation is one unknown, as f(x) and |AB| are; |x| is a value to be computed from x."""
    return is_name(text) and not is_unknown(text) and not re.fullmatch(r"\|[a-zA-Z]\|", text)
