"""Degree signs: in the argument of a trigonometric function they are part of its value, elsewhere they are a unit."""

from __future__ import annotations

import re

from harness.grading.brackets import CLOSE, OPEN

_DEGREE = r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z]))"
_DEGREES = re.compile(rf"\s*{_DEGREE}")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])\s*(?:\^\s*(?:\{[^{}]*\}|\d)\s*)?")
_TERM = re.compile(rf"-?[0-9.]*\s*(?:\\?[a-zA-Z]+\s*)?(?={_DEGREE})")


def without_degrees(text: str) -> str:
    """``text`` without its degree signs."""
    return _DEGREES.sub("", text)


def degrees_in_functions(text: str) -> str:
    """``text`` with degrees in radians where a function takes them: ``\\sin 30^\\circ``, ``\\cos(x+10^\\circ)``."""
    if _DEGREES.search(text) is None:
        return text
    out: list[str] = []
    end = 0
    for function in _FUNCTION.finditer(text):
        if function.start() < end:
            continue
        stop = _argument_end(text, function.end())
        argument = text[function.end() : stop]
        radians = _DEGREES.sub(r"\\cdot\\frac{\\pi}{180}", argument)
        if radians != argument:
            out += (text[end : function.end()], f"({radians})")
            end = stop
    return "".join(out) + text[end:]


def _argument_end(text: str, start: int) -> int:
    """Where the argument at ``start`` ends: a bracket or fraction with its degree sign, or a term that has one."""
    at = start
    if text.startswith("\\frac", at):
        at = _bracket_end(text, _bracket_end(text, at + len("\\frac")))
    elif text[at : at + 1] in tuple(OPEN):
        at = _bracket_end(text, at)
    elif (term := _TERM.match(text, at)) is not None:
        at = term.end()
    sign = _DEGREES.match(text, at)
    return sign.end() if sign else at


def _bracket_end(text: str, at: int) -> int:
    """The end of the bracket that opens at ``at`` (spaces before it allowed); ``at`` where none does."""
    depth = 0
    for i in range(at, len(text)):
        if depth == 0 and text[i] == " ":
            continue
        depth += (text[i] in OPEN) - (text[i] in CLOSE)
        if depth <= 0:
            return i + 1 if text[i] in CLOSE else at
    return at
