"""Loads a budget sweep by name or path: one YAML file holds the fields of one ``Budget`` and nothing else.

A wrong name, key, type or value is an ``InputError`` of one line that begins with the file's name.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from harness.records import Budget, InputError, build, nearest

FOLDER = Path(__file__).parent


def load_budget(name_or_path: str) -> Budget:
    """Load a packaged budget by name, or a ``.yaml`` file by path."""
    path = _locate(name_or_path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path.name}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path.name}: expected named fields (seconds, clock, batch, ...), found {data!r}")
    try:
        return build(Budget, data, path.name)
    except InputError as error:
        # Budget checks its own values and knows no file; build() names the file itself.
        message = str(error)
        raise InputError(message if message.startswith(path.name) else f"{path.name}: {message}") from None


def list_budgets() -> list[str]:
    """Names of the budgets that come with the harness."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _locate(name_or_path: str) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise InputError(f"budget {name_or_path!r}: no such file; give a budget's name, or a .yaml file")
        return path
    if name_or_path not in list_budgets():
        raise InputError(f"budget {name_or_path!r} is not known; {nearest(name_or_path, list_budgets())}")
    return FOLDER / f"{name_or_path}.yaml"
