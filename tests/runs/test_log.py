"""The log after a crash at any moment: what a look committed is there, whole and once; the rest is gone."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from harness.engine.clock import RealClock
from harness.records import InputError
from harness.runs import log as log_module
from harness.runs.log import SYNC_EVERY_S, Heartbeat, TrajectoryLog, read_log, truncate_to_committed


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trajectories.jsonl"


def write(path, make, commits=3):
    """Commits: 0 of no trajectory, 1 of one, 2 of two; a heartbeat between."""
    log = TrajectoryLog(path, lambda: 0.0)
    log.commit([], make.look(0, 1.0, [("p0", 0, 0.0), ("p1", 0, 0.5)]))
    if commits > 1:
        log.heartbeat("m", 4, 0, 1.25)
        log.commit([make.trajectory(0)], make.look(1, 2.0, [("p0", 1, 1.0)]))
    if commits > 2:
        log.commit([make.trajectory(0, "p1", late=True), make.trajectory(1)], make.look(2, 3.0, ended=True))
    log.close()


def test_round_trip(path, make):
    write(path, make)
    content = read_log(path)
    assert content.trajectories == (make.trajectory(0), make.trajectory(0, "p1", late=True), make.trajectory(1))
    (progress,) = content.rounds.values()
    assert progress.looks == (
        make.look(0, 1.0, [("p0", 0, 0.0), ("p1", 0, 0.5)]),
        make.look(1, 2.0, [("p0", 1, 1.0)]),
        make.look(2, 3.0, ended=True),
    )
    assert progress.finished == {("p0", 0), ("p1", 0), ("p0", 1)} and progress.clock_s == 3.0
    assert list(content.rounds) == [("m", 4, 0)] and content.committed_bytes == path.stat().st_size


def test_no_file_is_an_empty_log(path):
    content = read_log(path)
    assert content.trajectories == () and content.rounds == {} and content.committed_bytes == 0


def test_rounds_are_told_apart(path, make):
    log = TrajectoryLog(path, lambda: 0.0)
    log.commit([make.trajectory(0)], make.look(0, 5.0, [("p0", 0, 0.0)], ended=True))
    log.heartbeat("m", 4, 1, 9.0)
    log.commit([make.trajectory(0, "p1")], make.look(0, 2.0, [("p1", 0, 0.0)], round=1))
    log.heartbeat("m", 4, 1, 2.5)
    log.close()
    rounds = read_log(path).rounds
    assert rounds["m", 4, 0].finished == {("p0", 0)} and rounds["m", 4, 0].clock_s == 5.0
    # The first heartbeat came before the round's first look, in an attempt of which nothing is left.
    assert rounds["m", 4, 1].finished == {("p1", 0)} and rounds["m", 4, 1].clock_s == 2.5


def test_torn_at_every_byte_of_the_last_commit(path, make, tmp_path):
    write(path, make, commits=2)
    before, start = read_log(path), path.stat().st_size
    path.unlink()
    write(path, make)
    whole, data = read_log(path), path.read_bytes()
    torn = tmp_path / "torn.jsonl"
    for end in range(start, len(data)):
        torn.write_bytes(data[:end])
        content = truncate_to_committed(torn)
        assert (content.trajectories, content.rounds) == (before.trajectories, before.rounds)
        assert torn.stat().st_size == start == content.committed_bytes
        # Going on behind it gives the whole log.
        log = TrajectoryLog(torn, lambda: 0.0)
        log.commit([make.trajectory(0, "p1", late=True), make.trajectory(1)], make.look(2, 3.0, ended=True))
        log.close()
        assert read_log(torn) == whole
    # With its last byte, the line's end, it is committed.
    torn.write_bytes(data)
    assert truncate_to_committed(torn) == whole


def test_torn_at_every_byte_of_the_whole_log(path, make, tmp_path):
    """Wherever it is cut, reading gives a prefix: never an error, never half a commit."""
    write(path, make)
    data, whole = path.read_bytes(), read_log(path)
    torn, seen = tmp_path / "torn.jsonl", set()
    for end in range(len(data) + 1):
        torn.write_bytes(data[:end])
        content = read_log(torn)
        n = len(content.trajectories)
        assert content.trajectories == whole.trajectories[:n]
        looks = sum(len(p.looks) for p in content.rounds.values())
        seen.add((looks, n))
    assert seen == {(0, 0), (1, 0), (2, 1), (3, 3)}


def test_zeros_and_half_characters_at_the_end_are_a_torn_line(path, make):
    write(path, make)
    whole = read_log(path)
    for tail in (b"\0" * 100, b'{"kind": "look", "te\xc3', b"{", b"[1]", b'"x"'):
        with path.open("ab") as file:
            file.write(tail)
        assert truncate_to_committed(path) == whole


def test_trajectories_without_their_look_are_dropped(path, make):
    import dataclasses
    import json

    write(path, make)
    whole = read_log(path)
    rows = [{"kind": "trajectory", **dataclasses.asdict(make.trajectory(n))} for n in (7, 8)]
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    assert read_log(path) == whole
    truncate_to_committed(path)
    assert path.stat().st_size == whole.committed_bytes


@pytest.mark.parametrize(
    "garbage,named",
    [
        (b"{garbage}\n", "not a JSON object"),
        (b"\0\0\0\n", "not a JSON object"),
        (b"\xff\xfe\n", "not a JSON object"),
        (b"\n", "not a JSON object"),
        (b"[1, 2]\n", "not a JSON object"),
        (b'{"kind": "loook"}\n', "loook"),
        (b"{}\n", "kind"),
        (b'{"kind": "look", "model": "m"}\n', "look"),
        (b'{"kind": "look", "submitted": [[1]]}\n', "look"),
        (b'{"kind": "heartbeat", "model": "m"}\n', "batch is missing"),
        (b'{"kind": "trajectory", "model": "m", "colour": 1}\n', "colour"),
        (b'{"kind": "trajectory", "model": "m"}\n', "task is missing"),
    ],
)
def test_garbage_in_the_middle_names_its_line(path, make, garbage, named):
    write(path, make)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], garbage, *lines[2:]]))
    for reader in (read_log, truncate_to_committed):
        with pytest.raises(InputError) as caught:
            reader(path)
        message = str(caught.value)
        assert message.startswith(f"{path}:3") and named in message and "\n" not in message
    assert len(path.read_bytes().splitlines()) == len(lines) + 1


class FullDisk:
    """``os.write`` that takes ``room`` bytes and then has none left."""

    def __init__(self, room):
        self.room, self.write = room, os.write

    def __call__(self, fd, data):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.write(fd, bytes(data)[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 100, 350])
def test_a_full_disk_leaves_nothing_half_written(path, make, monkeypatch, room):
    write(path, make, commits=2)
    before = path.read_bytes()
    log = TrajectoryLog(path, lambda: 0.0)
    monkeypatch.setattr(log_module.os, "write", FullDisk(room))
    with pytest.raises(OSError) as caught:
        log.commit([make.trajectory(1)], make.look(2, 3.0))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    # Room again: still nothing goes in behind a commit that is missing, and every commit says so.
    monkeypatch.undo()
    log.heartbeat("m", 4, 0, 3.5)
    with pytest.raises(OSError):
        log.commit([], make.look(3, 4.0))
    log.close()
    assert path.read_bytes() == before


def test_a_disk_that_fills_under_a_heartbeat_ends_the_run_at_its_next_commit(path, make, monkeypatch):
    """The heartbeat's thread keeps still about it (no traceback); the commit that follows raises."""
    noise = []
    monkeypatch.setattr(threading, "excepthook", noise.append)
    log = TrajectoryLog(path, time.monotonic)
    log.commit([], make.look(0, 0.0))
    before = path.read_bytes()
    monkeypatch.setattr(log_module.os, "write", FullDisk(20))
    with Heartbeat(log, ("m", 4, 0), lambda: 1.0):
        time.sleep(2.5 * log_module.HEARTBEAT_EVERY_S)
    monkeypatch.undo()
    assert path.read_bytes() == before and not noise
    with pytest.raises(OSError) as caught:
        log.commit([], make.look(1, 1.0))
    assert caught.value.errno == errno.ENOSPC
    log.close()
    assert path.read_bytes() == before


def test_a_failed_sync_ends_the_run(path, make, monkeypatch):
    now = [0.0]
    log = TrajectoryLog(path, lambda: now[0])

    def fsync(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "fsync", fsync)
        now[0] = 1.0
        log.heartbeat("m", 4, 0, 1.0)
    with pytest.raises(OSError, match="Input/output"):
        log.commit([], make.look(0, 1.0))
    log.close()


def test_the_disk_is_synced_every_half_second(path, make, monkeypatch):
    now, synced = [0.0], []
    fsync = os.fsync
    monkeypatch.setattr(log_module.os, "fsync", lambda fd: (synced.append(now[0]), fsync(fd)))
    log = TrajectoryLog(path, lambda: now[0])
    for tick in range(1, 41):
        now[0] = tick / 10
        log.commit([], make.look(tick, now[0]))
    assert synced == [SYNC_EVERY_S * n for n in range(1, 9)]
    log.close()
    assert len(synced) == 9


def test_a_heartbeat_at_least_every_half_second_under_a_slow_round(path, fake):
    """Real seconds: one window takes 1.4 s, and the log's clock never stands still for more than half a second."""

    class Slow(RealClock):
        def tick(self, work, amount):
            if work == "step":
                time.sleep(1.4)

    clock, log = Slow(), TrajectoryLog(path, time.monotonic)
    began = time.monotonic()
    with Heartbeat(log, ("m", 1, 0), lambda: clock.now() if clock.running else None):
        time.sleep(0.6)  # loading: the clock stands still, nothing is written
        assert path.stat().st_size == 0
        fake.play(fake.budget(batch=1, samples_per_problem=1), lambda p, s: "abcde$", [1], sink=log, clock=clock)
        spent = time.monotonic() - began - 0.6
        size = path.stat().st_size
        time.sleep(0.4)  # behind the round's end, too
        assert path.stat().st_size == size
    log.close()
    import json

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    clocks = [row["clock_s"] for row in rows if row["kind"] != "trajectory"]
    assert clocks == sorted(clocks) and 2.8 <= clocks[-1] <= spent + 0.1
    assert max(b - a for a, b in zip([0.0, *clocks], clocks, strict=False)) <= 0.5
    assert sum(row["kind"] == "heartbeat" for row in rows) >= 6
    assert [p.clock_s for p in read_log(path).rounds.values()] == [clocks[-1]]
