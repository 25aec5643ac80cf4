"""Two states of this repository side by side, each able to run its own ``harness throughput``.

A commit is unpacked into a temporary folder, so that neither the working tree nor git's own files change; what is
not committed is measured where it lies. A state's packages are laid out by links as its pyproject says, and
come before the installed copy.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from harness.records import InputError

WORKING_TREE = "working tree"


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """``label`` says which state; ``site`` is the folder that its package ``harness`` lies in."""

    label: str
    site: Path

    def throughput(self, options: Sequence[str], threads: int | None = None) -> None:
        """Run ``harness throughput`` of this state; InputError with the last line of what it said if it fails.

        ``threads`` for its work on the CPU; by default as many as torch takes.
        """
        ran = self._python("-m", "harness.cli", "throughput", *options, threads=threads)
        if ran.returncode:
            lines = [line for line in ran.stderr.splitlines() if line.strip()] or [f"exit code {ran.returncode}"]
            raise InputError(f"{self.label}: {lines[-1].removeprefix('harness: ')}")

    def _python(self, *arguments: str, threads: int | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.site)}
        environment.pop("TRITON_INTERPRET", None)  # `harness regress --plan` sets it for itself
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        # -P: nothing is imported from the current folder, which may be a clone.
        return subprocess.run([sys.executable, "-P", *arguments], env=environment, capture_output=True, text=True)

    def check(self) -> None:
        """InputError unless Python takes this state's code and it can measure."""
        ran = self._python("-c", "import harness.cli, harness.kernels; print(harness.cli.__file__)")
        if ran.returncode or not ran.stdout.startswith(str(self.site)):
            raise InputError(f"{self.label}: its code cannot be run from {self.site}; is its pyproject.toml as usual?")
        if not (self.site / "harness/bench/throughput.py").is_file():
            raise InputError(f"{self.label}: has no `harness throughput` yet; name a later commit")


def repository() -> Path:
    """The top folder of the clone that the command runs in."""
    try:
        return Path(_git(Path.cwd(), "rev-parse", "--show-toplevel").strip())
    except (OSError, subprocess.CalledProcessError):
        raise InputError("regress: no git repository here; run it inside a clone of this project") from None


def commit_of(root: Path, name: str) -> str:
    """Full id of a commit, branch or tag."""
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except subprocess.CalledProcessError:
        raise InputError(f"{name!r}: no such commit, branch or CSV file; see `git log --oneline`") from None


def unpack(root: Path, name: str, folder: Path) -> Tree:
    """The state of a commit, under ``folder``."""
    commit, source = commit_of(root, name), folder / "source"
    folder.mkdir()
    _git(root, "archive", "--format=tar", f"--output={folder / 'source.tar'}", commit)
    with tarfile.open(folder / "source.tar") as archive:
        archive.extractall(source, filter="data")
    return _lay_out(f"{name} ({commit[:9]})", source, folder / "site")


def working_tree(root: Path, folder: Path) -> Tree:
    """What lies in the clone now, committed or not."""
    folder.mkdir()
    return _lay_out(WORKING_TREE, root, folder / "site")


def _lay_out(label: str, source: Path, site: Path) -> Tree:
    try:
        project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
        places: dict[str, str] = project["tool"]["setuptools"]["package-dir"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"{label}: its pyproject.toml names no package-dir; name a later commit") from None
    for package, place in sorted(places.items()):
        target = site.joinpath(*package.split("."))
        if "." in package:
            target.symlink_to(source / place)
            continue
        # A folder of links: sub-packages from elsewhere are put beside its own.
        target.mkdir(parents=True)
        for entry in (source / place).iterdir():
            (target / entry.name).symlink_to(entry)
    return Tree(label, site)


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout
