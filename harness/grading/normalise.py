"""The surface of an answer made uniform, so that every later step sees one spelling.

Nothing here knows mathematics: dollar signs, spacing and sizing commands, words, units and the many
spellings of one command go; what stays is LaTeX without spaces (one space where two tokens
would otherwise run together). Every pattern is linear in its input. What is dropped is decided by ``Policy``.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata

from harness.grading.policy import Policy


@dataclasses.dataclass(frozen=True, slots=True)
class Normal:
    """``text`` is the uniform spelling; ``is_word`` marks an answer in words (``even``, a choice letter)."""

    text: str
    is_word: bool


# \x0c is "\frac" read as an escape sequence by whoever wrote the row
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
        "∞": r"\infty ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\neq ", "∪": r"\cup ", "∈": r"\in ",
        "²": "^{2}", "³": "^{3}", "±": r"\pm ", "’": "'", "\u00a0": " ", "\x0c": r"\f", "∅": r"\emptyset ",
    }
)  # fmt: skip
_CURRENCY = re.compile(r"\\\$|[€£]")
_MATH_SHIFT = re.compile(r"\$|(?<!\\)\\[()\[\]]")
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dtc]?frac|sqrt|left|right|text|mbox|boxed|pi|cup|infty|times|cdot|le|ge|in|pm|circ|begin|end)"
    r"(?![a-zA-Z]))"
)
_SIZING = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|mathstrut)(?![a-zA-Z])\.?")
_SPACING = re.compile(r"(?<!\\)\\(?:quad|qquad|enspace|thinspace|,|;|:|>| )|~")
_WRAPPED = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|mathbf|textit|mathit|rm|operatorname|textrm|textnormal|hbox)\*?\s*\{([^{}]*)\}"
)
_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_BARE_FRACTION = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])")
_COMMAND_PARTS = re.compile(r"\\frac\s*(\\pi|[0-9a-zA-Z])\s*(\\pi|[0-9a-zA-Z])(?![a-zA-Z])")
_BARE_NUMERATOR = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*(?=\{)")
_BARE_DENOMINATOR = re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])")
_BARE_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_PLAIN_ROOT = re.compile(r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)|(?<![a-zA-Z\\])sqrt\s*\{([^{}]*)\}|√\s*\(?(\d+)\)?")
_SCIENTIFIC = re.compile(r"(?<![a-zA-Z\d.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?![\d.])")
_NEGATIVE_POWER = re.compile(r"\^\s*-\s*([0-9]+|[a-zA-Z])")
_PLAIN_POWER = re.compile(r"\^\s*([0-9]{2,})")
_PLAIN_NAMES = re.compile(r"(?<![a-zA-Z\\])(pi|infty|infinity|oo)(?![a-zA-Z])")
_RELATIONS = (
    (re.compile(r"\\leqslant(?![a-zA-Z])|\\leq(?![a-zA-Z])|<="), r"\\le "),
    (re.compile(r"\\geqslant(?![a-zA-Z])|\\geq(?![a-zA-Z])|>="), r"\\ge "),
    (re.compile(r"\\ne(?![a-zA-Z])|\\not\s*=|(?<=\s)!="), r"\\neq "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\(?:approx|simeq|equiv)(?![a-zA-Z])"), r"\\approx "),
)
_PERCENT = re.compile(r"\\?%|(?<=[\d}\s])\s?(?:percent|pct)\b")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])")
_GROUPED = re.compile(r"(?<=\d)(?:,\s*\\!\s*|\{,\}\s*|\\,\s*|\\!\s*)(?=\d{3}(?!\d))")
_CHOICE_VALUE = re.compile(
    r"\(?\b([A-H])\)\s*[:.]?\s*(?=[\d\\(\[{$.a-z-])(?!\\(?:cup|cap|cdot|times|in)\b)(.+)", re.DOTALL
)
_JOIN = re.compile(r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*")
_WORDS = re.compile(r"[A-Za-z]+(?:[ ',.\-]{1,2}[A-Za-z]+)*")
_UNIT_TAIL = re.compile(
    r"(?<=[\d})])\s*(?<![\\a-zA-Z])([A-Za-z]{2}[A-Za-z ./']*|[a-zA-Z]{1,2}(?=\^))(?:\^\s*\{?[23]\}?)?$"
)
_UNIT_INSIDE = re.compile(
    r"(?<=\d)\s*(?:mm|cm|km|kg|ft|mph|lb|lbs|hours?|minutes?|days?|years?|feet|miles?)(?=\s*[,;)\]}])"
)
_NOT_UNITS = frozenset("mod sin cos tan log ln exp sqrt pi xy ab abc xyz ax bx cx rs pq mn nk dx dy dz dt".split())  # noqa: SIM905
_UNIT_MARK = "\x01"
_UNIT_DROP = re.compile(r"\s*\x01[^\x02]*\x02(?:\s*\^\s*(?:\{\s*[0-9]\s*\}|[0-9]))?\s*(?=$|[,;)\]}])")


def normalise(answer: str, policy: Policy) -> Normal:
    """One spelling for ``answer``; idempotent enough that golds and answers meet in it."""
    s = answer.translate(_CHARACTERS).strip()
    if not s.isascii():  # digits of other scripts: every pattern below may take \d for 0-9
        s = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in s)
    s = _DOUBLED.sub(r"\\", s)
    s = _unbox(s)
    s = _GROUPED.sub("", s)
    s = _SIZING.sub("", s.replace("\\!", ""))
    s = _SPACING.sub(" ", s)
    if policy.strip_currency:
        s = _CURRENCY.sub("", s)
    s = _MATH_SHIFT.sub("", s).strip().rstrip(".,;").removeprefix(r"\approx").strip()
    words = _as_words(s)
    if words is not None:
        return Normal(words, True)
    if policy.value_after_choice:
        s = _value_after_choice(s)
    s = _drop_wrappers(s, policy)
    words = _as_words(s, wrapped=False)
    if words is not None:
        return Normal(words, True)
    if policy.strip_percent:
        s = _PERCENT.sub("", s)
    if policy.strip_degrees:
        s = _DEGREES.sub("", s)
    s = re.sub(r",\s*,", ",", _JOIN.sub(",", s))
    if policy.strip_units:
        s = _drop_unit_tail(s)
    return Normal(_uniform_commands(s), False)


def text_class(normal: Normal) -> str:
    """The class of an answer compared as text."""
    text = normal.text.lower() if normal.is_word else normal.text
    return "text:" + re.sub(r"\s+", "", text).rstrip(".,;\\")


def _unbox(s: str) -> str:
    match = _BOX.match(s)
    return s[match.end() : -1] if match and s.endswith("}") else s


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
    return inner.lower() if (has_wrapper or longest >= 3) and not known else None


def _value_after_choice(s: str) -> str:
    flat = re.sub(r"^\\(?:text|mbox|mathrm|textbf|mathbf|textrm)\s*\{\s*(\(?[A-H]\)[:.]?)\s*\}", r"\1 ", s)
    match = _CHOICE_VALUE.fullmatch(flat)
    return match[2] if match else s


def _drop_wrappers(s: str, policy: Policy) -> str:
    """Joining words become commas, units after a value go, and words elsewhere stay in their wrapper (so: text)."""

    def unwrap(match: re.Match[str]) -> str:
        content = match[1].strip()
        if re.fullmatch(r",?\s*(?:and|or|,)\s*,?", content):
            return ","
        is_unit = match[0].startswith((r"\text{", r"\mbox")) and s[: match.start()].rstrip()[-1:].isdigit()
        if not re.search(r"[A-Za-z]", content) or (len(content) == 1 and not is_unit):
            return content
        if content in ("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp"):
            return f"\\{content} "
        return f"{_UNIT_MARK}{match[0][:-1]}\x02"

    s = _WRAPPED.sub(unwrap, s)
    if policy.strip_units and not s.startswith(_UNIT_MARK):
        s = _UNIT_DROP.sub("", s)
    return s.replace(_UNIT_MARK, "").replace("\x02", "}").strip()


def _drop_unit_tail(s: str) -> str:
    s = _UNIT_INSIDE.sub("", s.strip().rstrip("."))
    match = _UNIT_TAIL.search(s)
    if match is None or any(word in _NOT_UNITS for word in re.findall(r"[a-z]+", match[1].lower())):
        return s
    return s[: match.start()]


def _uniform_commands(s: str) -> str:
    for pattern, command in _RELATIONS:
        s = pattern.sub(command, s)
    s = _FRACTION.sub(r"\\frac", s)
    s = _PLAIN_ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2] or m[3]}}}", s)
    s = _PLAIN_NAMES.sub(lambda m: r"\pi " if m[1] == "pi" else r"\infty ", s)
    s = _COMMAND_PARTS.sub(r"\\frac{\1}{\2}", s)
    s = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", s)
    s = _BARE_NUMERATOR.sub(r"\\frac{\1}", s)
    s = _BARE_DENOMINATOR.sub(r"\1{\2}", s)
    s = _BARE_ROOT.sub(r"\\sqrt{\1}", s)
    s = _SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", s.replace("**", "^"))
    s = re.sub(r"_\s*\{\s*([0-9a-zA-Z])\s*\}", r"_\1", s)
    s = _NEGATIVE_POWER.sub(r"^{-\1}", s)
    s = _PLAIN_POWER.sub(r"^{\1}", s)
    s = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\x01", s)
    s = re.sub(r"(?<=\d)\s+(?=[\d.])", "\x01", s)
    s = re.sub(r"\s+", "", s).replace("\x01", " ")
    s = re.sub(r"[.,;\\]+$", "", s)
    return s[1:-1] if _is_one_group(s) else s


def _is_one_group(s: str) -> bool:
    if not (s.startswith("{") and s.endswith("}")):
        return False
    depth = 0
    for i, char in enumerate(s):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return i == len(s) - 1
    return False
