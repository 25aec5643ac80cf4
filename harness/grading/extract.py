"""From the text of a chain to the answer it states, or None.

The rules, first match wins: the last complete ``\\boxed{...}`` (or ``\\fbox``), ``<answer>...</answer>``, the last
"answer is ..." or "answer: ...", the last ``#### ...``, the last choice letter ``(B)`` near the end, a closing line
or sentence that ends in a formula or is a number. Each rule takes the last occurrence, since chains correct
themselves. All run in time linear in the text, whatever the text.
"""

from __future__ import annotations

import re

CHOICE_TAIL_CHARS = 200
"""A choice letter counts only this near the end: earlier ones are talk about the choices."""
CUE_ANSWER_CHARS = 1_000
"""How much of the line after "answer is" is read."""

_BOX = re.compile(r"\\f?box(?:ed)?\s*(?=[{\d])")
_TAG = re.compile(r"<answer>([^<]{1,1000})</answer>")
_CUE = re.compile(r"(?:(?-i:^A(?=:))|answer)\**\s{0,3}(?:is|:|=|(?=\$|\\[(\[]))\s{0,3}:?", re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r"####")
_CHOICE = re.compile(r"(?<![A-Za-z])\(([A-H])\)")
_CLOSING = re.compile(r"(?:\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])\s*\.?\s*", re.DOTALL)
_BARE_NUMBER = re.compile(r"[-+]?[\d.,]*\d\.?")
_OPENERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def extract_answer(text: str) -> str | None:
    """The answer stated in ``text``, as written there, or None where it states none."""
    for rule in (_boxed, _tagged, _after_cue, _after_hashes, _choice, _closing_formula):
        answer = rule(text)
        if answer is not None and answer.strip():
            return answer.strip()
    return None


def _boxed(text: str) -> str | None:
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    closing = _matching_braces(text)
    for box in reversed(boxes):
        start = box.end()
        if text[start] != "{":
            return text[start]  # TeX takes one token where there is no brace: \boxed 5
        end = closing.get(start)
        if end is not None and text[start + 1 : end].strip():
            return text[start + 1 : end]
    return None


def _matching_braces(text: str) -> dict[int, int]:
    """Opening position -> closing position, in one pass (a scan for each box would be quadratic)."""
    closing: dict[int, int] = {}
    stack: list[int] = []
    escaped = False
    for i, char in enumerate(text):
        if char == "\\":
            escaped = not escaped
            continue
        if not escaped:
            if char == "{":
                stack.append(i)
            elif char == "}" and stack:
                closing[stack.pop()] = i
        escaped = False
    return closing


def _last_end(pattern: re.Pattern[str], text: str) -> int | None:
    end = None
    for match in pattern.finditer(text):
        end = match.end()
    return end


def _after_cue(text: str) -> str | None:
    start = _last_end(_CUE, text)
    if start is None:
        return None
    rest = text[start : start + CUE_ANSWER_CHARS].lstrip(" *:\n")
    for opener, closer in _OPENERS:
        if rest.startswith(opener):
            end = rest.find(closer, len(opener))
            if end > 0:
                return rest[len(opener) : end]
    line = rest.split("\n", 1)[0]
    line = re.split(r"[.!;]\s", line + " ", maxsplit=1)[0]
    if re.match(r"[A-Za-z]{2,} ", line) and " is " in line:
        line = line.rsplit(" is ", 1)[1]  # "Final answer: the largest n is 34"
    return line.strip(" *.,")


def _tagged(text: str) -> str | None:
    tags = _TAG.findall(text)
    return tags[-1] if tags else None


def _after_hashes(text: str) -> str | None:
    start = _last_end(_HASHES, text)
    return None if start is None else text[start : start + CUE_ANSWER_CHARS].split("\n", 1)[0]


def _choice(text: str) -> str | None:
    letters = _CHOICE.findall(text[-CHOICE_TAIL_CHARS:])
    return f"({letters[-1]})" if letters else None


def _closing_formula(text: str) -> str | None:
    """The formula a chain ends with, or the number that is its last line; a cut-off chain has neither."""
    tail = text.rstrip()[-CUE_ANSWER_CHARS:]
    line = tail.rsplit("\n", 1)[-1].strip()
    if _BARE_NUMBER.fullmatch(line):
        return line
    last = None
    for match in _CLOSING.finditer(line if "$" in line or "\\)" in line else ""):
        last = match
    if last is None or last.end() != len(line):
        return None
    return last[1] or last[2] or last[3]
