"""Budgets by name and by path: the packaged ones hold what they are for, and every mistake names the file."""

import pytest

from harness.budgets.loader import list_budgets, load_budget
from harness.records import InputError

GOOD = (
    "seconds: 3\nclock: problem\nsamples_per_problem: 1\nmax_new_tokens: 5\n"
    "temperature: 0\ntop_p: 1\ntop_k: 0\nseed: 1\nbatch: max\n"
)


def test_the_packaged_budgets():
    assert set(list_budgets()) >= {"quick", "embedded", "ci"}
    for name in list_budgets():
        assert load_budget(name).deadline_s > 0


def test_embedded_is_the_full_sweep():
    budget = load_budget("embedded")
    assert budget.seconds == (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
    assert (budget.clock, budget.batch, budget.limit, budget.drain) == ("task", "calibrated", None, True)
    assert budget.stop_after_boxed


def test_quick_and_ci_are_cut_short():
    assert load_budget("quick").limit == 24
    ci = load_budget("ci")
    assert (ci.limit, ci.seconds, ci.samples_per_problem, ci.batch) == (4, (4.0,), 2, 8)


def test_every_packaged_budget_says_what_it_is_for():
    from harness.budgets.loader import FOLDER

    for name in list_budgets():
        assert (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    budget = load_budget(str(path))
    assert (budget.seconds, budget.top_p, budget.batch) == ((3.0,), 1.0, "max")


@pytest.mark.parametrize(
    ("name", "message"),
    [("quik", "did you mean 'quick'"), ("zz", "known: ci"), ("no/such.yaml", "no such file"), ("x.yaml", "no such")],
)
def test_names_that_are_none(name, message):
    with pytest.raises(InputError, match=message):
        load_budget(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "sample_per_problem: 2\n", r"mine\.yaml: unknown key 'sample_per_problem'; did you mean 'samples_per"),
        (GOOD.replace("seed: 1\n", ""), r"mine\.yaml: seed is missing"),
        (GOOD.replace("batch: max", "batch: most"), r"mine\.yaml: batch = 'most'"),
        (GOOD.replace("seconds: 3", "seconds: [3, 0]"), r"mine\.yaml: budget\.seconds"),
        (GOOD.replace("max_new_tokens: 5", "max_new_tokens: five"), r"mine\.yaml: max_new_tokens = 'five'"),
        ("- 1\n", r"mine\.yaml: expected named fields"),
        ("", r"mine\.yaml: expected named fields"),
        ("a: [\n", r"mine\.yaml: cannot be read as YAML"),
    ],
)
def test_files_that_do_not_fit(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_budget(str(path))
    assert "\n" not in str(caught.value)
