"""Recorded counts: the published coverage comes out, time is samples over speed, bad files are named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from harness.records import InputError
from harness.scoring.recorded import coverage_at_k, read_counts, recorded_curve

COUNTS = Path(os.environ.get("HARNESS_DATA", "")) / "llama32_1b_math500_counts.json"


@pytest.mark.skipif(not COUNTS.is_file(), reason="HARNESS_DATA does not point to llama32_1b_math500_counts.json")
def test_coverage_of_the_published_counts():
    """Recomputed from the same file in papers.md, section 6.2a."""
    counts = read_counts(COUNTS)
    assert len(counts.samples) == 500 and counts.largest_k == 1280
    ks = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1280)
    percent = 100 * coverage_at_k(counts, ks).mean(axis=1)
    expected = [23.86, 34.74, 45.97, 56.55, 66.04, 74.24, 81.02, 86.13, 89.61, 91.89, 93.40, 93.80]
    assert percent == pytest.approx(expected, abs=0.01)


def written(tmp_path, **data):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(data))
    return path


def test_sessions_are_pooled(tmp_path):
    pooled = read_counts(written(tmp_path, counts=[[1, 2], [0, 4]], ns=[[4, 4], [4, 4]]))
    plain = read_counts(written(tmp_path, counts=[3, 4], ns=[8, 8]))
    assert (pooled.correct == plain.correct).all() and (pooled.samples == plain.samples).all()


def test_seconds_are_samples_over_speed_and_coverage_does_not_depend_on_it(tmp_path):
    counts = read_counts(written(tmp_path, counts=[0, 1, 8, 3], ns=[8, 8, 8, 8]))
    slow, fast = (recorded_curve(counts, rate, 500) for rate in (1000, 4000))
    assert slow.ks == (1, 2, 4, 8)
    assert slow.clock_s == pytest.approx([0.5, 1, 2, 4])
    assert slow.clock_s == pytest.approx(4 * fast.clock_s)
    assert (slow.coverage == fast.coverage).all()
    assert slow.coverage[[0, -1]] == pytest.approx([12 / 32, 3 / 4])
    assert (slow.low <= slow.coverage).all() and (slow.coverage <= slow.high).all()
    assert (np.diff(slow.coverage) > 0).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"counts": [1]}, "no fields counts and ns"),
        ({"counts": [1, 2], "ns": [4]}, "counts has 2 problems, ns 1"),
        ({"counts": [5], "ns": [4]}, "problem 0 has 5 right of 4"),
        ({"counts": ["many"], "ns": [4]}, r"counts\[0\] = 'many': whole numbers"),
        ({"counts": 3, "ns": [4]}, "counts"),
        ({"counts": [], "ns": []}, "counts has 0 problems"),
    ],
)
def test_files_that_make_no_sense_are_named(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        read_counts(written(tmp_path, **data))


def test_no_json_and_no_speed(tmp_path):
    (tmp_path / "x.json").write_text("counts: 3")
    with pytest.raises(InputError, match=r"x\.json: cannot be read as JSON"):
        read_counts(tmp_path / "x.json")
    counts = read_counts(written(tmp_path, counts=[1], ns=[2]))
    with pytest.raises(InputError, match="tokens_per_s = 0"):
        recorded_curve(counts, 0, 10)
