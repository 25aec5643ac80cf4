"""``trajectories.jsonl``: append-only, one JSON object a line, whole after a crash at any moment.

Rows of kind ``trajectory``, ``look`` and ``heartbeat``; ``docs/log.md`` describes each field. A look and
the trajectories it ended go out in one write, the look last: it commits them. Writes reach the
system at once and the disk at least every ``SYNC_EVERY_S``. Reading drops a torn last line and
trajectories that no look committed: they were in flight.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.records import InputError, Look, Progress, Trajectory, build

SYNC_EVERY_S = 0.5
HEARTBEAT_EVERY_S = 0.25

RoundKey = tuple[str, int, int]  # model, batch, round


class TrajectoryLog:
    """The writing end. ``monotonic`` tells when a sync is due (seconds)."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._last_sync = monotonic()
        self._failed: OSError | None = None

    def commit(self, finished: Sequence[Trajectory], look: Look) -> None:
        rows = [{"kind": "trajectory", **dataclasses.asdict(t)} for t in finished]
        self._write([*rows, {"kind": "look", **dataclasses.asdict(look)}])

    def heartbeat(self, model: str, batch: int, round: int, clock_s: float) -> None:
        # A failure is kept for the next commit, whose thread can end the run.
        with contextlib.suppress(OSError):
            self._write([{"kind": "heartbeat", "model": model, "batch": batch, "round": round, "clock_s": clock_s}])

    def sync(self) -> None:
        with self._lock:
            self._sync()

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _write(self, rows: Iterable[dict[str, Any]]) -> None:
        data = "".join(json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in rows).encode()
        with self._lock:
            if self._failed is not None:
                raise self._failed
            start = os.fstat(self._file).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._file, view) :]
            except OSError as error:
                # A full disk must not leave half a row that a later one would be glued to.
                self._failed = error
                os.ftruncate(self._file, start)
                raise
            if self._monotonic() - self._last_sync >= SYNC_EVERY_S:
                self._sync()

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            self._failed = error
            raise
        self._last_sync = self._monotonic()


class Heartbeat:
    """Writes the clock of the running round every ``HEARTBEAT_EVERY_S``, from a thread of its own.

    ``now`` gives None while the clock stands still.
    """

    def __init__(self, log: TrajectoryLog, key: RoundKey, now: Callable[[], float | None]) -> None:
        self._log, self._key, self._now = log, key, now
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_EVERY_S):
            clock_s = self._now()
            if clock_s is not None:
                self._log.heartbeat(*self._key, clock_s)


@dataclasses.dataclass(frozen=True, slots=True)
class LogContent:
    """All that a log commits to: trajectories in order, and the progress of each round."""

    trajectories: tuple[Trajectory, ...]
    rounds: dict[RoundKey, Progress]
    committed_bytes: int


def read_log(path: Path) -> LogContent:
    """Read a log; the torn tail and uncommitted trajectories at its end are left out."""
    trajectories: list[Trajectory] = []
    pending: list[Trajectory] = []
    looks: dict[RoundKey, list[Look]] = {}
    clock: dict[RoundKey, float] = {}
    finished: dict[RoundKey, set[tuple[str, int]]] = {}
    committed = 0
    for number, end, row in whole_rows(path):
        where = f"{path}:{number}"
        kind = row.pop("kind", None)
        if kind == "trajectory":
            pending.append(build(Trajectory, row, where))
            continue
        if kind == "heartbeat":
            beat = build(_Beat, row, where)
            key = (beat.model, beat.batch, beat.round)
            # Before its first look a round has nothing to go on with: it starts again at zero.
            if key in looks:
                clock[key] = max(clock[key], beat.clock_s)
        elif kind == "look":
            look = _look(row, where)
            key = (look.model, look.batch, look.round)
            looks.setdefault(key, []).append(look)
            clock[key] = max(clock.get(key, 0.0), look.clock_s)
            finished.setdefault(key, set()).update((t.problem_id, t.sample) for t in pending)
            trajectories += pending
            pending = []
        else:
            raise InputError(f"{where}: kind = {kind!r}; known: trajectory, look, heartbeat")
        if not pending:
            committed = end
    rounds = {k: Progress(tuple(v), frozenset(finished[k]), clock[k]) for k, v in looks.items()}
    return LogContent(tuple(trajectories), rounds, committed)


@dataclasses.dataclass(frozen=True, slots=True)
class _Beat:
    model: str
    batch: int
    round: int
    clock_s: float


def _look(row: dict[str, Any], where: str) -> Look:
    try:
        return Look(**{**row, "submitted": tuple((p, s, t) for p, s, t in row["submitted"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a look ({error}); restore the file") from error


def truncate_to_committed(path: Path) -> LogContent:
    """Read a log for going on with it: what is not committed is cut off the file."""
    content = read_log(path)
    os.truncate(path, content.committed_bytes)
    return content


def whole_rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(line number, byte offset behind it, row); a torn last line is dropped, any other bad line is an error."""
    if not path.is_file():
        return
    offset, bad = 0, None
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if bad is not None:
                raise InputError(f"{path}:{bad}: not a JSON object in the middle of the log; restore the file")
            offset += len(line)
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield number, offset, row
            else:
                bad = number
