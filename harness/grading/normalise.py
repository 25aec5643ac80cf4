"""The surface of an answer made uniform, so that every later step sees one spelling.

Nothing here knows mathematics: dollar signs, spacing and sizing commands, words, units and the many
spellings of one command go; what stays is LaTeX without spaces (one space where two tokens
would otherwise run together). Every pattern is linear in its input. What is dropped is decided by ``Policy``.
"""

from __future__ import annotations

import dataclasses
import re

from harness.grading.angles import degrees_in_functions, without_degrees
from harness.grading.brackets import join_thousands
from harness.grading.policy import Policy
from harness.grading.spelling import collapsed, is_one_group, uniform_characters, uniform_commands, without_spacing
from harness.grading.units import CURRENCIES, DEGREE, Unit, changes_the_value, drop_tail, read_unit, scale_words


@dataclasses.dataclass(frozen=True, slots=True)
class Normal:
    """``text`` is the uniform spelling; ``is_word`` marks an answer in words (``even``, a choice letter).

    ``unit``, ``percent`` and ``choice`` (the letter in ``(C) 12``) are what was dropped and ``matches`` may need.
    """

    text: str
    is_word: bool
    unit: Unit | None = None
    percent: bool = False
    choice: str = ""


_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_CURRENCY = re.compile(r"\\\$|[€£]")
_MATH_SHIFT = re.compile(r"\$|(?<!\\)\\[()\[\]]")
_WRAPPED = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|mathbf|textit|mathit|rm|operatorname|textrm|textnormal|hbox)\*?\s*\{([^{}]*)\}"
)
_BOX = re.compile(r"\\(?:begin)?f?box(?:ed)?\s*\{")
_PERCENT = re.compile(r"\\(?:text|mbox)\s*\{\s*(?:percent|pct|\\?%)\s*\}|\\?%|(?<=[\d}\s])\s?(?:percent|pct)\b")
_NEXT_EQUATION = re.compile(r"(=[^=,;\\]*(?:\\(?!q?quad)[^=,;\\]*)*)\\q?quad\s*(?=[a-zA-Z](?:_\w)?\s*=)")
"""x = 1 \\quad y = 2: a wide space parts two equations."""
_GROUPED = re.compile(r"(?<=\d)(?:,\s*\\!\s*|\{,\}\s*|\\,\s*|\\!\s*)(?=\d{3}(?!\d))")
_SPACED_GROUPS = re.compile(r"(?<![\d.,/])(\d{1,3}(?: \d{3})+)(?![\d,/])")
_CHOICE_VALUE = re.compile(
    r"(?:\(?\b([A-H])\)\s*[:.]?|([a-hA-H])\.)\s*(?=[\d\\(\[{$.a-z-])(?!\\(?:cup|cap|cdot|times|in)\b)(.+)", re.DOTALL
)
_CHOICE = re.compile(r"\(?[A-H]\)")
_JOIN = re.compile(r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?:(?![a-zA-Z])|(?=[a-zA-Z]\([a-z]\)\s*=))\s*")
_WORDS = re.compile(r"[A-Za-z]+(?:[ ',.\-]{1,2}[A-Za-z]+)*")
_FUNCTION_NAMES = "sin cos tan cot sec csc sinh cosh tanh log ln exp gcd lcm arcsin arccos arctan"
_FUNCTIONS = {name: name for name in _FUNCTION_NAMES.split()} | {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_BASE_NAMES = "two three four five six seven eight nine ten eleven twelve"
_BASES = {name: str(base) for base, name in enumerate(_BASE_NAMES.split(), 2)}
_UNIT_MARK = "\x01"
_UNIT_DROP = re.compile(r"\s*\x01([^\x02]*)\x02(?:\s*\^\s*(?:\{\s*([0-9])\s*\}|([0-9])))?\s*(?=$|[,;)\]}])")


def normalise(answer: str, policy: Policy) -> Normal:
    """One spelling for ``answer``; idempotent enough that golds and answers meet in it."""
    if _PLAIN_NUMBER.fullmatch(answer):
        return Normal(answer, False)
    s = _unbox(uniform_characters(answer))
    while is_one_group(s):
        s = s[1:-1].strip()
    s = without_spacing(_NEXT_EQUATION.sub(r"\1, ", _GROUPED.sub("", s)))
    unit: Unit | None = None
    if policy.missing_currency:
        signs = _CURRENCY.findall(s)
        unit = CURRENCIES.get(signs[0]) if len(signs) == 1 else None
        s = _CURRENCY.sub("", s)
    s = _MATH_SHIFT.sub("", s).strip().rstrip(".,;").removeprefix(r"\approx").strip()
    words = _as_words(s)
    if words is not None:
        return Normal(words, True)
    choice = ""
    if policy.value_after_choice:
        choice, s = _value_after_choice(s)
        words = _as_words(s) if choice else None
        if words is not None:
            return Normal(words, True, choice=choice)
    percent = policy.missing_percent and _PERCENT.search(s) is not None
    if percent:
        s = _PERCENT.sub("", s)
    s = scale_words(s)
    s, wrapped_unit = _drop_wrappers(s, policy)
    words = _as_words(s, wrapped=False)
    if words is not None:
        return Normal(words, True)
    s = degrees_in_functions(s)
    if policy.missing_degrees and (plain := without_degrees(s)) != s:
        s, unit = plain, unit or DEGREE
    if policy.thousands_commas:
        s = join_thousands(_SPACED_GROUPS.sub(lambda m: m[1].replace(" ", ""), s))
    s = re.sub(r",\s*,", ",", _JOIN.sub(",", s))
    s, tail_unit = drop_tail(s, policy)
    return Normal(uniform_commands(s), False, unit or wrapped_unit or tail_unit, percent, choice)


def text_class(normal: Normal) -> str:
    """The class of an answer compared as text."""
    text = normal.text.lower() if normal.is_word else normal.text
    return "text:" + re.sub(r"\s+", "", text).rstrip(".,;\\")


def _unbox(s: str) -> str:
    match = _BOX.match(s)
    if match is None:
        return s
    return s[match.end() : -1] if s.endswith("}") and s.count("{") == s.count("}") else s[match.end() :]


def _as_words(s: str, wrapped: bool = True) -> str | None:
    """The words of an answer that is all words, lower-cased, or None. Single letters are words: a variable
    and a choice are told apart by the reference alone, and both compare as text."""
    inner = _WRAPPED.sub(lambda m: f" {m[1]} ", s) if wrapped else s
    has_wrapper = inner != s
    inner = inner.strip().rstrip(".").strip()
    single = re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", inner)
    if single:
        return single[1].lower()
    inner = re.sub(r"\s+", " ", inner)
    if not _WORDS.fullmatch(inner):
        return None
    longest = max((len(w) for w in re.findall(r"[A-Za-z]+", inner) if w not in ("and", "or")), default=0)
    known = inner.lower() in ("pi", "oo", "infty", "infinity", "sqrt")
    is_words = has_wrapper or longest >= 3 or read_unit(inner) is not None
    return inner.lower() if is_words and not known else None


def _value_after_choice(s: str) -> tuple[str, str]:
    flat = re.sub(r"^\\(?:text|mbox|mathrm|textbf|mathbf|textrm)\s*\{\s*(\(?[A-H]\)[:.]?)\s*\}", r"\1 ", s)
    match = _CHOICE_VALUE.fullmatch(flat)
    if match is None or _CHOICE.match(match[3]):
        return "", s  # no choice, or several: (A) (B)
    return (match[1] or match[2]).lower(), match[3]


def _drop_wrappers(s: str, policy: Policy) -> tuple[str, Unit | None]:
    """Joining words become commas, units after a value go, and words elsewhere stay in their wrapper (so: text)."""

    def unwrap(match: re.Match[str]) -> str:
        content = match[1].strip()
        if re.fullmatch(r",?\s*(?:and|or|,)\s*,?", content):
            return ","
        before = s[: match.start()].rstrip()
        if before.endswith("_{"):
            return _BASES.get(content, content)
        is_unit = match[0].startswith((r"\text{", r"\mbox")) and before[-1:].isdigit()
        if not re.search(r"[A-Za-z]", content) or (len(content) == 1 and not is_unit):
            return content
        if s.startswith("_", match.end()) and re.fullmatch(r"[0-9A-Z]*\d[0-9A-Z]*", content):
            return content
        if content in _FUNCTIONS:
            return f"\\{_FUNCTIONS[content]} "
        return f"{_UNIT_MARK}{match[0][:-1]}\x02"

    s = _WRAPPED.sub(unwrap, s)
    unit = None
    if policy.missing_units and not s.startswith(_UNIT_MARK):
        dropped = list(_UNIT_DROP.finditer(s))
        if len(dropped) == 1 and dropped[0].end() == len(s):
            inside = dropped[0][1].split("{", 1)[1]
            unit = read_unit(inside, int(dropped[0][2] or dropped[0][3] or 1))
        s = _UNIT_DROP.sub(lambda m: m[0] if changes_the_value(m[1].split("{", 1)[1]) else "", s)
    return collapsed(s.replace(_UNIT_MARK, "").replace("\x02", "}")), unit
