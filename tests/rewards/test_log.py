"""rewards.jsonl after a crash at any moment: whole lines are kept, a torn last one is not, any other is an error."""

from __future__ import annotations

import errno
import os

import pytest

from harness.records import InputError, Reward
from harness.rewards import log as log_module
from harness.rewards.log import Header, appending, check_same, read_rewards, read_rewards_of

HEADER = Header(1, "2026-01-31T00:00:00+00:00", "prm-8b", "a" * 64, "prm", "last", "bfloat16", "a device", 8)


def reward(sample, score=0.5):
    return Reward("m", "t", 4, "p", sample, score, (0.25, 0.5), 120, 0.125)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rewards.jsonl"
    with appending(path, read_rewards(path), HEADER) as writer:
        writer.append([reward(0), reward(1, None)])
        writer.append([reward(2)])
    return path


def test_round_trip(path):
    log = read_rewards(path)
    assert log.header == HEADER and log.rewards == (reward(0), reward(1, None), reward(2))
    assert log.whole_bytes == path.stat().st_size and read_rewards_of(HEADER.run, path) == log
    assert HEADER.label == "prm-8b (prm, last)"


def test_no_file_is_an_empty_log(tmp_path):
    log = read_rewards(tmp_path / "none.jsonl")
    assert log.header is None and log.rewards == () and log.whole_bytes == 0


def test_cut_anywhere_it_goes_on_with_whole_lines(path):
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = sum(cut >= len(b"".join(lines[: n + 1])) for n in range(len(lines)))
        log = read_rewards(path)
        assert len(log.rewards) == max(kept - 1, 0) and (log.header is None) == (kept == 0)
        with appending(path, log, HEADER) as writer:
            writer.append([reward(7)])
        assert path.read_bytes().splitlines(keepends=True)[:-1] == lines[: max(kept, 1)]
        assert read_rewards(path).rewards[-1] == reward(7)


@pytest.mark.parametrize(
    "edit,words",
    [
        (lambda lines: [lines[0], b"{\n", *lines[1:]], "middle of the log"),
        (lambda lines: lines[1:], "line 1 is the header"),
        (lambda lines: [*lines, lines[0]], "line 1 is the header"),
        (lambda lines: [*lines, lines[1]], "scored twice"),
        (lambda lines: [lines[0].replace(b'"format": 1', b'"format": 2'), *lines[1:]], "format = 2"),
        (lambda lines: [lines[0], lines[1].replace(b'"score"', b'"scor"'), *lines[2:]], "did you mean 'score'"),
        (lambda lines: [lines[0], lines[1].replace(b"0.125", b'"x"'), *lines[2:]], "seconds"),
    ],
)
def test_damage_is_named(path, edit, words):
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(InputError, match=words) as caught:
        read_rewards(path)
    assert "\n" not in str(caught.value)


def test_other_settings_and_other_runs_are_refused(path):
    with pytest.raises(InputError, match="setting was 'last', is now 'min'"):
        check_same(HEADER, Header(**{f: getattr(HEADER, f) for f in HEADER.__slots__} | {"setting": "min"}), path)
    check_same(HEADER, HEADER, path)
    with pytest.raises(InputError, match="made for the run of 2026"):
        read_rewards_of("another", path)


def test_a_full_disk_leaves_no_half_line(path, monkeypatch):
    before = path.read_bytes()
    write = os.write

    def full(file, data):
        if len(data) > 20:
            return write(file, data[:20])
        raise OSError(errno.ENOSPC, "no space left")

    log = read_rewards(path)
    with appending(path, log, HEADER) as writer:
        monkeypatch.setattr(log_module.os, "write", full)
        with pytest.raises(OSError, match="no space"):
            writer.append([reward(3)])
    assert path.read_bytes() == before
