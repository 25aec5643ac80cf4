"""A run cut at any look and taken up again ends with the same log, byte for byte, under the fake clock."""

from __future__ import annotations

import json
import shutil

import pytest

from harness.engine.clock import FakeClock
from harness.runs.log import TrajectoryLog, read_log, truncate_to_committed

PROMPTS = [3, 5, 2]


def script(p, s):
    """Lengths from 1 to 32, some without an end, some stopped by their box."""
    n = (p * 11 + s * 7 + p * s * 5) % 29
    kind = (p + s) % 3
    return "y" * n + {0: "$", 1: "\\boxed{2}zzz", 2: ""}[kind]


CASES = {
    "task": {},
    "task, one slot": {"batch": 1},
    "task, slots for all": {"batch": 20},
    "task, deadline": {"seconds": (40.0,)},
    "task, deadline, drained": {"seconds": (40.0,), "drain": True},
    "task, deadline between passes": {"seconds": (6.0,), "batch": 20, "drain": True},
    "problem": {"clock": "problem"},
    "problem, deadline": {"clock": "problem", "seconds": (21.0,), "batch": 2},
    "problem, deadline, drained": {"clock": "problem", "seconds": (21.0,), "batch": 2, "drain": True},
}


def run(fake, path, case, log_class=TrajectoryLog, pass_tokens=7):
    """With 7 tokens a pass the first prompt goes alone and the other two together, where all come in at once."""
    common = {"batch": 3, "samples_per_problem": 5, "max_new_tokens": 33, "stop_after_boxed": True}
    budget = fake.budget(**common | case)
    content = truncate_to_committed(path) if path.is_file() else read_log(path)
    log = log_class(path, lambda: 0.0)
    done = {number: progress for (_, _, number), progress in content.rounds.items()}
    _, backend = fake.play(budget, script, PROMPTS, sink=log, done=done, pass_tokens=pass_tokens)
    log.close()
    return backend


def look_ends(path):
    """Byte offsets behind each look's row."""
    ends, at = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        at += len(line)
        if json.loads(line)["kind"] == "look":
            ends.append(at)
    return ends


@pytest.mark.parametrize("pass_tokens", [7, 100])
@pytest.mark.parametrize("name", CASES)
def test_every_cut_ends_in_the_same_log(fake, tmp_path, name, pass_tokens):
    """A log tells what each prompt was packed with (``fake.py``), so prompts must be packed as they were."""
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run(fake, whole, CASES[name], pass_tokens=pass_tokens)
    expected = whole.read_bytes()
    ends = look_ends(whole)
    assert len(ends) >= 6
    for end in ends:
        # Between two looks, too: half of the next commit is in the file.
        for more in (0, 40):
            cut.write_bytes(expected[: end + more])
            run(fake, cut, CASES[name], pass_tokens=pass_tokens)
            assert cut.read_bytes() == expected
            assert read_log(cut) == read_log(whole)


class Killed(Exception):
    pass


class DiesAfterOne(TrajectoryLog):
    """Commits once, and is gone at the next commit."""

    commits = 0

    def commit(self, finished, look):
        if self.commits:
            raise Killed
        super().commit(finished, look)
        self.commits = 1


@pytest.mark.parametrize("name", CASES)
def test_killed_behind_every_single_commit(fake, tmp_path, name):
    """No attempt gets further than one look: as many attempts as looks, and the same log in the end."""
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run(fake, whole, CASES[name])
    attempts = 1
    while True:
        try:
            run(fake, cut, CASES[name], DiesAfterOne)
            break
        except Killed:
            attempts += 1
    assert attempts >= len(look_ends(whole)) - 2 > 3  # a new round begins without a kill
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("case", [{}, {"batch": 2}])
@pytest.mark.parametrize("pass_tokens", [1, 7, 100])
def test_decoding_again_costs_no_time_and_no_second_prefill(fake, tmp_path, pass_tokens, case):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    first = run(fake, whole, case, pass_tokens=pass_tokens)
    for end in look_ends(whole)[:-1]:
        cut.write_bytes(whole.read_bytes()[:end])
        backend = run(fake, cut, case, pass_tokens=pass_tokens)
        assert backend.asked("prefill") == first.asked("prefill")
        assert len(set(backend.asked("fork"))) == len(backend.asked("fork")) <= len(first.asked("fork"))


def beat(clock_s, round=0):
    return json.dumps({"kind": "heartbeat", "model": "m", "batch": 3, "round": round, "clock_s": clock_s}) + "\n"


@pytest.mark.parametrize("n", [0, 1, 3])
def test_heartbeats_move_the_clock_to_the_last_row(fake, tmp_path, n):
    """Seconds that passed behind the last look are spent: the run goes on at the last row, not at the look."""
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run(fake, whole, {})
    end = look_ends(whole)[n]
    shutil.copy(whole, cut)
    with cut.open("r+b") as file:
        file.truncate(end)
        file.seek(0, 2)
        at = read_log(cut).rounds["m", 3, 0].clock_s
        file.write((beat(at + 1.25) + beat(at + 2.5)).encode())
    run(fake, cut, {})
    old, new = read_log(whole), read_log(cut)
    before, after = (c.rounds["m", 3, 0].looks for c in (old, new))
    assert [k.clock_s for k in after[: n + 1]] == [k.clock_s for k in before[: n + 1]]
    assert [k.clock_s for k in after[n + 1 :]] == [k.clock_s + 2.5 for k in before[n + 1 :]]
    chains = [[(t.key, t.text, t.new_tokens, t.finish, t.logprob) for t in c.trajectories] for c in (old, new)]
    assert chains[0] == chains[1]
    shifted = {t.key: t for t in new.trajectories}
    for t in old.trajectories:
        for field in ("t_submit", "t_first_token", "t_finish"):
            was = getattr(t, field)
            # What was submitted behind look n, or seen later, lies behind the gap.
            late = was > before[n].clock_s or (field == "t_submit" and was == before[n].clock_s)
            assert getattr(shifted[t.key], field) == was + (2.5 if late else 0)


def test_heartbeats_of_a_round_without_a_look_count_for_nothing(fake, tmp_path):
    """Killed in its first window, a round starts again at zero, and stays there when it is killed once more."""
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run(fake, whole, {})
    cut.write_text(beat(30.0) + beat(31.0))
    run(fake, cut, {})
    assert read_log(cut).rounds == read_log(whole).rounds
    beats = (beat(30.0) + beat(31.0)).encode()
    cut.write_bytes(beats + whole.read_bytes()[: look_ends(whole)[0]])
    run(fake, cut, {})
    assert read_log(cut).rounds == read_log(whole).rounds


@pytest.mark.parametrize("drain", [False, True])
def test_taken_up_behind_the_deadline_with_nothing_in_flight(fake, tmp_path, drain):
    """One slot, killed between a look that emptied it and the next: heartbeats went past the deadline."""
    case = {"batch": 1, "seconds": (300.0,), "drain": drain}
    path = tmp_path / "log.jsonl"
    run(fake, path, case)
    lines = path.read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"trajectory"' in line)
    path.write_text("".join(lines[: first + 2]) + beat(301.0).replace('"batch": 3', '"batch": 1'))
    before = read_log(path)
    run(fake, path, case)
    after = read_log(path)
    assert after.trajectories == before.trajectories
    last = after.rounds["m", 1, 0].looks[-1]
    assert last.ended and last.clock_s == 301.0 and not last.submitted
    # The round is closed: once more changes nothing.
    closed = path.read_bytes()
    run(fake, path, case)
    assert path.read_bytes() == closed


def test_the_fake_clock_stands_still_when_paused():
    clock = FakeClock({"prefill": 1.0, "step": 2.0})
    clock.tick("step", 5)
    assert clock.now() == 0 and not clock.running
    clock.start(3.0)
    clock.tick("prefill", 2)
    clock.tick("step", 1)
    assert clock.now() == 7 and clock.running
    clock.pause()
    clock.tick("step", 1)
    assert clock.now() == 7
