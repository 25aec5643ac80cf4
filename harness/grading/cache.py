"""Verdicts kept on the disk between runs, by content: what was decided once is not computed again.

A key is the sha256 of everything a verdict depends on, so an entry is never stale and needs no clearing. Each entry
carries a checksum over its key and value: a damaged one is a miss, never another verdict. A cache that cannot be
read or written turns itself off, says why in ``problem``, and grading goes on without it. One sqlite file, safe for
several processes at a time; may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path

from harness.grading.quick import Outcome

FILE_NAME = "verdicts.sqlite3"
MAX_ENTRIES = 1_000_000
"""About 200 MB; a full cache is read and no longer written."""
BUSY_TIMEOUT_S = 2.0
"""How long another process's write is waited for, before this process goes on without the cache."""
SAVE_EVERY = 256
"""New entries that are written at once; a killed process loses at most these."""
_KEPT = frozenset({"correct", "incorrect", "parse_error"})
"""What was decided. ``timeout``, ``limit`` and ``error`` may come out otherwise on a quieter machine."""
_TABLE = "CREATE TABLE IF NOT EXISTS verdicts (id INTEGER PRIMARY KEY, key BLOB UNIQUE, value TEXT, checksum BLOB)"


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/reasoning-harness``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".cache"
    return root / "reasoning-harness"


class Cache:
    """Outcomes by key. One thread at a time; ``problem`` is None, or why the cache is switched off."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (cache_folder() if folder is None else folder) / FILE_NAME
        self.problem: str | None = None
        self._unsaved: dict[bytes, str] = {}
        self._connection: sqlite3.Connection | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
            with self._connection:
                self._connection.execute(_TABLE)
            (last,) = self._connection.execute("SELECT max(id) FROM verdicts").fetchone()
            self._room = MAX_ENTRIES - (last or 0)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def get(self, key: bytes) -> Outcome | None:
        """The outcome under ``key``, or None where there is none that can be trusted."""
        if self._connection is None:
            return None
        try:
            row = self._connection.execute("SELECT value, checksum FROM verdicts WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        if row is None or not isinstance(row[0], str) or row[1] != _checksum(key, row[0]):
            return None
        status, class_id = json.loads(row[0])
        return Outcome(status, class_id)

    def put(self, key: bytes, outcome: Outcome) -> None:
        """Keep an outcome, if it was decided; written with the next batch."""
        if self._connection is None or outcome.status not in _KEPT or self._room <= len(self._unsaved):
            return
        self._unsaved[key] = json.dumps([outcome.status, outcome.class_id])
        if len(self._unsaved) >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what is new."""
        if self._connection is None or not self._unsaved:
            return
        rows = [(key, value, _checksum(key, value)) for key, value in self._unsaved.items()]
        try:
            with self._connection:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO verdicts (key, value, checksum) VALUES (?, ?, ?)", rows
                )
        except sqlite3.Error as error:
            self._give_up(error)
        else:
            self._room -= len(rows)
            self._unsaved.clear()

    def close(self) -> None:
        self.save()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _give_up(self, error: Exception) -> None:
        self.problem = f"cache {self.path}: {error}; graded without it (delete the file if it is damaged)"
        self._unsaved.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def verdict_key(version: str, policy: dict[str, object], gold: str, answer: str) -> bytes:
    """sha256 over all that a verdict depends on; ``version`` names the grader and the libraries it computes with."""
    content = json.dumps([version, sorted(policy.items()), gold, answer])
    return hashlib.sha256(content.encode()).digest()


def _checksum(key: bytes, value: str) -> bytes:
    return hashlib.blake2b(key + value.encode(), digest_size=8).digest()
