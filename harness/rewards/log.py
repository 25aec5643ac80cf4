"""``rewards.jsonl``: append-only, one JSON object a line; the first says which reward model, the rest what it scored.

A batch goes out in one write and to the disk at once. Reading trusts whole lines alone, as the reader of the sampling
log does: a torn last line is dropped, any other bad line is an error. ``docs/rewards.md`` describes each field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.records import InputError, Reward, build
from harness.runs.log import whole_rows

NAME = "rewards.jsonl"
FORMAT = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """Which reward model, with which settings, over which run (the manifest's ``created``).

    ``setting`` is a process reward model's aggregate, a classifier's value (and label). Seconds hold for this device,
    dtype and batch, so these may not change within a file either.
    """

    format: int
    run: str
    reward: str
    sha256: str
    scorer: str
    setting: str
    dtype: str
    device: str
    batch: int

    @property
    def label(self) -> str:
        """How tables and captions name the reward model."""
        return f"{self.reward} ({self.scorer}, {self.setting})"


@dataclasses.dataclass(frozen=True, slots=True)
class RewardLog:
    """All that a file holds. ``whole_bytes``: where its last whole line ends."""

    header: Header | None
    rewards: tuple[Reward, ...]
    whole_bytes: int


def read_rewards(path: Path) -> RewardLog:
    """Read the file; without one: no header and no rewards. InputError for a damaged one, or a sample twice."""
    header, whole = None, 0
    rewards: dict[tuple[str, str, int, str, int], Reward] = {}
    for number, end, row in whole_rows(path):
        where = f"{path}:{number}"
        kind = row.pop("kind", None)
        if number == 1 and kind == "header":
            header = build(Header, row, where)
            if header.format != FORMAT:
                raise InputError(f"{where}: format = {header.format}; this version reads {FORMAT}; score the run anew")
        elif number > 1 and kind == "reward":
            reward = build(Reward, row, where)
            if reward.key in rewards:
                raise InputError(f"{where}: sample {reward.key} is scored twice; move the file away and score anew")
            rewards[reward.key] = reward
        else:
            raise InputError(f"{where}: kind = {kind!r}; line 1 is the header, all others are rewards")
        whole = end
    return RewardLog(header, tuple(rewards.values()), whole)


def read_rewards_of(run: str, path: Path) -> RewardLog:
    """The same, where the header must name ``run``."""
    log = read_rewards(path)
    if log.header is not None and log.header.run != run:
        raise InputError(f"{path}: made for the run of {log.header.run}, not {run}; move the file away and score anew")
    return log


def check_same(old: Header, new: Header, path: Path) -> None:
    """InputError naming the first field in which the file's header differs from what is asked for."""
    for field in dataclasses.fields(Header):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was != now:
            raise InputError(
                f"{path}: {field.name} was {was!r}, is now {now!r}; go on with the same, or move the file away"
            )


@contextlib.contextmanager
def appending(path: Path, log: RewardLog, header: Header) -> Iterator[RewardWriter]:
    """The writing end of a file that was just read: what is torn is cut off, a new file gets its header."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.ftruncate(file, log.whole_bytes)
        writer = RewardWriter(file)
        if log.header is None:
            writer.write([{"kind": "header", **dataclasses.asdict(header)}])
        yield writer
    finally:
        os.close(file)


class RewardWriter:
    """Appends to an open file."""

    def __init__(self, file: int) -> None:
        self._file = file

    def append(self, rewards: Iterable[Reward]) -> None:
        self.write({"kind": "reward", **dataclasses.asdict(r)} for r in rewards)

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
        start = os.fstat(self._file).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError:
            # A full disk must not leave half a row that a later one would be glued to.
            os.ftruncate(self._file, start)
            raise
