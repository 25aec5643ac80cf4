"""One row of a source becomes one ``Problem``: field names, answers and levels as the task's YAML maps them.

Answers come out as text (``142.0`` as ``142``), levels as whole numbers from 1 (``Level 3``, ``3``;
``Level ?`` and a missing field are None). A row that does not fit is an ``InputError`` naming the row.
"""

from __future__ import annotations

import re
from typing import Any

from harness.records import InputError, Problem, nearest
from harness.tasks.definition import FieldMap, TaskFile

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")


def to_problem(row: dict[str, Any], label: str, number: int, name: str, task: TaskFile, fields: FieldMap) -> Problem:
    """Map one row; ``label`` names it in messages, ``number`` counts from 1 and stands in for a missing id."""
    where = f"task {name}: {label}"
    prompt = _required(row, fields.prompt, "prompt", where)
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"{where}: prompt = {prompt!r}: must be text; mend the row")
    identifier = _required(row, fields.id, "id", where) if fields.id else f"{name}/{number}"
    subject = _optional(row, fields.subject)
    return Problem(
        id=str(identifier),
        prompt=prompt,
        answer=_answer(row, where, task, fields),
        subject=None if subject is None else str(subject),
        level=_level(_optional(row, fields.level), where),
    )


def last_boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{...}`` (or ``\\fbox``, or ``\\boxed 7``) of a worked solution, or None."""
    found = list(BOX.finditer(text))
    if not found:
        return None
    start = found[-1].end()
    if text[start : start + 1] != "{":
        return re.split(r"[\s$]", text[start:], maxsplit=1)[0] or None
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 2  # \{ and \} are set brackets: they need not balance
            continue
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + 1 : i].strip() or None
        i += 1
    return None


def _answer(row: dict[str, Any], where: str, task: TaskFile, fields: FieldMap) -> str:
    if fields.solution and _optional(row, fields.answer) is None:
        solution = str(_required(row, fields.solution, "solution", where))
        answer = last_boxed(solution)
        if answer is None:
            raise InputError(f"{where}: the solution holds no \\boxed{{answer}}; add an answer field to the row")
        return answer
    value = _required(row, fields.answer, "answer", where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where}: answer = {value!r}: must be text or a number; mend the row")
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if task.answer_after is not None:
        text = text.rpartition(task.answer_after)[2]
    text = text.strip()
    if task.answer_type == "integer":
        text = text.replace(",", "")
        if not re.fullmatch(r"-?\d+", text):
            raise InputError(f"{where}: answer = {text[:80]!r}: must be a whole number in a task of type integer")
    if not text:
        raise InputError(f"{where}: answer is empty; mend the row")
    return text


def _level(value: Any, where: str) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"(?:level\s*)?(?:([1-9]\d*)|\?)", str(value).strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"{where}: level = {value!r}: must be a whole number from 1, or 'Level 1' and so on")
    return int(match[1]) if match[1] else None


def _optional(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _required(row: dict[str, Any], names: tuple[str, ...], field: str, where: str) -> Any:
    value = _optional(row, names)
    if value is None:
        wanted = " or ".join(map(repr, names))
        raise InputError(f"{where}: {field} field {wanted} is missing; {nearest(names[0], map(str, row))}")
    return value
