"""Where a task's rows come from: a JSONL file, a file in an installed package, or a hub.

``find`` never touches the network: it says where the local file lies, or raises the ``NotAtHand``
that says what is missing and how to get it. Readers yield ``(row label, row)``, the label as a
message would name it; a file is read once, so the bytes that are hashed are the bytes that are parsed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.records import InputError
from harness.tasks.definition import FOLDER, HubSource, TaskFile

Row = tuple[str, dict[str, Any]]
LOG = logging.getLogger(__name__)


class NotAtHand(InputError):
    """The rows are not on this machine; the message says how to get them."""


def find(name: str, task: TaskFile, folder: Path) -> Path:
    """The local file that holds the task's rows; ``folder`` is where the task's YAML lies."""
    if task.package is not None:
        return _in_package(name, task)
    if task.packaged is not None:
        path = folder / task.packaged
        if not path.is_file():
            raise NotAtHand(f"task {name}: {task.packaged} does not come with this install; reinstall the harness")
        return path
    if task.file is not None:
        return _data_file(name, task, folder)
    raise NotAtHand(f"task {name}: no local file named; {_hub_cure(task)}")


def read_file(name: str, task: TaskFile, path: Path) -> tuple[list[Row], str]:
    """All rows of a local file and the sha256 of its bytes; refuses bytes that are not the pinned ones."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"task {name}: {path} cannot be read: {error.strerror}; check its permissions") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if task.sha256 is not None and sha256 != task.sha256:
        raise InputError(
            f"task {name}: {path} has sha256 {sha256[:12]}..., pinned is {task.sha256[:12]}...; "
            f"fetch the pinned file, or name {path.name} by its path to run it as another task"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"task {name}: {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    rows = _json_rows(text, task.package.rows, path) if task.package else _jsonl_rows(text, path)
    return list(rows), sha256


def read_hub(name: str, hub: HubSource) -> list[Row]:
    """All rows of a hub's data set, in the hub's order (network, unless the hub's cache holds it)."""
    try:
        import datasets
    except ImportError:
        raise InputError(f"task {name}: {hub.id} is on a hub; pip install 'reasoning-harness[datasets]'") from None
    if hub.revision is None:
        LOG.warning("task %s: %s has no revision: unpinned, another day may give other rows", name, hub.id)
    rows: list[Row] = []
    for config in hub.configs or (None,):
        try:
            table = datasets.load_dataset(hub.id, config, split=hub.split, revision=hub.revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"task {name}: {hub.id} could not be loaded from its hub ({reason}); "
                f"go online, or put the rows into a file and name it by its path"
            ) from None
        rows += [(f"{hub.id} row {i}", dict(row)) for i, row in enumerate(table, start=len(rows) + 1)]
    return rows


def _data_file(name: str, task: TaskFile, folder: Path) -> Path:
    wanted = Path(str(task.file)).expanduser()
    root = os.environ.get("HARNESS_DATA", "")
    # Beside the YAML only for a user's own: nothing dropped into the package may shadow the data folder.
    candidates = [folder / wanted] if wanted.is_absolute() or folder != FOLDER else []
    if root and not wanted.is_absolute():
        if not Path(root).is_dir():
            raise InputError(f"HARNESS_DATA = {root!r}: no such folder; set it to the folder that holds {wanted}")
        candidates.append(Path(root) / wanted)
    for path in candidates:
        if path.is_file():
            return path
    place = (
        f"not in HARNESS_DATA = {root!r}; put it into HARNESS_DATA"
        if root
        else "not at hand; set HARNESS_DATA to its folder"
    )
    raise NotAtHand(f"task {name}: {wanted} is {place}{', or ' + _hub_cure(task) if task.hub else ''}")


def _hub_cure(task: TaskFile) -> str:
    return f"pip install 'reasoning-harness[datasets]' and load {task.hub.id if task.hub else 'it'} from its hub"


def _in_package(name: str, task: TaskFile) -> Path:
    source = task.package
    assert source is not None
    # find_spec of a top-level name runs none of the package's code.
    spec = importlib.util.find_spec(source.module)
    if spec is None:
        raise NotAtHand(f"task {name}: {source.distribution} is not installed; pip install {source.distribution}")
    for root in spec.submodule_search_locations or ():
        path = Path(root) / source.file
        if path.is_file():
            return path
    raise InputError(
        f"task {name}: {source.file} is not in the installed {source.distribution}; "
        f"pip install --force-reinstall {source.distribution}"
    )


def _jsonl_rows(text: str, path: Path) -> Iterator[Row]:
    # Not splitlines(): it also splits at U+2028, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: row {number} is not JSON ({error.msg}, column {error.colno}); mend it") from None
        yield _checked(row, f"{path.name} row {number}")


def _json_rows(text: str, key: str, path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(text)[key]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no JSON with a {key!r} entry ({error}); reinstall its package") from None
    for number, row in enumerate(rows.values() if isinstance(rows, dict) else rows, start=1):
        yield _checked(row, f"{path.name} row {number}")


def _checked(row: Any, label: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{label}: expected named fields, found {type(row).__name__}; write one JSON object a row")
    return label, row
