"""Labelled rows that graders are checked on: read from JSONL, chosen by field, wrong labels settled by hand.

Two layouts, told apart by their keys: ``{"gold", "pred", "equal", "kind"}``, and model outputs with
``{"gold", "response", "label"}``. Other keys may stand beside them and can be asked for. A row that cannot be read is
a line in ``Cases.problems`` and the others are kept: each row is graded by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from harness.grading.extract import extract_answer, reference_answer
from harness.records import InputError, nearest

Kind = Literal["answer", "response"]
KINDS = ("answer", "response")
MAX_INTEGER_CHARS = 100
SHORTEST_SHA256 = 12
"""Hex digits of a response's sha256 that a settled entry must give."""
_LAYOUTS = "a row has gold, pred, equal and kind, or gold, response and label"
_OWN_KEYS = frozenset({"equal", "reason", "policy", "file"})


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Row ``row`` of the file (from 1): whether ``text`` (an answer, or a whole response) states what ``gold`` says.

    ``equal`` is None where the row has no label; ``is_settled`` where the label was decided by hand.
    """

    row: int
    gold: str
    text: str
    kind: Kind
    equal: bool | None
    is_settled: bool = False

    @property
    def reference(self) -> str:
        """The gold answer; some suites give it in a box or a sentence."""
        return reference_answer(self.gold)

    @property
    def answer(self) -> str | None:
        """The answer as the grader reads it; None where a response states none."""
        return extract_answer(self.text) if self.kind == "response" else reference_answer(self.text)


@dataclasses.dataclass(frozen=True, slots=True)
class Cases:
    """``cases`` are the labelled rows; ``disputed`` counts those settled as neither; ``problems``: a line for each
    row that cannot be read."""

    cases: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    disputed: int
    settled: int
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """A label decided by hand: for rows whose fields are ``fields``. ``equal`` None leaves the row out."""

    fields: Mapping[str, Any]
    equal: bool | None
    where: str

    def fits(self, row: Mapping[str, Any]) -> bool:
        return all(self._same(row, key, value) for key, value in self.fields.items())

    @staticmethod
    def _same(row: Mapping[str, Any], key: str, value: Any) -> bool:
        if key != "sha256":
            return key in row and row[key] == value
        text = row.get("response", row.get("pred"))
        return isinstance(text, str) and hashlib.sha256(text.encode()).hexdigest().startswith(value)


def read_cases(path: Path, where: Sequence[str] = (), settled: Sequence[Settled] = ()) -> Cases:
    """The rows of ``path`` that ``where`` (FIELD=VALUE each) chooses. InputError where no row at all can be read."""
    wanted = [_condition(text) for text in where]
    cases: list[Case] = []
    problems: list[str] = []
    disputed, read, used = 0, 0, set()
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = _row(line)
            case = _case(number, row, _label(row))
        except InputError as error:
            problems.append(f"{path.name} row {number}: {error}")
            continue
        read += 1
        if not all(_holds(row, field, value) for field, value in wanted):
            continue
        for i, entry in enumerate(settled):
            if entry.fits(row):
                case = dataclasses.replace(case, equal=entry.equal, is_settled=True)
                used.add(i)
        if case.is_settled and case.equal is None:
            disputed += 1
        else:
            cases.append(case)
    if not read:
        raise InputError(problems[0] if problems else f"{path.name}: holds no rows; give one JSON object a line")
    if wanted and not cases and not disputed:
        raise InputError(f"--where {' --where '.join(where)}: holds for none of the {read} rows of {path.name}")
    if not wanted:
        problems += [f"{s.where}: fits no row of {path.name}" for i, s in enumerate(settled) if i not in used]
    labelled = tuple(case for case in cases if case.equal is not None)
    unlabelled = tuple(case for case in cases if case.equal is None)
    return Cases(labelled, unlabelled, disputed, len(used), tuple(problems))


def read_settled(path: Path, file_name: str) -> list[Settled]:
    """The entries of a YAML list that concern ``file_name``; every mistake is an InputError with the entry's number."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path.name}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list):
        raise InputError(f"{path.name}: expected a list of entries, found {type(entries).__name__}")
    settled = []
    for number, entry in enumerate(entries, 1):
        where = f"{path.name} entry {number}"
        if not isinstance(entry, dict) or "equal" not in entry or not set(entry) - _OWN_KEYS:
            raise InputError(f"{where}: expected `equal` and the fields of the row it settles")
        if entry["equal"] not in (True, False, None):
            raise InputError(f"{where}: equal = {entry['equal']!r}: must be true, false or null")
        fields = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
        if "sha256" in fields and len(str(fields["sha256"])) < SHORTEST_SHA256:
            raise InputError(f"{where}: sha256 = {fields['sha256']!r}: must have {SHORTEST_SHA256} digits or more")
        if entry.get("file", file_name) == file_name:
            settled.append(Settled(fields, entry["equal"], where))
    return settled


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error}); give one JSON object a line") from None
    if not isinstance(row, dict):
        raise InputError(f"expected a JSON object, found {type(row).__name__}")
    return row


def _integer(digits: str) -> int:
    """No field is a number of many digits; Python's own limit may have been lifted for the grader's sake."""
    if len(digits) > MAX_INTEGER_CHARS:
        raise ValueError(f"an integer of {len(digits)} characters")
    return int(digits)


def _is_output(row: Mapping[str, Any]) -> bool:
    return "response" in row and "label" in row and "equal" not in row


def _label(row: Mapping[str, Any]) -> bool | None:
    name = "label" if _is_output(row) else "equal"
    if name not in row:
        raise InputError(f"{name} is missing; {_LAYOUTS}")
    if row[name] is not None and not isinstance(row[name], bool):
        raise InputError(f"{name} = {row[name]!r}: must be true, false or null")
    label: bool | None = row[name]
    return label


def _case(number: int, row: Mapping[str, Any], equal: bool | None) -> Case:
    text_name: str = "response" if _is_output(row) else "pred"
    kind: Any = "response" if _is_output(row) else row.get("kind")
    for name in ("gold", text_name):
        if name not in row:
            raise InputError(f"{name} is missing; {_LAYOUTS}")
        if not isinstance(row[name], str):
            raise InputError(f"{name} = {row[name]!r}: must be text")
    if kind is None:
        raise InputError("kind is missing; give answer (bare) or response (whole text)")
    if kind not in KINDS:
        raise InputError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}; {nearest(str(kind), KINDS)}")
    return Case(number, row["gold"], row[text_name], kind, equal)


def _condition(text: str) -> tuple[str, str]:
    field, sign, value = text.partition("=")
    if not field or not sign:
        raise InputError(f"--where {text!r}: must be FIELD=VALUE, FIELD= (absent or false) or FIELD=@FIELD")
    return field, value


def _holds(row: Mapping[str, Any], field: str, value: str) -> bool:
    if not value:
        return not row.get(field)
    if value.startswith("@"):
        return field in row and value[1:] in row and row[field] == row[value[1:]]
    found = row.get(field)
    return found == value if isinstance(found, str) else json.dumps(found) == value
