"""Best-of-N by reward against brute force: every second of the clock, and every k-subset of the samples."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from harness.records import InputError, Reward
from harness.scoring import best_of
from harness.scoring.table import UNFINISHED, SampleTable

PROBLEMS = "abcdefg"
GRID = np.arange(0.5, 40.0, 0.5)


@pytest.fixture
def rewarded(records):
    """A table of rows that may hold ``reward`` (None: too long for it) and ``reward_s``; by default 0.5 and 0."""

    def build(rows, started=None, drop=0, problems=PROBLEMS):
        trajectories, verdicts = records(rows)
        rewards = [
            Reward(*t.key, row.get("reward", 0.5), (), 10, row.get("reward_s", 0.0))
            for t, row in zip(trajectories, rows, strict=True)
            if t.finish not in UNFINISHED
        ]
        counts = {p: sum(row["p"] == p for row in rows) for p in problems} | (started or {})
        return SampleTable.from_records(trajectories, verdicts, list(problems), counts, rewards[drop:])

    return build


@pytest.fixture
def rows_of(random_rows):
    """Random rows with rewards of few values, so that ties are common, some missing, and seconds for each."""

    def make(seed, drained=False):
        rng = np.random.default_rng(100 + seed)
        rows = random_rows(seed, drained)
        count = dict.fromkeys(PROBLEMS, 0)
        for row in rows:
            row["reward"] = None if rng.random() < 0.1 else float(rng.integers(1, 5)) / 4
            row["reward_s"] = float(rng.integers(0, 3)) / 4
            row["sample"] = count[row["p"]]
            count[row["p"]] += 1
        return [rows[i] for i in rng.permutation(len(rows))]

    return make


def part(row):
    ended = row.get("finish", "eos") not in UNFINISHED
    return ended and row["cls"] is not None and row.get("status") != "timeout" and row["reward"] is not None


def naive_pick(rows):
    chosen = sorted((r for r in rows if part(r)), key=lambda r: (-r["reward"], r["sample"]))
    return float(chosen[0]["ok"]) if chosen else 0.0


def weighted_pick(rows):
    total, lowest, right = {}, {}, {}
    for r in sorted((r for r in rows if part(r)), key=lambda r: r["sample"]):
        total[r["cls"]] = total.get(r["cls"], 0) + Fraction(r["reward"])
        lowest.setdefault(r["cls"], r["sample"])
        right.setdefault(r["cls"], r["ok"])
    return float(right[min(total, key=lambda c: (-total[c], lowest[c]))]) if total else 0.0


@pytest.mark.parametrize("on_clock", [False, True])
@pytest.mark.parametrize("clock", ["problem", "task"])
@pytest.mark.parametrize("seed", range(4))
def test_by_the_clock_equals_choosing_anew_at_every_second(rewarded, rows_of, seed, clock, on_clock):
    rows = rows_of(seed)
    t = rewarded(rows)
    counts_s = best_of.counts_from_s(t, clock, on_clock)
    got_naive, got_weighted = best_of.naive(t, GRID, counts_s), best_of.weighted(t, GRID, counts_s)
    finished = [r for r in rows if r.get("finish", "eos") not in UNFINISHED and not r.get("late")]

    def counts_from(row):
        same = [r for r in finished if r["t"] <= row["t"] and (clock == "task" or r["p"] == row["p"])]
        return row["t"] + (sum(r["reward_s"] for r in same) if on_clock else 0)

    for i, pid in enumerate(PROBLEMS):
        mine = [(counts_from(r), r) for r in finished if r["p"] == pid]
        for g, second in enumerate(GRID):
            there = [r for from_s, r in mine if from_s <= second]
            assert got_naive[i, g] == naive_pick(there), (pid, second)
            assert got_weighted[i, g] == weighted_pick(there), (pid, second)


@pytest.mark.parametrize("seed", range(6))
def test_at_k_equals_all_subsets(rewarded, rows_of, seed):
    rows = rows_of(seed, drained=True)
    t = rewarded(rows)
    ks = range(1, int(t.n_finished.min()) + 1)
    got_naive = best_of.naive_at_k(t, ks, drained=True)
    got_weighted = best_of.weighted_at_k(t, ks, drained=True)
    assert got_naive.is_point and got_weighted.is_point
    for i, pid in enumerate(PROBLEMS):
        mine = [r for r in rows if r["p"] == pid]
        for at, k in enumerate(ks):
            subsets = list(itertools.combinations(mine, k))
            assert got_naive.low[i, at] == pytest.approx(np.mean([naive_pick(s) for s in subsets]), abs=1e-12)
            assert got_weighted.low[i, at] == pytest.approx(np.mean([weighted_pick(s) for s in subsets]), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_run_gives_bounds_over_whatever_the_unfinished_would_have_been(rewarded, rows_of, seed):
    rows = rows_of(seed)
    t = rewarded(rows)
    ks = range(1, int(t.n_started.min()) + 1)
    for metric, pick in ((best_of.naive_at_k, naive_pick), (best_of.weighted_at_k, weighted_pick)):
        got = metric(t, ks, drained=False)
        assert not got.is_point
        for i, pid in enumerate(PROBLEMS):
            mine = [r for r in rows if r["p"] == pid]
            for at, k in enumerate(ks):
                low, high = [], []
                for subset in itertools.combinations(mine, k):
                    cut = any(r.get("finish", "eos") in UNFINISHED for r in subset)
                    low.append(0.0 if cut else pick(subset))
                    high.append(1.0 if cut else pick(subset))
                assert got.low[i, at] == pytest.approx(np.mean(low), abs=1e-12)
                assert got.high[i, at] == pytest.approx(np.mean(high), abs=1e-12)


def test_random_subsets_tend_to_the_mean_over_all(rewarded):
    rng = np.random.default_rng(5)
    rows = [
        {"p": "a", "t": 1.0, "cls": f"c{c}", "ok": c == 0, "reward": float(rng.random())}
        for c in rng.integers(4, size=18)
    ]
    for n, row in enumerate(rows):
        row["sample"] = n
    t = rewarded(rows, problems="a")
    got = best_of.weighted_at_k(t, [3, 5], drained=True, subsets=700)
    for at, k in enumerate((3, 5)):
        exact = np.mean([weighted_pick(s) for s in itertools.combinations(rows, k)])
        assert 0.1 < exact < 0.9 and got.low[0, at] == pytest.approx(exact, abs=0.08)
    exact = best_of.weighted_at_k(t, [3], drained=True, subsets=816).low[0, 0]
    assert exact == pytest.approx(np.mean([weighted_pick(s) for s in itertools.combinations(rows, 3)]), abs=1e-12)
    assert (best_of.weighted_at_k(t, [5], drained=True).low == best_of.weighted_at_k(t, [5], drained=True).low).all()


def test_ties_go_to_the_lowest_sample_number_whatever_came_first(rewarded):
    rows = [
        {"p": "a", "sample": 3, "t": 1.0, "cls": "w", "ok": False, "reward": 0.5},
        {"p": "a", "sample": 1, "t": 2.0, "cls": "gold", "ok": True, "reward": 0.5},
    ]
    t = rewarded(rows, problems="a")
    grid = np.array([1.0, 2.0])
    for metric in (best_of.naive, best_of.weighted):
        assert metric(t, grid, t.on_clock_s).tolist() == [[0.0, 1.0]]
    rows[1]["sample"] = 5
    t = rewarded(rows, problems="a")
    for metric in (best_of.naive, best_of.weighted):
        assert metric(t, grid, t.on_clock_s).tolist() == [[0.0, 0.0]]


def test_the_order_of_addition_makes_no_winner(rewarded):
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point; the sums are a tie all the same."""
    values = [(0.3, "w"), (0.1, "gold"), (0.2, "w"), (0.2, "gold"), (0.1, "w"), (0.3, "gold")]
    for lowest in ("gold", "w"):
        order = values if lowest == "w" else values[::-1]
        rows = [
            {"p": "a", "sample": n, "t": 1.0 + n, "cls": c, "ok": c == "gold", "reward": r}
            for n, (r, c) in enumerate(order)
        ]
        t = rewarded(rows, problems="a")
        assert best_of.weighted(t, np.array([9.0]), t.on_clock_s).tolist() == [[float(lowest == "gold")]]
        assert best_of.weighted_at_k(t, [6], drained=True).low.tolist() == [[float(lowest == "gold")]]


def test_logits_below_zero_are_weights_too(rewarded):
    rows = [
        {"p": "a", "sample": 0, "t": 1.0, "cls": "w", "ok": False, "reward": -2.0},
        {"p": "a", "sample": 1, "t": 1.0, "cls": "w", "ok": False, "reward": -1.5},
        {"p": "a", "sample": 2, "t": 1.0, "cls": "gold", "ok": True, "reward": -3.0},
    ]
    t = rewarded(rows, problems="a")
    assert best_of.weighted(t, np.array([1.0]), t.on_clock_s).tolist() == [[1.0]]
    assert best_of.naive(t, np.array([1.0]), t.on_clock_s).tolist() == [[0.0]]


def test_on_the_clock_a_sample_waits_for_every_reward_before_its_own(rewarded):
    rows = [
        {"p": "a", "t": 1.0, "cls": "g", "ok": True, "reward_s": 2.0},
        {"p": "a", "t": 4.0, "cls": None, "ok": False, "status": "no_answer", "reward_s": 1.0},
        {"p": "b", "t": 4.0, "cls": "g", "ok": True, "reward_s": 0.5},
        {"p": "b", "t": 9.0, "cls": "g", "ok": True, "reward_s": 8.0, "late": True},
    ]
    t = rewarded(rows, problems="ab")
    assert best_of.counts_from_s(t, "problem", True).tolist() == [3.0, 7.0, 4.5, np.inf]
    assert best_of.counts_from_s(t, "task", True).tolist() == [3.0, 7.5, 7.5, np.inf]
    assert best_of.counts_from_s(t, "task", False).tolist() == [1.0, 4.0, 4.0, np.inf]


def test_large_runs_stay_exact_and_rewards_must_fit_the_log(rewarded):
    rows = [{"p": "a", "sample": n, "t": 1.0, "cls": f"c{n}", "ok": n == 1023, "reward": n / 1024} for n in range(1024)]
    t = rewarded(rows, problems="a")
    got = best_of.naive_at_k(t, [1, 512, 1024], drained=True).low[0]
    assert got == pytest.approx([1 / 1024, 0.5, 1.0], rel=1e-12)
    with pytest.raises(InputError, match="has no reward; go on with `harness score`"):
        rewarded(rows, problems="a", drop=1)
    with pytest.raises(InputError, match="k = 1025"):
        best_of.naive_at_k(t, [1025], drained=True)


def test_a_reward_without_its_sample_is_refused(records):
    trajectories, verdicts = records([{"p": "a", "t": 1.0, "cls": "g", "ok": True}])
    stray = Reward("m", "t", 4, "a", 7, 0.5, (), 1, 0.0)
    with pytest.raises(InputError, match="no such trajectory"):
        SampleTable.from_records(trajectories, verdicts, ["a"], {"a": 1}, [stray])
