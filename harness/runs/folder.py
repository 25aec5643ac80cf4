"""The run folder: manifest.json, trajectories.jsonl, verdicts.jsonl, curves.csv and plots/.

A run is named; a name is a folder under ``results/runs/`` of the current directory, anything with a
path separator is a path. Whole files are replaced atomically, so a crash leaves the old or the new.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.records import InputError, Verdict, build

RUNS = Path("results") / "runs"


@dataclasses.dataclass(frozen=True, slots=True)
class RunFolder:
    path: Path

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def log_path(self) -> Path:
        return self.path / "trajectories.jsonl"

    @property
    def verdicts_path(self) -> Path:
        return self.path / "verdicts.jsonl"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The folder, made if it is not there, for one sampling process alone; the lock ends with the process."""
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"--run {self.path}: another process samples into it; wait, or name another") from None
            yield
        finally:
            os.close(handle)

    def read_manifest(self) -> dict[str, Any]:
        try:
            return json.loads(self.manifest_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"run {self.path}: holds no manifest.json; give the folder of a sampled run") from None
        except ValueError as error:
            raise InputError(f"{self.manifest_path}: not JSON ({error}); restore the file") from error

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        replace(self.manifest_path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")

    def forget(self) -> None:
        """Take back a run whose log is still empty: what it asked for could not be done."""
        if self.log_path.is_file() and self.log_path.stat().st_size:
            return
        for path in (self.log_path, self.manifest_path):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files of the user's
            self.path.rmdir()

    def write_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        lines = (json.dumps(dataclasses.asdict(v), ensure_ascii=False) + "\n" for v in verdicts)
        replace(self.verdicts_path, "".join(lines))

    def read_verdicts(self) -> list[Verdict]:
        if not self.verdicts_path.is_file():
            raise InputError(f"run {self.path}: not graded yet; run `harness grade {self.path}`")
        with self.verdicts_path.open(encoding="utf-8") as file:
            return [build(Verdict, json.loads(line), f"{self.verdicts_path}:{n}") for n, line in enumerate(file, 1)]


def run_folder(name: str) -> RunFolder:
    """The folder of a run by name or path (it need not exist)."""
    if not name:
        raise InputError("--run '': give a name or a path")
    return RunFolder(Path(name) if os.sep in name or Path(name).is_dir() else RUNS / name)


def last_run(graded: bool = False) -> RunFolder:
    """The run whose manifest is newest; ``graded`` passes over runs without verdicts."""
    manifests = sorted(RUNS.glob("*/manifest.json"), key=lambda p: p.stat().st_mtime)
    if graded:
        manifests = [p for p in manifests if RunFolder(p.parent).verdicts_path.is_file()]
    if not manifests:
        raise InputError(f"{RUNS}: no runs here; `harness bench` makes one")
    return RunFolder(manifests[-1].parent)


def replace(path: Path, text: str) -> None:
    """Write a whole file through a synced neighbour and a rename."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
