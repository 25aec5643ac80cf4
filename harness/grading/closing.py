"""What the last words of a chain state, where nothing marks the answer: a closing formula, number or choice letter.

A sentence states what its last sum comes to (``3 + 4 = 7 pies in 2 days``), or else the last value in it: a formula
between dollars or brackets, a plain number, a pair, a choice ``(B)``. It must be a finished one, since a chain that
was cut off states nothing, and no question. ``$`` is money where prose follows the number. Of a chain of equalities
the last side counts. Values joined by commas, "and" or "or" are parts of one answer. Everything here looks at no
more than ``TAIL_CHARS`` characters.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

TAIL_CHARS = 1_000
"""How much of the end of a chain, or of the text after "answer is", is read."""
GAP_CHARS = 60
"""Two values further apart than this are never parts of one answer."""

_MIXED = r"[0-9]{1,9} (?:and )?[0-9]{1,9}/[0-9]{1,9}"
_NUMBER = rf"(?:{_MIXED}|[0-9]+(?:,[0-9]{{3}})*(?![0-9])(?:[.:][0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_ATOM = rf"[-−]?\$?\(?[-−]?\$?(?:{_NUMBER}(?:[eE][+-]?[0-9]+)?[A-Za-z²³€%°]*|[A-Za-z](?![A-Za-z']))\)?"
_PLAIN = re.compile(
    r"(?<![A-Za-z0-9_#^\\.])(?:"
    r"(?P<tuple>[(\[]\s*[-−]?[0-9.][^()\[\]$]{0,100},[^()\[\]$]{0,100}[)\]])"
    r"|\((?P<choice>[A-H])\)"
    rf"|(?P<run>{_ATOM}(?:\s*(?:[-−+*/^=×·÷]|[<>]=?|\*\*|(?<=\s)x(?=\s))\s*{_ATOM})*)"
    r")"
)
_CHOICE = re.compile(r"\([A-H]\)")
_ORDINAL = re.compile(r"(?<=[0-9])(?:st|nd|rd|th)\b")
_EQUALS = re.compile(r"(?<![<>!:])=")
_SUM = re.compile(r"[^A-Za-wyz=]*[0-9][^A-Za-wyz=]*(?<![<>])=.*", re.DOTALL)
_SYMBOL = re.compile(r"\s*\\?[A-Za-z]+(?:_\{?\w\}?)?\s*")
_DELIMITER = re.compile(r"\\\\|\\\$|\$\$|\$|\\\(|\\\[")
_CLOSERS = {
    "$$": re.compile(r"\$\$"),
    "$": re.compile(r"(?<!\\)\$"),
    r"\(": re.compile(r"\\\)"),
    r"\[": re.compile(r"\\\]"),
}
_TEXT_GROUP = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}")
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}")
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[A-Z$\\(])")
_LATE_CLAUSE = re.compile(r"\b(?:when|if|where)\b[^,]*$")
_STATED_AT_END = re.compile(r"(?:\b(?:is|are|was|equals|it's|that's)|^(?:[A-Za-z]+:?\s+){0,2})\s*$")
_ONE_NUMBER = re.compile(r"-?\$?[0-9.,/: ]*[0-9][A-Za-z²³€%°]*")
_UNITS = re.compile(r"(?:\s*[A-Za-z²³€%°/]+){0,3}\s*")
_ALIGNED = re.compile(r"\\(?:begin|end)\{(?:align|aligned|gather|gathered|split|equation|eqnarray)\*?\}")
_MARKUP = re.compile(r"\\(?:q?quad|text|mbox|mathrm|textbf|[,;:! ()\[\]])|[${}\\&~*]|\s+")
_LABEL = r"(?:\s*(?:[A-Za-z](?:_?\w{1,3})?\s*=|(?:[Pp]art\s*)?\(?[a-z]\)\s*:?))?\s*"
_JOIN = re.compile(rf"\s*(?:(?:(?:for\s[\w ()]{{1,20}}?|[A-Za-z²³]{{1,12}})\s)?\s*[,;]?\s*(?:and|or)\b|[,;])?{_LABEL}")


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """A value stated in a text: where it begins and ends there, delimiters included, and what it is."""

    start: int
    end: int
    text: str


def closing_answer(text: str) -> str | None:
    """What the end of ``text`` states, as written there, or None."""
    tail = text.rstrip().rstrip("*_ ")[-TAIL_CHARS:]
    display = _closing_display(tail)
    if display:
        return display
    line = tail.rsplit("\n", 1)[-1].strip(" \t*_")
    sentence = line[max((end.end() for end in _SENTENCE_END.finditer(line)), default=0) :]
    if sentence.endswith(("?", "...")):
        return None
    values = sentence_values(sentence)
    if not values:
        return None
    last = values[-1]
    rest = sentence[last.end :]
    finished = sentence.endswith((".", "!")) or (not rest and sentence[last.end - 1] in "$)]")
    return sentence_answer(sentence) if finished or _is_whole_number(sentence, last) else None


def _is_whole_number(sentence: str, value: Value) -> bool:
    """Whether an unfinished sentence says a number and that no more of it was to come: "is 5", "= 5 apples"."""
    rest = sentence[value.end :]
    told = _STATED_AT_END.search(sentence[: value.start]) or (rest and "=" in sentence[value.start : value.end])
    return bool(told and _ONE_NUMBER.fullmatch(value.text) and _UNITS.fullmatch(rest))


def sentence_answer(sentence: str) -> str | None:
    """The last value in ``sentence``, with the values it is joined to; None where there is none."""
    values = sentence_values(sentence)
    late = _LATE_CLAUSE.search(sentence)  # "is 4 when x = 2" states 4
    if late is not None:
        values = [value for value in values if value.end <= late.start()] or values
    told = [value for value in values if not _SYMBOL.fullmatch(value.text)]
    values = told or values  # "there are $2$ values for $B$" states 2
    sums = [i for i, value in enumerate(values) if _SUM.fullmatch(sentence, value.start, value.end)]
    values = values[: sums[-1] + 1] if sums else values  # "3 + 4 = 7 pies in 2 days" states 7
    return joined(sentence, values) if values else None


def leading_answer(text: str) -> Value | None:
    """The formula that ``text`` begins with, and those joined to it; None where it begins with none."""
    found = _formulas(text[:TAIL_CHARS])
    if not found or found[0].start != 0:
        return None
    last = 0
    while last + 1 < len(found) and is_join(text[found[last].end : found[last + 1].start]):
        last += 1
    return Value(0, found[last].end, joined(text, found[: last + 1]))


def joined(text: str, values: list[Value]) -> str:
    """The last of ``values`` after the values directly before it that are parts of the same answer."""
    first = len(values) - 1
    while first > 0 and is_join(text[values[first - 1].end : values[first].start]):
        first -= 1
    return listed(value.text for value in values[first:])


def listed(values: Iterable[str]) -> str:
    """Parts of one answer as a list; a part that is said twice counts once."""
    parts = list(dict.fromkeys(value.strip() for value in values))
    if len(parts) == 2 and _CHOICE.fullmatch(parts[0]):
        return " ".join(parts)  # (B) and what it stands for
    return ", ".join(parts)


def is_join(gap: str) -> bool:
    """Whether ``gap`` joins two values to parts of one answer: nothing, or a comma, "and" or "or".

    Before "and" a unit or "for part (a)" may stand, after it a label (``y =``, ``(b)``). All else
    (``then``, ``no``, ``=``, a full stop, a new paragraph) makes the second value a later one.
    """
    if len(gap) > GAP_CHARS or "\n\n" in gap:
        return False
    return _JOIN.fullmatch(_MARKUP.sub(" ", gap)) is not None


def sentence_values(sentence: str) -> list[Value]:
    """The formulas, plain numbers, pairs and choice letters of a sentence, in order."""
    values = _formulas(sentence)
    blank = list(sentence)
    for value in values:
        blank[value.start : value.end] = "\0" * (value.end - value.start)
    for match in _PLAIN.finditer("".join(blank)):
        if (plain := _plain_value(match)) is not None:
            values.append(plain)
    return sorted(values, key=lambda value: value.start)


def _plain_value(match: re.Match[str]) -> Value | None:
    text = match[0]
    if match["run"]:
        text = _ORDINAL.sub("", _EQUALS.split(text)[-1].strip()).replace(" and ", " ")
        if not re.search("[0-9]", text):
            return None
        if text.count("(") != text.count(")"):
            text = text.strip("()")
    return Value(match.start(), match.end(), text)


def _formulas(text: str) -> list[Value]:
    found: list[Value] = []
    at = 0
    while (opener := _DELIMITER.search(text, at)) is not None:
        at = opener.end()
        closer = _CLOSERS[opener[0]].search(text, at) if opener[0] in _CLOSERS else None
        if closer is None:
            continue
        content = text[at : closer.start()]
        stated = _last_side(_last_row(content))
        if not stated or (opener[0] == "$" and _is_money(content, text[closer.end() : closer.end() + 1])):
            continue
        found.append(Value(opener.start(), closer.end(), stated))
        at = closer.end()
    return found


def _is_money(content: str, after: str) -> bool:
    """Whether ``$content$`` is an amount of dollars, prose, and the next amount's dollar sign."""
    if not content[0].isdigit():
        return False
    return after.isdigit() or _PROSE.search(_TEXT_GROUP.sub("", content)) is not None


def _closing_display(tail: str) -> str:
    """The displayed formula at the end of ``tail``, or nothing; its opening may lie many lines up."""
    tail = tail.rstrip(" .,\n")
    for opener, closer in ((r"\[", r"\]"), ("$$", "$$")):
        if tail.endswith(closer):
            start = tail.rfind(opener, 0, len(tail) - len(closer))
            return _last_side(_last_row(tail[start + len(opener) : -len(closer)])) if start >= 0 else ""
    aligned = list(_ALIGNED.finditer(tail))
    if len(aligned) >= 2 and aligned[-1].end() == len(tail):
        return _last_side(_last_row(tail[aligned[-2].start() :]))
    return ""


def _last_row(content: str) -> str:
    """The last row of an aligned derivation; anything else as it is."""
    inner = _ALIGNED.sub("", content)
    if inner == content or "\\begin" in inner:
        return content.strip().rstrip(".,;")
    rows = [row for row in inner.split("\\\\") if row.strip()]
    return rows[-1].replace("&", "").strip().removeprefix("=").rstrip(".,; \n") if rows else ""


def _last_side(formula: str) -> str:
    """``c`` of ``a = b = c``, and of ``a = c`` where no unknown stands in ``a``; else the formula."""
    sides: list[str] = []
    depth = start = 0
    for i, char in enumerate(formula):
        depth += (char in "{([") - (char in "})]")
        if depth == 0 and _EQUALS.match(formula, i):
            sides.append(formula[start:i])
            start = i + 1
    last = formula[start:].strip()
    known = sides and not re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", sides[0]))
    return last if last and (len(sides) > 1 or known) else formula.strip()
