"""A file that a call will write: tried before the work that fills it, so that the work is not lost."""

from __future__ import annotations

from pathlib import Path

from harness.records import InputError


def beside(path: Path) -> Path:
    """Where a file is written that then replaces ``path``, so that it is there whole or not at all."""
    return path.with_name(f"{path.name}.new")


def check_writable(path: Path, option: str) -> None:
    """InputError unless a file can be written at ``path`` and beside it, or in a folder that can be made for it.

    What is there stays as it is, and nothing is left there.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{option} {path}: is no file; name one")
        missing = [folder for folder in path.parents if not folder.exists()]
        if missing:
            missing[-1].mkdir()
            missing[-1].rmdir()
            return
        for trial in (path, beside(path)):
            was_there = trial.exists()
            trial.open("ab").close()
            if not was_there:
                trial.unlink()
    except OSError as error:
        raise InputError(
            f"{option} {path}: cannot be written ({error.strerror}); name a file in a folder that takes one"
        ) from None
