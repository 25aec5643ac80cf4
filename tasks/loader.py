"""Loads a task by name or path, and says which tasks are at hand and whether their files are the pinned ones.

``Task.sha256`` is over the canonical JSON of all problems as they were read, before ``limit``: it pins
a run whatever the source was. Prompts are rendered by plain replacement, since problem texts are full
of braces. Only ``load_task`` may use a hub, and only where no local file is found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from harness.records import InputError, Problem, Task
from harness.tasks.definition import FieldMap, TaskFile, packaged_names, packaged_path, read_definition
from harness.tasks.rows import to_problem
from harness.tasks.sources import NotAtHand, find, read_file, read_hub

# For rows that are named by their path alone, without a YAML file that maps them.
COMMON_FIELDS = FieldMap(
    prompt=("problem", "question", "prompt"),
    answer=("answer",),
    solution=("solution",),
    subject=("subject", "type"),
    level=("level",),
)
COMMON_TEMPLATE = "{prompt}\nLet's think step by step and output the final answer within \\boxed{}."


@dataclasses.dataclass(frozen=True, slots=True)
class TaskStatus:
    """One line of the task table; ``detail`` is the file at hand, or what is missing and the cure.

    ``sha256`` is what the file is pinned by, None while it is not; ``hub`` the id of its data set there.
    """

    name: str
    problems: int | None
    at_hand: bool
    detail: str
    pin: str
    licence: str
    note: str
    sha256: str | None
    hub: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class TaskCheck:
    """What ``verify_tasks`` found: ``sha256`` is that of the source file's bytes, None where nothing was read."""

    name: str
    status: Literal["ok", "unpinned", "not at hand", "wrong"]
    problems: int
    sha256: str | None
    detail: str

    @property
    def ok(self) -> bool | None:
        """None where there was nothing to hold the task against: no file, or no pin."""
        return {"ok": True, "wrong": False}.get(self.status)


def load_task(name_or_path: str, *, limit: int | None = None) -> Task:
    """Load a packaged task by name, or a task file (``.yaml``) or rows (``.jsonl``) by path.

    ``limit`` keeps the first problems. Everything that can be wrong (name, file, row, count, bytes)
    is an ``InputError``.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit = {limit}: must be at least 1, or left out for all problems")
    name, definition, folder = _define(name_or_path)
    try:
        path = find(name, definition, folder)
    except NotAtHand:
        if definition.hub is None or importlib.util.find_spec("datasets") is None:
            raise
        task = _from_hub(name, definition)
    else:
        task, _ = _from_file(name, definition, path)
    return dataclasses.replace(task, problems=task.problems[:limit])


def render(task: Task, problem: Problem) -> str:
    """The prompt as the model gets it, before any chat template."""
    return task.prompt_template.replace("{prompt}", problem.prompt)


def list_tasks() -> list[TaskStatus]:
    """Every packaged task, with whether its rows lie on this machine. Reads no rows and no network."""
    table = []
    for name in packaged_names():
        path = packaged_path(name)
        definition = read_definition(path)
        try:
            at_hand, detail = True, str(find(name, definition, path.parent))
        except InputError as error:
            at_hand, detail = False, str(error)
        facts = (definition.pin, definition.licence, definition.note, definition.sha256)
        hub = definition.hub.id if definition.hub else None
        table.append(TaskStatus(name, definition.problems, at_hand, detail, *facts, hub))
    return table


def verify_tasks() -> list[TaskCheck]:
    """Read every packaged task that is at hand: count and sha256 against its YAML. No network."""
    return [_verify(name) for name in packaged_names()]


def problems_sha256(problems: Sequence[Problem]) -> str:
    """sha256 of the problems' canonical JSON: sorted keys, no spaces, UTF-8, in the task's order."""
    rows = [dataclasses.asdict(problem) for problem in problems]
    text = json.dumps(rows, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _define(name_or_path: str) -> tuple[str, TaskFile, Path]:
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml", ".jsonl") and len(path.parts) == 1:
        path = packaged_path(name_or_path)
        return name_or_path, read_definition(path), path.parent
    if not path.is_file():
        raise InputError(f"task {name_or_path!r}: no such file; give a task's name, or a .yaml or .jsonl file")
    if path.suffix == ".jsonl":
        definition = TaskFile(
            answer_type="math",
            prompt_template=COMMON_TEMPLATE,
            fields=_with_id(path),
            licence="not stated",
            file=str(path.resolve()),
        )
        return path.stem, definition, path.parent
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"task {name_or_path!r}: ends in {path.suffix!r}; give a .yaml or .jsonl file")
    return path.stem, read_definition(path), path.parent


def _with_id(path: Path) -> FieldMap:
    """The common fields, with the id field that the first row of a bare JSONL file has (if any: else numbers)."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        row = {}  # reading the rows will say what is wrong, with the row's number
    return dataclasses.replace(COMMON_FIELDS, id=tuple(name for name in ("unique_id", "id") if name in row))


def _from_file(name: str, definition: TaskFile, path: Path) -> tuple[Task, str]:
    rows, sha256 = read_file(name, definition, path)
    return _to_task(name, definition, rows, definition.fields), sha256


def _from_hub(name: str, definition: TaskFile) -> Task:
    assert definition.hub is not None
    return _to_task(name, definition, read_hub(name, definition.hub), definition.hub.fields or definition.fields)


def _to_task(name: str, definition: TaskFile, rows: list[tuple[str, dict]], fields: FieldMap) -> Task:
    problems = tuple(
        to_problem(row, label, number, name, definition, fields) for number, (label, row) in enumerate(rows, start=1)
    )
    task = Task(name, problems, definition.prompt_template, definition.answer_type, problems_sha256(problems))
    if definition.problems is not None and len(problems) != definition.problems:
        raise InputError(
            f"task {name}: holds {len(problems)} problems, {definition.problems} expected; "
            f"fetch the whole file, or name yours by its path to run it as another task"
        )
    return task


def _verify(name: str) -> TaskCheck:
    path = packaged_path(name)
    definition = read_definition(path)
    try:
        source = find(name, definition, path.parent)
    except InputError as error:
        return TaskCheck(name, "not at hand", 0, None, str(error))
    try:
        task, sha256 = _from_file(name, definition, source)
    except InputError as error:
        return TaskCheck(name, "wrong", 0, None, str(error))
    if definition.sha256 is None:
        return TaskCheck(name, "unpinned", len(task.problems), sha256, f"{path.name} holds no sha256 yet")
    return TaskCheck(name, "ok", len(task.problems), sha256, str(source))
