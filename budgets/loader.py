"""Loads a budget sweep by name or path: one YAML file holds the fields of one ``Budget`` and nothing else.

A wrong name, key, type or value is an ``InputError`` of one line that begins with the file's name.
"""

from __future__ import annotations

from pathlib import Path

from harness.records import Budget, InputError, build_from_yaml, nearest

FOLDER = Path(__file__).parent


def load_budget(name_or_path: str) -> Budget:
    """Load a packaged budget by name, or a ``.yaml`` file by path."""
    return build_from_yaml(Budget, _locate(name_or_path), "seconds, clock, batch")


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
