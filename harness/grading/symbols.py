"""Names that the LaTeX grammar cannot read as one symbol, behind single letters that it can.

``R_{\\odot}``, ``\\hbar`` and ``F_{n-1}`` each become an unused letter before the text is parsed and are
themselves again when the tree is evaluated, so a subscript is never dropped and never multiplied out.
``E`` is a name too; the tree would print it as Euler's number.
"""

from __future__ import annotations

import re

from harness.grading.limits import Unparsable

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi|"
    "varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega"
)
_SUBSCRIPT = r"_(?:([0-9a-zA-Z]|\\[a-zA-Z]+)|\{([^{}]*)\})"
_NAME = re.compile(
    rf"\\(?:({_GREEK})(?![a-zA-Z])|(hbar|ell)(?![a-zA-Z])|[a-zA-Z]+)|(?<![0-9A-Z]_)([a-zA-Z])(?={_SUBSCRIPT})|(?<!_)(E)"
)
_TAIL = re.compile(_SUBSCRIPT)
_LETTERS = "KLMRUVXYZABCDJkmpqrstuvwxyzabcjln"
"""Letters that stand for nothing of their own in the grammar: no e, i, d, and no usual name of a function."""


def hide_names(text: str) -> tuple[str, dict[str, str]]:
    """``text`` with a letter for each such name, and what each letter stands for."""
    if "_" not in text and "\\hbar" not in text and "\\ell" not in text and "E" not in text:
        return text, {}
    unused = [letter for letter in _LETTERS if letter not in text]
    letters: dict[str, str] = {}
    out: list[str] = []
    end = 0
    for match in _NAME.finditer(text):
        if match.start() < end:
            continue
        base = match[1] or match[2] or match[3]
        tail = _TAIL.match(text, match.end()) if base else None
        if (base is None and match[6] is None) or (match[1] and tail is None):
            continue
        if tail is not None:
            index = (tail[1] or tail[2]).replace("\\", "").strip()
            name = f"{base}_{index}" if index.isalnum() else f"{base}_{{{index}}}"
        else:
            name = base or f"{match[6]}_"
        if name not in letters:
            if not unused:
                raise Unparsable("more names than letters")
            letters[name] = unused.pop(0)
        out += (text[end : match.start()], f" {letters[name]} ")
        end = tail.end() if tail else match.end()
    return "".join(out) + text[end:], {letter: name for name, letter in letters.items()}
