import pytest

from harness.records import InputError
from harness.scoring.table import NO_VOTE, SampleTable

THREE = [
    {"p": "b", "t": 2.0, "cls": "x", "ok": True},
    {"p": "a", "t": 1.0, "cls": "x", "ok": False, "late": True},
    {"p": "a", "t": 3.0, "cls": "y", "status": "timeout"},
]


def test_rows_are_grouped_by_problem_and_what_is_late_or_unscored_is_marked(table):
    t = table(THREE)
    assert t.row.tolist() == [0, 0, 1]
    assert t.on_clock_s.tolist() == [float("inf"), 3.0, 2.0]
    assert t.unscored.tolist() == [False, True, False]
    assert t.class_code.tolist() == [0, NO_VOTE, 1]
    assert t.class_start.tolist() == [0, 1, 2]


def test_order_of_the_log_does_not_matter(records):
    trajectories, verdicts = records(THREE)
    started = {"a": 2, "b": 1}
    one = SampleTable.from_records(trajectories, verdicts, "ab", started)
    two = SampleTable.from_records(trajectories[::-1], verdicts[::-1], "ab", started)
    assert one.t_finish.tolist() == two.t_finish.tolist() and one.correct.tolist() == two.correct.tolist()


def test_unscored_is_never_correct_whatever_the_verdict_says(table):
    assert not table([{"p": "a", "t": 1.0, "cls": "x", "ok": True, "status": "limit"}]).correct.any()


def test_a_class_is_right_by_its_lowest_numbered_sample_and_split_classes_are_counted(table):
    t = table(
        [
            {"p": "a", "t": 5.0, "cls": "x", "ok": True},
            {"p": "a", "t": 1.0, "cls": "x", "ok": False},
            {"p": "a", "t": 1.0, "cls": "y", "ok": False},
        ]
    )
    assert t.right_classes(t.on_clock).tolist() == [True, False]
    assert t.n_split_classes == 1


def test_drained_means_every_started_sample_ended(table):
    assert table([{"p": "a", "t": 1.0, "late": True}, {"p": "a", "t": 1.0, "finish": "error"}]).drained
    assert not table([{"p": "a", "t": 1.0}, {"p": "a", "t": 1.0, "finish": "deadline"}]).drained
    assert not table([{"p": "a", "t": 1.0}], started={"a": 2}).drained


def test_an_ungraded_run_is_all_unscored(records):
    trajectories, _ = records(THREE)
    assert SampleTable.from_records(trajectories, None, "ab", {"a": 2, "b": 1}).unscored.all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, v: ([], v, "ab", {"a": 2, "b": 1}), "0 rows"),
        (lambda t, v: (t, v[:-1], "ab", {"a": 2, "b": 1}), "has no verdict"),
        (lambda t, v: (t[:-1], v, "ab", {"a": 2, "b": 1}), "no such trajectory"),
        (lambda t, v: (t, [*v, v[0]], "ab", {"a": 2, "b": 1}), "graded twice"),
        (lambda t, v: ([*t, t[0]], v, "ab", {"a": 2, "b": 2}), "logged twice|has no verdict"),
        (lambda t, v: (t, v, "a", {"a": 2}), "'b'"),
        (lambda t, v: (t, v, "aab", {"a": 2, "b": 1}), "twice"),
        (lambda t, v: (t, v, "ab", {"a": 1, "b": 1}), "n_started"),
    ],
)
def test_logs_that_do_not_fit_are_input_errors(records, change, says):
    with pytest.raises(InputError, match=says):
        SampleTable.from_records(*change(*records(THREE)))


def test_two_batches_in_one_log_are_refused(records):
    mixed = records(THREE)[0] + records(THREE, batch=8)[0]
    with pytest.raises(InputError, match="one at a time"):
        SampleTable.from_records(mixed, None, "ab", {"a": 4, "b": 2})
