"""Two windows in flight (a backend of depth 2): the same chains, a slot refilled one window later, nothing lost."""

from __future__ import annotations

import pytest

from harness.runs.log import TrajectoryLog, read_log, truncate_to_committed

PROMPTS = [3, 5, 2]


def script(p, s):
    """Lengths from 1 to 32, some without an end, some stopped by their box."""
    n = (p * 11 + s * 7 + p * s * 5) % 29
    kind = (p + s) % 3
    return "y" * n + {0: "$", 1: "\\boxed{2}zzz", 2: ""}[kind]


def given(fake, **changes):
    common = {"batch": 3, "samples_per_problem": 5, "max_new_tokens": 33, "stop_after_boxed": True}
    return fake.budget(**common | changes)


def chains(sink):
    return {(t.problem_id, t.sample): (t.text, t.new_tokens, t.finish, t.logprob) for t in sink.trajectories}


@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("clock", ["task", "problem"])
def test_the_same_chains_as_one_window_at_a_time(fake, batch, clock):
    budget = given(fake, batch=batch, clock=clock)
    one, _ = fake.play(budget, script, PROMPTS)
    two, _ = fake.play(budget, script, PROMPTS, depth=2)
    assert chains(two) == chains(one)
    assert len(two.trajectories) == 15


def test_a_slot_is_refilled_one_window_later(fake):
    """One slot, prompts of 3 tokens, chains of 3: the window behind the one that ends a chain is already queued."""
    sink, backend = fake.play(fake.budget(batch=1), lambda p, s: "ab$", [3], depth=2)
    # Prefill to 3, window 0 to 7: the first chain is over. Window 1 was queued for it and holds nothing: not waited
    # for, as no row lives in it. Window 2, of the second chain, ends at 11.
    assert [look.clock_s for look in sink.looks] == [7, 11]
    assert [t.t_finish for t in sink.trajectories] == [7, 11]
    assert [call[0] for call in backend.calls].count("window") == 4
    assert [t.t_submit for t in sink.trajectories] == [0, 7]


def test_rows_that_live_are_waited_for_beside_ended_ones(fake):
    """Two slots: while the long chain goes on, the short one's slot idles one window, then the third chain starts."""
    lengths = {(0, 0): "a$", (0, 1): "b" * 11 + "$", (0, 2): "c" * 3 + "$"}
    sink, _ = fake.play(fake.budget(samples_per_problem=3), lambda p, s: lengths[p, s], [1], depth=2)
    # Windows end at 5, 9, 13, ...: chain 0 at 5; its slot is filled behind window 1 (queued by then): window 2 holds
    # the third chain, which ends with the long one at 13.
    assert {t.sample: t.t_finish for t in sink.trajectories} == {0: 5, 1: 13, 2: 13}
    assert sink.row("p0", 2).t_submit == 5 and sink.row("p0", 2).t_first_token == 13


@pytest.mark.parametrize("seconds", [9.0, 13.0, 14.0, 21.0, 40.0])
@pytest.mark.parametrize("drain", [False, True])
def test_everything_submitted_is_accounted_for_at_a_deadline(fake, seconds, drain):
    sink, _ = fake.play(given(fake, seconds=(seconds,), drain=drain), script, PROMPTS, depth=2)
    submitted = [(problem, sample) for look in sink.looks for problem, sample, _ in look.submitted]
    assert sorted(submitted) == sorted((t.problem_id, t.sample) for t in sink.trajectories)
    assert len(set(submitted)) == len(submitted)
    assert [look.ended for look in sink.looks] == [False] * (len(sink.looks) - 1) + [True]
    whole, _ = fake.play(given(fake), script, PROMPTS)
    for t in sink.trajectories:
        if t.finish == "deadline":
            assert not drain and whole.row(t.problem_id, t.sample).text.startswith(t.text)
        else:
            assert chains(sink)[t.problem_id, t.sample] == chains(whole)[t.problem_id, t.sample]


class Killed(Exception):
    pass


class DiesAfter(TrajectoryLog):
    left = 2

    def commit(self, finished, look):
        if not self.left:
            raise Killed
        super().commit(finished, look)
        self.left -= 1


@pytest.mark.parametrize("case", [{}, {"seconds": (40.0,), "drain": True}, {"clock": "problem"}])
def test_killed_again_and_again_nothing_is_lost_or_sampled_twice(fake, tmp_path, case):
    budget, path = given(fake, **case), tmp_path / "log.jsonl"
    for _ in range(100):
        content = truncate_to_committed(path) if path.is_file() else read_log(path)
        log = DiesAfter(path, lambda: 0.0)
        try:
            done = {number: progress for (_, _, number), progress in content.rounds.items()}
            fake.play(budget, script, PROMPTS, sink=log, done=done, depth=2)
            break
        except Killed:
            continue
        finally:
            log.close()
    else:
        pytest.fail("no end in 100 attempts")
    whole, _ = fake.play(given(fake), script, PROMPTS)
    found = read_log(path).trajectories
    assert len({t.key for t in found}) == len(found)
    if "seconds" not in case:
        assert len(found) == 15
    for t in found:
        assert (t.text, t.new_tokens, t.finish, t.logprob) == chains(whole)[t.problem_id, t.sample]
