import itertools
import json
import os
from math import comb
from pathlib import Path

import numpy as np
import pytest

from harness.records import InputError
from harness.scoring import samples

# Rates of the "Large Language Monkeys" logs, CC BY 4.0, kept outside the repository (papers.md 5.3).
RATES = Path(os.environ.get("HARNESS_DATA", "")) / "monkeys_success_rates.json"


def test_failure_share_is_the_ratio_of_binomials():
    for n in (1, 2, 7, 40):
        c = np.arange(n + 1)
        ks = range(1, n + 1)
        expected = [[comb(n - x, k) / comb(n, k) for x in range(n + 1)] for k in ks]
        assert samples.failure_shares(np.full(n + 1, n), c, ks) == pytest.approx(np.array(expected), abs=1e-14)


def test_failure_share_stays_exact_for_ten_thousand_samples():
    n, c = np.array([10_000, 10_000, 10_000]), np.array([0, 1, 10_000])
    assert samples.failure_shares(n, c, [5_000])[0] == pytest.approx([1.0, 0.5, 0.0], rel=1e-10)


@pytest.mark.skipif(not RATES.is_file(), reason="HARNESS_DATA does not point to monkeys_success_rates.json")
@pytest.mark.parametrize(
    ("label", "percent"),
    [
        ("GSM8K, Llama-3-8B-Instruct", [76.85, 92.08, 97.90, 99.37, 99.85, 100.0, 100.0, 100.0]),
        ("GSM8K, Llama-3-70B-Instruct", [93.04, 98.47, 99.21, 99.28, 99.44, 99.81, 100.0, 100.0]),
        ("MATH, Llama-3-8B-Instruct", [26.84, 47.51, 66.89, 79.79, 88.32, 93.49, 97.02, 98.44]),
        ("MATH, Llama-3-70B-Instruct", [47.86, 66.17, 80.67, 90.49, 94.91, 96.94, 98.07, 98.44]),
    ],
)
def test_published_coverage_of_the_monkeys_logs(label, percent):
    data = {entry["label"]: entry for entry in json.loads(RATES.read_text())}
    c = np.round(10_000 * np.array(data[label]["theta"])).astype(int)
    ks = (1, 4, 16, 64, 256, 1024, 4096, 10_000)
    coverage = 100 * (1 - samples.failure_shares(np.full(len(c), 10_000), c, ks).mean(axis=1))
    assert coverage == pytest.approx(percent, abs=0.011)
    if label == "MATH, Llama-3-8B-Instruct":
        at_100 = 100 * (1 - samples.failure_shares(np.full(len(c), 10_000), c, [100]).mean())
        assert at_100 == pytest.approx(82.90, abs=0.005)


@pytest.mark.parametrize("seed", range(5))
def test_pass_at_k_of_a_drained_run_equals_all_subsets(table, random_rows, seed):
    rows = random_rows(seed, drained=True)
    t = table(rows)
    ks = range(1, samples.largest_k(t, drained=True) + 1)
    metric = samples.pass_at_k(t, ks, drained=True)
    assert metric.is_point
    for i, pid in enumerate("abcdefg"):
        ok = [r["ok"] for r in rows if r["p"] == pid]
        for at, k in enumerate(ks):
            subsets = list(itertools.combinations(ok, k))
            assert metric.low[i, at] == pytest.approx(sum(map(any, subsets)) / len(subsets))


def every_subset_share(labels, k):
    shares = []
    for subset in itertools.combinations(labels, k):
        votes = {c: subset.count(c) for c in set(subset) if c is not None}
        leaders = [c for c in votes if votes[c] == max(votes.values())]
        shares.append(("gold" in leaders) / len(leaders) if leaders else 0.0)
    return sum(shares) / len(shares)


def test_majority_at_k_tends_to_the_mean_over_all_subsets(table):
    labels = ["gold", "gold", "w", "w", "w", "v", None]
    rows = [
        {"p": "a", "t": 1.0, "cls": c, "ok": c == "gold", "status": "correct" if c == "gold" else "incorrect"}
        for c in labels
    ]
    metric = samples.majority_at_k(table(rows), [7, 1, 3], drained=True, subsets=20_000)
    assert metric.low[0] == pytest.approx([every_subset_share(labels, k) for k in (7, 1, 3)], abs=0.015)
    assert metric.low[0, 0] == 0.0


def test_majority_at_k_is_seeded_and_wants_a_hundred_subsets(table, random_rows):
    t = table(random_rows(3, drained=True))
    one, two = (samples.majority_at_k(t, [1, 2, 4], True, seed=5).low for _ in range(2))
    assert (one == two).all()
    with pytest.raises(InputError, match="subsets = 99"):
        samples.majority_at_k(t, [1], True, subsets=99)


def test_a_cut_run_gives_bounds_and_never_a_point(table):
    rows = [{"p": "a", "t": 1.0, "cls": "g", "ok": True}, {"p": "a", "t": 1.0, "cls": "w"}]
    t = table([*rows, {"p": "a", "t": 2.0, "finish": "deadline"}], started={"a": 4})
    passed = samples.pass_at_k(t, [1, 2, 4], drained=False)
    assert not passed.is_point
    assert passed.low[0] == pytest.approx([1 / 4, 1 / 2, 1])
    assert passed.high[0] == pytest.approx([3 / 4, 1, 1])
    voted = samples.majority_at_k(t, [4], drained=False)
    assert (voted.low[0, 0], voted.high[0, 0]) == (0.0, 1.0)
    with pytest.raises(InputError, match="cut at the deadline"):
        samples.pass_at_k(t, [1], drained=True)


@pytest.mark.parametrize("seed", range(8))
def test_majority_bounds_hold_the_truth(table, random_rows, seed):
    """Cut samples are given their answers: the point of the drained run lies within the bounds of the cut one."""
    whole = random_rows(seed, drained=True)
    rng = np.random.default_rng(seed)
    cut = [r | {"finish": "deadline"} if rng.random() < 0.3 else r for r in whole]
    k = int(table(whole).n_finished.min())
    bounds = samples.majority_at_k(table(cut), [k], drained=False, subsets=4000)
    truth = samples.majority_at_k(table(whole), [k], drained=True, subsets=4000)
    assert (bounds.low <= truth.low + 0.04).all() and (truth.low <= bounds.high + 0.04).all()


def test_k_is_bounded_by_the_fewest_finished(table):
    t = table([{"p": "a", "t": 1.0}, {"p": "a", "t": 1.0, "late": True}, {"p": "b", "t": 1.0}])
    assert samples.largest_k(t, drained=True) == 1
    with pytest.raises(InputError, match="k = 2"):
        samples.pass_at_k(t, [1, 2], drained=True)
    assert samples.k_grid(6) == (1, 2, 4, 6) and samples.k_grid(8) == (1, 2, 4, 8) and samples.k_grid(0) == ()


def test_late_samples_count_without_a_clock_and_unscored_ones_are_not_solved(table):
    t = table(
        [
            {"p": "a", "t": 9.0, "late": True, "cls": "g", "ok": True},
            {"p": "a", "t": 1.0, "status": "timeout", "cls": "g", "ok": True},
        ]
    )
    assert samples.pass_at_k(t, [1, 2], drained=True).low[0] == pytest.approx([0.5, 1.0])
