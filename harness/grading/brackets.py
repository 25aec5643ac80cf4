"""Where the brackets of an answer open and close: splitting outside them, and what one pair spans.

Mixed pairs such as ``[2,3)`` count as brackets, since intervals are written so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.grading.limits import Unparsable

OPEN, CLOSE = "([{", ")]}"
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\S)")


def split(text: str, separator: str) -> list[str]:
    """Pieces between separators outside all brackets; raises Unparsable where brackets do not match."""
    return split_any(text, (separator,))[0::2]


def split_any(text: str, separators: Sequence[str]) -> list[str]:
    """Pieces and the separators between them, in turn. Of two separators that fit, the first named is taken."""
    pieces: list[str] = []
    depth = start = i = 0
    firsts = {separator[0] for separator in separators}
    while i < len(text):
        char = text[i]
        if depth == 0 and char in firsts:
            found = next((s for s in separators if text.startswith(s, i) and not _continues(text, i, s)), None)
            if found is not None:
                pieces += (text[start:i], found)
                i += len(found)
                start = i
                continue
        if char in OPEN:
            depth += 1
        elif char in CLOSE:
            depth -= 1
            if depth < 0:
                raise Unparsable("a bracket closes that never opened")
        i += 1
    if depth:
        raise Unparsable("a bracket never closes")
    return [*pieces, text[start:]]


def spans(text: str) -> bool:
    """Whether the first bracket closes with the last character."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char in OPEN) - (char in CLOSE)
        if depth == 0:
            return i == len(text) - 1
    return False


def join_thousands(text: str) -> str:
    """``1,000`` outside brackets as ``1000``."""
    if not _THOUSANDS.search(text):
        return text
    depth, out = 0, []
    for piece in re.split(r"([(\[{)\]}])", text):
        depth += (piece in OPEN) - (piece in CLOSE) if len(piece) == 1 else 0
        out.append(piece if depth else _THOUSANDS.sub(lambda m: m[0].replace(",", ""), piece))
    return "".join(out)


def _continues(text: str, i: int, separator: str) -> bool:
    """Whether the command found at ``i`` is the beginning of a longer one (\\le in \\left, \\in in \\infty)."""
    end = i + len(separator)
    return separator[0] == "\\" and separator[-1].isalpha() and end < len(text) and text[end].isalpha()
