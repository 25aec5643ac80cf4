"""What a task's YAML file may say, read strictly: a wrong key is an ``InputError`` with its nearest known one.

A definition names where the rows lie (``file``, ``packaged`` or ``package`` on this machine, ``hub``
elsewhere), which of their fields mean what, the prompt template, and what pins the rows: ``sha256``
is over the bytes of the one source file, ``hub.revision`` over a hub's rows. Either may be null: such
a task is called ``unpinned`` until somebody freezes it.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from harness.records import AnswerType, InputError, build_from_yaml, nearest

FOLDER = Path(__file__).parent


def read_definition(path: Path) -> TaskFile:
    """Read one task file. Anything wrong in it is an ``InputError`` that begins with the file's name."""
    return build_from_yaml(TaskFile, path, "file, fields, problems")


def packaged_names() -> list[str]:
    """Names of the tasks that come with the harness."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def packaged_path(name: str) -> Path:
    """The YAML file of a task that comes with the harness."""
    path = FOLDER / f"{name}.yaml"
    if name not in packaged_names():
        raise InputError(f"task {name!r} is not known; {nearest(name, packaged_names())}")
    return path


@dataclasses.dataclass(frozen=True, slots=True)
class FieldMap:
    """Which field of a row means what; several names are tried in order, no name leaves the value out.

    ``solution`` is read only where no ``answer`` field is: the answer is then its last ``\\boxed{}``.
    Without ``id``, rows are numbered.
    """

    prompt: tuple[str, ...]
    answer: tuple[str, ...] = ()
    solution: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    level: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.answer and not self.solution:
            raise InputError("fields.answer is missing; name the rows' answer field, or a solution field with \\boxed")


@dataclasses.dataclass(frozen=True, slots=True)
class PackageSource:
    """A JSON file inside an installed package; ``rows`` is the key of its mapping (or list) of rows."""

    module: str
    distribution: str
    file: str
    rows: str


@dataclasses.dataclass(frozen=True, slots=True)
class HubSource:
    """A data set on a hub, read through the ``datasets`` extra; rows of several ``configs`` are joined in order."""

    id: str
    split: str
    revision: str | None = None
    configs: tuple[str, ...] = ()
    fields: FieldMap | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class TaskFile:
    """One task definition. ``problems`` is the number of rows it must have (null: any number).

    ``file`` is looked for beside a YAML file of the user's own, then in ``$HARNESS_DATA``;
    ``packaged`` lies beside the packaged YAML. Where ``answer_after`` stands in a row's answer, what
    follows it is the answer.
    """

    answer_type: AnswerType
    prompt_template: str
    fields: FieldMap
    licence: str
    problems: int | None = None
    note: str = ""
    file: str | None = None
    packaged: str | None = None
    package: PackageSource | None = None
    hub: HubSource | None = None
    sha256: str | None = None
    answer_after: str | None = None

    def __post_init__(self) -> None:
        if self.prompt_template.count("{prompt}") != 1:
            raise InputError(f"prompt_template = {self.prompt_template!r}: must hold {{prompt}} exactly once")
        if self.problems is not None and self.problems < 1:
            raise InputError(f"problems = {self.problems}: must be at least 1, or left out for any number")
        local = [name for name in ("file", "packaged", "package") if getattr(self, name) is not None]
        if len(local) > 1 or not (local or self.hub):
            raise InputError(f"{', '.join(local) or 'no source'} given: give one of file, packaged, package, or a hub")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise InputError(f"sha256 = {self.sha256!r}: must be 64 lower-case hex digits, or null while unpinned")

    @property
    def pin(self) -> str:
        """What holds the rows fast, in words for a table; a hub is named only where there are two sources."""
        hub = ""
        if self.hub is not None:
            hub = f"revision {self.hub.revision[:12]}" if self.hub.revision else "unpinned"
        local = f"sha256 {self.sha256[:12]}" if self.sha256 else "unpinned"
        return "; hub ".join(dict.fromkeys(part for part in (local, hub) if part))
