"""One spelling for each LaTeX command and Unicode sign: fractions, roots, powers, relations, repeating decimals.

No choice is made here and no mathematics done: every rewriting keeps the meaning that a reader of the text sees.
"""

from __future__ import annotations

import re
import unicodedata

_VULGAR = [(char, *unicodedata.normalize("NFKC", char)) for char in "½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"]
# \x0c is "\frac" read as an escape sequence by whoever wrote the row
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
        "∞": r"\infty ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\neq ", "∪": r"\cup ", "∈": r"\in ",
        "²": "^{2}", "³": "^{3}", "±": r"\pm ", "’": "'", "\u00a0": " ", "\x0c": r"\f", "∅": r"\emptyset ",
        "∩": r"\cap ", "∖": r"\setminus ",
        "≈": r"\approx ", "¢": r"\text{ cents}", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "…": r"\ldots ",
        "\x01": " ", "\x02": " ",  # the marks of the steps after this one
    }
    | {char: rf"\frac{{{above}}}{{{below}}}" for char, above, _, below in _VULGAR}
    | {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}
)  # fmt: skip
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dtc]?frac|sqrt|left|right|text|mbox|boxed|pi|cup|infty|times|cdot|le|ge|in|pm|circ|begin|end)"
    r"(?![a-zA-Z]))"
)
_SIZING = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|mathstrut)(?![a-zA-Z])\.?")
_SPACING = re.compile(r"(?<!\\)\\(?:quad|qquad|enspace|thinspace|,|;|:|>| )|~")
_ALIASES = tuple(
    (re.compile(pattern), command)
    for pattern, command in (
        (r"\\left\s*\{", r"\\{"),
        (r"\\right\s*\}", r"\\}"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:langle|lparen)(?![a-zA-Z])", "("),
        (r"\\(?:rangle|rparen)(?![a-zA-Z])", ")"),
        (r"\\phantom\s*(?:\{[^{}]*\}|[^{\\\s])", ""),
        (r"\\exponentialE(?![a-zA-Z])", "e "),
        (r"\\backslash(?![a-zA-Z])", r"\\setminus "),
        (r"\\bar(?![a-zA-Z])", r"\\overline"),
        (r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"(?<!\\)\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"^([^{}=,]*)\\over(?![a-zA-Z])([^{}=,]*)$", r"\\frac{\1}{\2}"),
        (r"\\nicefrac(?![a-zA-Z])", r"\\frac"),
        (r"(\\mathbb\s*\{?R\}?)\s*[-\\]\s*(?=\\\{)", r"\1\\setminus "),
        (r"\\lg(?![a-zA-Z])", r"\\log_{10}"),
    )
)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_BARE_FRACTION = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])")
_COMMAND_PARTS = re.compile(r"\\frac\s*(\\pi|[0-9a-zA-Z])\s*(\\pi|[0-9a-zA-Z])(?![a-zA-Z])")
_BARE_NUMERATOR = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*(?=\{)")
_BARE_DENOMINATOR = re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])")
_PLAIN_MIXED = re.compile(r"(?<![\d.,/^])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_BARE_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_PLAIN_ROOT = re.compile(r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)|(?<![a-zA-Z\\])sqrt\s*\{([^{}]*)\}|√\s*\(?(\d+)\)?")
_POINT_ALONE = re.compile(r"(?<=\d)\.(?!\d|\.|\\overline)")
_SCIENTIFIC = re.compile(r"(?<![a-zA-Z\d.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?![\d.])")
_BRACKETED_POWER = re.compile(r"\^\s*\(([^(){}]*)\)|\^\{\\\{([^{}]*)\\\}\}")
_NEGATIVE_POWER = re.compile(r"\^\s*-\s*([0-9]+|[a-zA-Z])")
_PLAIN_POWER = re.compile(r"\^\s*([0-9]{2,})")
_PLAIN_FUNCTIONS = re.compile(r"(?<![a-zA-Z\\])(sin|cos|tan|cot|sec|csc|log|ln)(?![a-zA-Z])")
_PLAIN_NAMES = re.compile(r"(?<![a-zA-Z\\])(pi|infty|infinity|oo)(?![a-zA-Z])")
_GOES_ON = re.compile(r"(?<![\d.])(\d{0,20})\.(\d{0,20}?)(\d{1,12}?)\3{1,20}\s*(?:\.\.\.|\\l?dots|\\cdots)(?=[\s$]*$)")
"""0.333... and 0.1666...: the last digits written at least twice and then dots."""
_TIMES_TEN = re.compile(r"(?<=\d) ?[xX] ?(?=10\^)")
"""1.5x10^3: the letter for the sign."""
_PERIOD = re.compile(r"(?<=\d)\.\((\d{1,12})\)(?![\d(])")
"""0.(3): a period in brackets directly after the point."""
_RELATIONS = (
    (re.compile(r"\\leqslant(?![a-zA-Z])|\\leq(?![a-zA-Z])|<="), r"\\le "),
    (re.compile(r"\\geqslant(?![a-zA-Z])|\\geq(?![a-zA-Z])|>="), r"\\ge "),
    (re.compile(r"\\ne(?![a-zA-Z])|\\not\s*=|(?<=\s)!="), r"\\neq "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\(?:approx|simeq|equiv)(?![a-zA-Z])"), r"\\approx "),
)


def uniform_characters(s: str) -> str:
    """Signs and digits of other scripts as LaTeX commands and ASCII digits; look-alike letters stay what they are."""
    s = collapsed(s.translate(_CHARACTERS))
    if not s.isascii():  # every pattern below may then take \d for 0-9
        s = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in s)
    s = _DOUBLED.sub(r"\\", s)
    if "\\" in s:
        for pattern, command in _ALIASES:
            s = pattern.sub(command, s)
    s = _TIMES_TEN.sub(r"\\times ", s)
    s = _PERIOD.sub(r".\\overline{\1}", s)
    return _GOES_ON.sub(r"\1.\2\\overline{\3}", s)


def collapsed(s: str) -> str:
    """``s`` with one space for each run of them: patterns with several optional spaces are then linear."""
    return " ".join(s.split())


def without_spacing(s: str) -> str:
    """``s`` without sizing commands, and with every run of spacing commands a space."""
    return collapsed(_SPACING.sub(" ", _SIZING.sub("", s.replace("\\!", ""))))


def uniform_commands(s: str) -> str:
    """The spelling that the readers of structure and expressions expect, without spaces where none is needed."""
    for pattern, command in _RELATIONS:
        s = pattern.sub(command, s)
    s = _FRACTION.sub(r"\\frac", s)
    s = _PLAIN_ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2] or m[3]}}}", s)
    s = _PLAIN_NAMES.sub(lambda m: r"\pi " if m[1] == "pi" else r"\infty ", s)
    s = _PLAIN_FUNCTIONS.sub(r"\\\1 ", s)
    s = _COMMAND_PARTS.sub(r"\\frac{\1}{\2}", s)
    s = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", s)
    s = _BARE_NUMERATOR.sub(r"\\frac{\1}", s)
    s = _BARE_DENOMINATOR.sub(r"\1{\2}", s)
    s = _PLAIN_MIXED.sub(r"\1\\frac{\2}{\3}", s)
    s = _BARE_ROOT.sub(r"\\sqrt{\1}", s)
    s = _SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", s.replace("**", "^"))
    s = re.sub(r"_\s*\{\s*([0-9a-zA-Z])\s*\}", r"_\1", s)
    s = _BRACKETED_POWER.sub(lambda m: f"^{{{m[1] or m[2]}}}", s)
    s = _NEGATIVE_POWER.sub(r"^{-\1}", s)
    s = _PLAIN_POWER.sub(r"^{\1}", s)
    s = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\x01", s)
    s = re.sub(r"(?<=\d)\s+(?=[\d.])", "\x01", s)
    s = re.sub(r"\s+", "", s).replace("\x01", " ")
    s = re.sub(r"[.,;\\]+$", "", _POINT_ALONE.sub("", s))
    while is_one_group(s):
        s = s[1:-1]
    return s


def is_one_group(s: str) -> bool:
    """Whether one pair of braces holds all of ``s``."""
    if not (s.startswith("{") and s.endswith("}")):
        return False
    depth = 0
    for i, char in enumerate(s):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return i == len(s) - 1
    return False
