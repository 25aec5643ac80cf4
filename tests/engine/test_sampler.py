"""The scheduler under a fake clock: every admission, look and time is the one worked out by hand.

A prompt token costs 1 s, a step 1 s, the host looks every 4 steps, and each prompt is prefilled by itself
unless a test says how many tokens a pass takes (``fake.py``).
"""

from __future__ import annotations

import math

import pytest

from harness.engine.backend import pass_length


def times(t):
    return (t.t_submit, t.t_first_token, t.t_finish)


def test_times_and_refill_by_hand(fake):
    """Two slots, two problems, two samples: each number below is a sum of prompt tokens and windows."""
    chains = {(0, 0): "ab$", (1, 0): "abcdef$", (0, 1): "abcdefgh$", (1, 1): "$"}
    sink, backend = fake.play(fake.budget(), lambda p, s: chains[p, s], [3, 5])
    # 0: p0/0 submitted, prefilled to 3; p1/0 submitted, prefilled to 8; windows end at 12, 16, 20, 24.
    # At 12 p0/0 is over, its slot goes to p0/1, which needs 9 tokens: windows 16, 20, 24.
    # At 16 p1/0 is over (7 tokens), its slot goes to p1/1: 20.
    assert times(sink.row("p0", 0)) == (0, 12, 12)
    assert times(sink.row("p1", 0)) == (3, 12, 16)
    assert times(sink.row("p0", 1)) == (12, 16, 24)
    assert times(sink.row("p1", 1)) == (16, 20, 20)
    assert [look.clock_s for look in sink.looks] == [12, 16, 20, 24]
    assert [look.look for look in sink.looks] == [0, 1, 2, 3]
    assert [look.ended for look in sink.looks] == [False, False, False, True]
    assert [look.submitted for look in sink.looks] == [
        (("p0", 0, 0.0), ("p1", 0, 3.0)),
        (("p0", 1, 12.0),),
        (("p1", 1, 16.0),),
        (),
    ]
    assert [t.new_tokens for t in sink.trajectories] == [3, 7, 1, 9]
    assert [t.text for t in sink.trajectories] == ["ab", "abcdef", "", "abcdefgh"]
    assert all(t.logprob == fake.LOGPROB * t.new_tokens and t.finish == "eos" for t in sink.trajectories)
    assert [t.prompt_tokens for t in sink.trajectories] == [3, 5, 5, 3]
    assert all((t.model, t.task, t.batch, t.late) == ("m", "t", 2, False) for t in sink.trajectories)
    # At 20 slot 1 falls free and nothing is left to fill it: only slot 0 is stepped from there on.
    assert backend.calls == [
        ("prefill", 0),
        ("prefill", 1),
        ("fork", 0, 0, 0),
        ("fork", 1, 0, 1),
        ("window", 2, 4),
        ("release", 0),
        ("fork", 0, 1, 0),
        ("window", 2, 4),
        ("release", 1),
        ("fork", 1, 1, 1),
        ("window", 2, 4),
        ("release", 1),
        ("window", 1, 4),
        ("release", 0),
    ]


@pytest.mark.parametrize("look_every,first,finish", [(1, 3, 7), (2, 4, 8), (5, 7, 7), (8, 10, 10)])
def test_a_chain_is_finished_when_the_host_looks(fake, look_every, first, finish):
    """Five tokens behind two prompt tokens: the last is there at 7, seen at the next look."""
    sink, _ = fake.play(fake.budget(samples_per_problem=1), lambda p, s: "abcd$", [2], look_every=look_every)
    assert times(sink.row("p0", 0)) == (0, first, finish)


def test_samples_are_dealt_round_the_problems(fake):
    sink, backend = fake.play(fake.budget(samples_per_problem=3, batch=1), lambda p, s: "$", [2, 2, 2])
    assert [(p, s) for p, s, _ in backend.asked("fork")] == [(p, s) for s in range(3) for p in range(3)]
    assert [(t.problem_id, t.sample) for t in sink.trajectories] == [(f"p{p}", s) for s in range(3) for p in range(3)]
    # Each prompt is prefilled once, just before its first sample; later samples come without its seconds.
    assert [c[:2] for c in backend.calls if c[0] in ("prefill", "fork")][:5] == [
        ("prefill", 0), ("fork", 0), ("prefill", 1), ("fork", 1), ("prefill", 2),
    ]  # fmt: skip
    assert backend.asked("prefill") == [(0,), (1,), (2,)]
    assert [look.clock_s for look in sink.looks] == [6, 12, 18, 22, 26, 30, 34, 38, 42]


@pytest.mark.parametrize("deadline,admitted", [(7, 1), (8, 1), (8.001, 2), (12, 2), (12.001, 3)])
def test_nothing_is_admitted_at_or_past_the_deadline(fake, deadline, admitted):
    """One slot, four samples of one look each: looks at 8 (4 of them the prompt's), 12, 16, 20."""
    sink, backend = fake.play(
        fake.budget(samples_per_problem=4, batch=1, seconds=(deadline, 1.0)), lambda p, s: "abc$", [4]
    )
    assert len(backend.asked("fork")) == admitted
    assert len(sink.trajectories) == admitted and sink.looks[-1].ended


def test_a_deadline_in_the_middle_of_the_prompts(fake):
    """Prompts of 10 tokens and 15 s: the third problem comes too late, though a slot is free."""
    sink, backend = fake.play(fake.budget(seconds=(15.0,), batch=4), lambda p, s: "abc$", [10, 10, 10])
    assert [(p, s) for p, s, _ in backend.asked("fork")] == [(0, 0), (1, 0)]
    assert backend.asked("prefill") == [(0,), (1,)]
    # Both end in the window that ends at 24, behind the deadline: the host never saw them finish in time.
    assert [(t.finish, t.t_finish, t.late, t.new_tokens) for t in sink.trajectories] == [("deadline", 24, False, 4)] * 2


def test_prompts_are_prefilled_by_passes(fake):
    """At most 10 tokens a pass, or one prompt: 3 + 5, then 4, then 12. A row waits for its pass, and not for others."""
    sink, backend = fake.play(
        fake.budget(samples_per_problem=1, batch=4), lambda p, s: "abc$", [3, 5, 4, 12], pass_tokens=10
    )
    assert backend.asked("prefill") == [(0, 1), (2,), (3,)]
    assert sink.looks[0].submitted == (("p0", 0, 0.0), ("p1", 0, 0.0), ("p2", 0, 8.0), ("p3", 0, 12.0))
    # The first window begins once all slots that can be filled are: 24 prompt tokens, 4 steps.
    assert [times(t) for t in sink.trajectories] == [(0, 28, 28), (0, 28, 28), (8, 28, 28), (12, 28, 28)]


@pytest.mark.parametrize("deadline,passes", [(8, [(0, 1)]), (8.001, [(0, 1), (2,)]), (12.001, [(0, 1), (2,), (3,)])])
def test_the_clock_is_asked_between_passes(fake, deadline, passes):
    sink, backend = fake.play(
        fake.budget(samples_per_problem=1, batch=4, seconds=(deadline,)),
        lambda p, s: "abc$", [3, 5, 4, 12], pass_tokens=10,
    )  # fmt: skip
    assert backend.asked("prefill") == passes
    assert len(sink.trajectories) == sum(map(len, passes)) and sink.looks[-1].ended


def test_a_prompt_that_was_prefilled_waits_for_no_pass(fake):
    """Two slots, three problems, two samples: each prompt once, those that come in together in one pass."""
    script = lambda p, s: "abc$"  # noqa: E731
    sink, backend = fake.play(fake.budget(batch=2), script, [3, 5, 4], pass_tokens=100)
    assert backend.asked("prefill") == [(0, 1), (2,)]
    assert [look.submitted for look in sink.looks] == [
        (("p0", 0, 0.0), ("p1", 0, 0.0)),
        (("p2", 0, 12.0), ("p0", 1, 12.0)),
        (("p1", 1, 20.0), ("p2", 1, 20.0)),
    ]
    assert [look.clock_s for look in sink.looks] == [12, 20, 24]
    # All samples of a prompt may come in with it.
    sink, backend = fake.play(fake.budget(batch=9, clock="problem"), script, [3, 5], pass_tokens=100)
    assert backend.asked("prefill") == [(0,), (1,)] and {t.t_submit for t in sink.trajectories} == {0.0}


def test_what_waits_makes_passes_in_its_order():
    assert pass_length([5], 4) == 1
    assert pass_length([2, 2, 1], 4) == 2
    assert pass_length([2, 0, 2, 0, 0, 1, 0], 4) == 5
    assert pass_length([0, 0, 9, 1], 4) == 2
    assert pass_length([1, 1], 4) == 2 and pass_length([0, 0], 4) == 2


def test_the_seconds_of_all_prefills_do_not_depend_on_the_passes(fake):
    ends = set()
    for pass_tokens in (1, 6, 9, 100):
        sink, backend = fake.play(
            fake.budget(batch=5, samples_per_problem=2), lambda p, s: "abc$", [3, 5, 2, 4, 1], pass_tokens=pass_tokens
        )
        assert sorted(p for prompts in backend.asked("prefill") for p in prompts) == [0, 1, 2, 3, 4]
        ends.add(sink.looks[-1].clock_s)
    assert ends == {15.0 + 8}


def test_not_drained_what_flies_at_the_deadline_is_cut(fake):
    # Window ends: 5, 9, 13.
    sink, _ = fake.play(
        fake.budget(seconds=(10.0,), batch=3, samples_per_problem=3), lambda p, s: ["ab$", "abcdefgh$", ""][s], [1]
    )
    assert [(t.sample, t.finish, t.t_finish, t.new_tokens) for t in sink.trajectories] == [
        (0, "eos", 5, 3),
        (1, "deadline", 13, 9),
        (2, "deadline", 13, 12),
    ]
    assert not any(t.late for t in sink.trajectories) and [k.ended for k in sink.looks] == [False, False, True]


def test_a_look_exactly_at_the_deadline_still_counts(fake):
    chains = ["abcdefg$", "abcdefghi$"]
    for drain, last in ((False, ("deadline", 13.0, False)), (True, ("eos", 13.0, True))):
        sink, _ = fake.play(fake.budget(seconds=(9.0,), drain=drain), lambda p, s: chains[s], [1])
        assert [(t.finish, t.t_finish, t.late) for t in sink.trajectories] == [("eos", 9.0, False), last]


def test_drained_what_flies_at_the_deadline_finishes_late(fake):
    chains = ["ab$", "abcdefgh$", "", "$", "$"]
    sink, backend = fake.play(
        fake.budget(seconds=(10.0,), batch=3, samples_per_problem=5, drain=True, max_new_tokens=18),
        lambda p, s: chains[s],
        [1],
    )
    # Slot 0 falls free at 5 (sample 3 in), at 9 (sample 4 in), at 13 nothing more is admitted.
    assert [(t.sample, t.finish, t.t_finish, t.late) for t in sink.trajectories] == [
        (0, "eos", 5, False),
        (3, "eos", 9, False),
        (1, "eos", 13, True),
        (4, "eos", 13, True),
        (2, "length", 21, True),
    ]
    assert sink.row("p0", 2).new_tokens == 18
    # Behind the deadline only the row that lives is stepped, in the first slot.
    assert [rows for rows, _ in backend.asked("window")] == [3, 3, 3, 1, 1]
    assert backend.asked("move") == [(2, 0)]


def test_gaps_are_closed_without_mixing_rows(fake):
    lengths = {s: 1 + 5 * ((s * 7) % 6) for s in range(6)}
    script = lambda p, s: chr(97 + s) * (lengths[s] - 1) + "$"  # noqa: E731
    sink, backend = fake.play(fake.budget(batch=6, samples_per_problem=6), script, [1])
    assert {t.sample: t.text for t in sink.trajectories} == {s: chr(97 + s) * (lengths[s] - 1) for s in range(6)}
    assert {t.sample: t.t_finish for t in sink.trajectories} == {
        s: 1 + 4 * math.ceil(n / 4) for s, n in lengths.items()
    }
    alive = [sum(math.ceil(n / 4) > window for n in lengths.values()) for window in range(7)]
    assert [rows for rows, _ in backend.asked("window")] == alive


def test_tokens_behind_the_end_are_dropped(fake):
    """The backend's junk behind EOS, length and stop weighs -99 each: none of it is counted."""
    chains = ["abcde$", "", "abSTOPdefgh"]
    sink, _ = fake.play(
        fake.budget(batch=3, samples_per_problem=3, max_new_tokens=7, stop=("STOP",)), lambda p, s: chains[s], [1]
    )
    assert [(t.sample, t.finish, t.new_tokens, t.text, t.logprob) for t in sink.trajectories] == [
        (0, "eos", 6, "abcde", 6 * fake.LOGPROB),
        (1, "length", 7, ".......", 7 * fake.LOGPROB),
        (2, "stop", 6, "ab", 6 * fake.LOGPROB),
    ]
    assert {t.t_finish for t in sink.trajectories} == {9}


def test_a_stop_in_the_first_half_of_a_window_ends_the_row_at_that_look(fake):
    script = lambda p, s: "x\\boxed{1}yz...." if s == 0 else "abc$"  # noqa: E731
    sink, backend = fake.play(fake.budget(batch=1, stop_after_boxed=True), script, [1])
    box = sink.row("p0", 0)
    assert (box.text, box.new_tokens, box.finish, box.t_finish) == ("x\\boxed{1}", 10, "stop", 13)
    assert box.logprob == 10 * fake.LOGPROB
    assert times(sink.row("p0", 1)) == (13, 17, 17)
    assert backend.asked("window") == [(1, 4)] * 4


def test_a_stop_on_the_last_token_before_eos_or_length_is_a_stop(fake):
    for text, most in (("ab!$", 100), ("ab!", 3)):
        sink, _ = fake.play(
            fake.budget(samples_per_problem=1, stop=("!",), max_new_tokens=most), lambda p, s, text=text: text, [1]
        )
        assert (sink.row("p0", 0).finish, sink.row("p0", 0).new_tokens) == ("stop", 3)


def test_bytes_that_are_no_text_are_replaced(fake):
    sink, _ = fake.play(fake.budget(samples_per_problem=1), lambda p, s: "a\xc3$", [1])
    assert sink.row("p0", 0).text == "a�"


def test_clock_problem_gives_each_round_its_own_zero(fake):
    chains = {(0, 0): "ab$", (0, 1): "abcdef$", (1, 0): "$", (1, 1): "abcd"}
    sink, backend = fake.play(fake.budget(clock="problem", seconds=(20.0,), batch=1), lambda p, s: chains[p, s], [2, 3])
    assert [(t.problem_id, t.sample, *times(t), t.finish) for t in sink.trajectories] == [
        ("p0", 0, 0, 6, 6, "eos"),
        ("p0", 1, 6, 10, 14, "eos"),
        ("p1", 0, 0, 7, 7, "eos"),
        ("p1", 1, 7, 11, 23, "deadline"),
    ]
    assert [(k.round, k.look, k.clock_s, k.ended) for k in sink.looks] == [
        (0, 0, 6, False), (0, 1, 10, False), (0, 2, 14, True),
        (1, 0, 7, False), (1, 1, 11, False), (1, 2, 15, False), (1, 3, 19, False), (1, 4, 23, True),
    ]  # fmt: skip
    assert backend.asked("prefill") == [(0,), (1,)]
    # Slots are all free again at a round's start.
    assert {slot for _, _, slot in backend.asked("fork")} == {0}


def test_an_ended_round_is_left_alone(fake):
    script = lambda p, s: "abc$"  # noqa: E731
    first, _ = fake.play(fake.budget(clock="problem"), script, [1, 1])
    from harness.records import Progress

    ended = {
        r: Progress(tuple(k for k in first.looks if k.round == r), frozenset((f"p{r}", s) for s in range(2)), 5.0)
        for r in range(2)
    }
    again, backend = fake.play(fake.budget(clock="problem"), script, [1, 1], done=ended)
    assert not again.commits and not backend.calls
    half, _ = fake.play(fake.budget(clock="problem"), script, [1, 1], done={0: ended[0]})
    assert half.commits == [c for c in first.commits if c[1].round == 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_whose_numbers_break_is_an_error_and_the_others_go_on(fake, bad):
    def logprob(prompt, sample, i):
        return bad if (sample, i) == (1, 5) else fake.LOGPROB

    sink, _ = fake.play(fake.budget(batch=3, samples_per_problem=4), lambda p, s: "abcdefghij$", [1], logprob=logprob)
    broken = sink.row("p0", 1)
    assert (broken.finish, broken.t_finish, broken.logprob, broken.new_tokens) == ("error", 9, 0.0, 8)
    assert sink.row("p0", 3).t_submit == 9
    assert {t.finish for t in sink.trajectories if t.sample != 1} == {"eos"}
    assert {t.logprob for t in sink.trajectories if t.sample != 1} == {11 * fake.LOGPROB}


def test_free_slots_never_make_trajectories(fake):
    """Eight slots, three jobs: exactly three trajectories, though free slots hand back full windows of junk."""
    sink, backend = fake.play(fake.budget(batch=8, samples_per_problem=3), lambda p, s: "abcdefg$"[s * 2 :], [1])
    assert sorted(t.sample for t in sink.trajectories) == [0, 1, 2]
    assert [rows for rows, _ in backend.asked("window")] == [3, 2]
    assert not backend.chains


def test_the_bar_is_told_of_every_look(fake):
    told = []
    sink, _ = fake.play(fake.budget(batch=1), lambda p, s: "abcde$", [1], on_look=lambda *facts: told.append(facts))
    assert told == [(0, 2, 5.0), (1, 2, 9.0), (1, 2, 13.0), (2, 2, 17.0)]
    assert [look.clock_s for look in sink.looks] == [5, 9, 13, 17]


def test_the_batch_changes_times_and_nothing_else(fake):
    def script(p, s):
        return "x" * ((p * 5 + s * 3) % 17) + "$"

    seen = []
    for batch in (1, 3, 7, 50):
        sink, _ = fake.play(fake.budget(batch=batch, samples_per_problem=5), script, [2, 3, 4])
        seen.append(sorted((t.problem_id, t.sample, t.text, t.new_tokens, t.finish) for t in sink.trajectories))
    assert all(rows == seen[0] for rows in seen) and len(seen[0]) == 15
