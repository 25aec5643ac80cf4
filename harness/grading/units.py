"""Units of measure: what a unit's text means, as a kind and an exact factor, and whether two of them agree.

Only units known here are compared; any other word after a value (``ways``, ``people``) is dropped unread.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from harness.grading.policy import Policy

_TABLE: dict[str, dict[str, Fraction]] = {
    "length": {
        "mm millimeter millimetre": Fraction(1, 1000), "cm centimeter centimetre": Fraction(1, 100),
        "m meter metre": Fraction(1), "km kilometer kilometre": Fraction(1000), "in inch": Fraction(254, 10_000),
        "ft foot feet": Fraction(3048, 10_000), "yd yard": Fraction(9144, 10_000), "mile mi": Fraction(1_609_344, 1000),
    },
    "time": {
        "s sec second": Fraction(1), "min minute": Fraction(60), "h hr hour": Fraction(3600), "day": Fraction(86_400),
        "week": Fraction(604_800),
    },
    "calendar": {"month": Fraction(1), "year yr": Fraction(12)},
    "mass": {
        "mg milligram": Fraction(1, 1000), "g gram": Fraction(1), "kg kilogram": Fraction(1000),
    },
    "weight": {"oz ounce": Fraction(1), "lb pound": Fraction(16), "ton": Fraction(32_000)},
    "volume": {"ml milliliter millilitre": Fraction(1, 1000), "l liter litre": Fraction(1)},
    "money": {"cent": Fraction(1, 100), "dollar usd": Fraction(1)},
    "euros": {"euro": Fraction(1)},
    "length/time": {"mph": Fraction(1_609_344, 3_600_000), "kph": Fraction(1000, 3600)},
    "angle": {"degree deg": Fraction(1)},
    "before noon": {"am a.m": Fraction(1)},
    "after noon": {"pm p.m": Fraction(1)},
}  # fmt: skip
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_WORD = re.compile(r"[a-z][a-z.]*")
_PER = re.compile(r"/|\bper\b")
_POWER_SIGN = re.compile(r"\^ ?([23]) ?$")


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """``kind`` names what is measured, with its power; ``factor`` how many of the kind's base unit it is."""

    kind: str
    factor: Fraction


def _known() -> dict[str, Unit]:
    found = {}
    for kind, rows in _TABLE.items():
        for names, factor in rows.items():
            for name in names.split():
                for spelling in (name, f"{name}s", f"{name}es"):
                    found[spelling] = Unit(kind, factor)
    return found


_UNITS = _known()


def read_unit(text: str, power: int = 1) -> Unit | None:
    """The unit that ``square inches``, ``cm^2`` or ``m/s`` names, raised to ``power``; None where it is not known."""
    parts = _PER.split(text.lower(), maxsplit=2)
    if len(parts) == 2:
        return _speed(_single_unit(parts[0], 1), _single_unit(parts[1], power))
    return _single_unit(parts[0], power) if len(parts) == 1 else None


def _single_unit(text: str, power: int) -> Unit | None:
    written = _POWER_SIGN.search(text)
    if written is not None:
        text, power = text[: written.start()], power * int(written[1])
    words = [word.rstrip(".") for word in _WORD.findall(text)]
    if len(words) == 2 and (words[0] in _POWERS) != (words[1] in _POWERS):
        power = power * (_POWERS.get(words[0]) or _POWERS[words[1]])
        words = [word for word in words if word not in _POWERS]
    unit = _UNITS.get(words[0]) if len(words) == 1 else None
    if unit is None:
        return None
    return unit if power == 1 else Unit(f"{unit.kind}^{power}", unit.factor**power)


def _speed(above: Unit | None, below: Unit | None) -> Unit | None:
    """Other quotients are not compared: ``12 dollars per hour`` is asked for and answered as ``\\$12``."""
    if above is None or below is None or (above.kind, below.kind) != ("length", "time"):
        return None
    return Unit("length/time", above.factor / below.factor)


CURRENCIES = {"\\$": _UNITS["dollar"], "€": _UNITS["euro"]}  # a pound may be a weight
DEGREE = _UNITS["degree"]


def conversion(one: Unit | None, other: Unit | None) -> Fraction | None:
    """The factor that turns a value in ``other`` into one in ``one``; 1 where either is missing, None where
    the two measure different things."""
    if one is None or other is None:
        return Fraction(1)
    return other.factor / one.factor if one.kind == other.kind else None


_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE_WORD = f"(?:{'|'.join(_SCALES)})"
_SCALE = re.compile(rf"(?<=\d)\s*(?:\\(?:text|mbox)\{{)?\s*({_SCALE_WORD}(?:\s{_SCALE_WORD})*)\b\s*(\}})?")
_WORDS = r"(?:[A-Za-z]{2}[A-Za-z ./']*|[ap]\.\s?m\.?|m/s)"
_TAIL = re.compile(
    rf"(?<=[\d}})])(?P<space>\s*)(?<![\\a-zA-Z])(?:\{{(?P<braced>{_WORDS})\}}|(?P<bare>{_WORDS}|(?<=\.\d\d)m(?=\^)))"
    r"(?:\^\s*\{?(?P<power>[23])\}?)?$"
)
_INSIDE = re.compile(r"(?<=\d)\s*(?:mm|cm|km|kg|ft|mph|lb|lbs|hours?|minutes?|days?|years?|feet|miles?)(?=\s*[,;)\]}])")
_FUNCTIONS = frozenset("mod sin cos tan cot sec csc log exp sqrt gcd lcm".split())  # noqa: SIM905
_CHANGES_THE_VALUE = re.compile(
    r"\s*(?:halves|thirds|fourths|fifths|sixths|eighths|tenths|hundredths|thousandths|squared|cubed|factorial"
    r"|at (?:least|most))\b",
    re.IGNORECASE,
)


def scale_words(text: str) -> str:
    """``5.4 million`` as ``5.4 \\cdot 10^{6} ``, its wrapper kept for what follows it."""

    def power(match: re.Match[str]) -> str:
        wrapped = "\\" in match[0]
        rest = "" if not wrapped or match[2] else r"\text{"
        return rf"\cdot 10^{{{sum(_SCALES[word] for word in match[1].split())}}}{rest}"

    return _SCALE.sub(power, text)


def drop_tail(text: str, policy: Policy) -> tuple[str, Unit | None]:
    """``text`` without the bare unit it ends in (``10 cm^2``, ``4{cm}``), and that unit where it is known."""
    if not policy.missing_units:
        return text, None
    text = _INSIDE.sub("", text.strip().rstrip("."))
    match = _TAIL.search(text)
    if match is None:
        return text, None
    name = match["braced"] or match["bare"]
    unit = read_unit(name, int(match["power"] or 1))
    if unit is None and not _is_word(name, spaced=bool(match["space"] or match["braced"])):
        return text, None
    return text[: match.start()], unit


def changes_the_value(name: str) -> bool:
    """Whether words after a number make another number of it, or a bound: ``3 halves``, ``10 at most``."""
    return _CHANGES_THE_VALUE.match(name) is not None


def _is_word(name: str, spaced: bool) -> bool:
    """Whether letters after a value are words (``10 ways``, ``10apples``) and no product of variables (``3abc``)."""
    words = re.findall(r"[A-Za-z]+", name)
    if any(word.lower() in _FUNCTIONS for word in words) or changes_the_value(name):
        return False
    longest = max(words, key=len)
    return len(longest) >= (3 if spaced else 5) and re.search(r"[aeiouyAEIOUY]", longest) is not None
