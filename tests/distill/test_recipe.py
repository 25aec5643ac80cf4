"""A recipe's arithmetic against plain loops, and what is wrong in one named."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from harness.distill.recipe import EXACT_STEPS, RECIPES, Recipe, Stage, load_recipe, scaled
from harness.distill.rows import row, steps
from harness.distill.train import learning_rate
from harness.records import InputError

NAMES = sorted(p.stem for p in RECIPES.glob("*.yaml"))


def recipe(small, *stages, **changes):
    made = tuple(Stage("pretrain", steps, rows, 0.01) for steps, rows in stages)
    return dataclasses.replace(small.scratch, stages=made, **changes)


SHAPES = {
    "one long": [(50, 7)],
    "first shorter than the exact steps": [(5, 7), (30, 9)],
    "exact steps over three": [(3, 7), (3, 8), (3, 9), (30, 10)],
    "cut at the exact steps": [(EXACT_STEPS, 7), (4, 9)],
    "all exact": [(4, 7), (6, 9)],
}


def walk(r):
    """(step, stage, step inside it, first item, rows) by counting one step after the other."""
    item, step = r.data_offset, 0
    for stage in r.stages:
        for inside in range(stage.steps):
            rows = r.exact_rows if step < EXACT_STEPS else stage.rows
            yield step, stage, inside, item, rows
            item, step = item + rows, step + 1


@pytest.mark.parametrize("name", SHAPES)
def test_arithmetic_is_that_of_a_loop(small, name):
    r = recipe(small, *SHAPES[name], data_offset=1000, exact_rows=2)
    seen = 0
    for step, stage, inside, item, rows in walk(r):
        assert r.stage_at(step) == (stage, inside)
        assert (r.first_item(step), r.rows_at(step)) == (item, rows)
        seen += 1
    assert seen == r.steps
    with pytest.raises(IndexError):
        r.stage_at(r.steps)


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_of_the_shipped_recipes(name):
    r, digest = load_recipe(name)
    assert len(digest) == 64 and r.name == name
    for step, stage, inside, item, rows in walk(r):
        assert r.stage_at(step) == (stage, inside)
        assert (r.first_item(step), r.rows_at(step)) == (item, rows)


def test_students_read_other_items_than_their_teacher():
    spans = {}
    for name in NAMES:
        r, _ = load_recipe(name)
        spans[name] = range(r.first_item(0), r.first_item(r.steps - 1) + r.rows_at(r.steps - 1))
    teacher = spans["tiny-teacher"]
    assert all(s.start >= teacher.stop for n, s in spans.items() if n != "tiny-teacher")


def test_steps_hand_out_the_rows_one_after_the_other(small):
    r = recipe(small, (2, 3), (2, 4), exact_rows=2, data_offset=7)
    handed = [[row.tokens.tolist() for row in step] for step in steps(r, 0, 0)]
    assert [len(step) for step in handed] == [2, 2, 2, 2]
    assert [t for step in handed for t in step] == [row(i).tokens.tolist() for i in range(7, 15)]
    assert [[row.tokens.tolist() for row in step] for step in steps(r, 3, 0)] == handed[3:]


def test_worker_processes_make_the_same_rows(small):
    r = recipe(small, (3, 2), exact_rows=2)
    alone, workers = ([[row.tokens.tolist() for row in s] for s in steps(r, 0, n)] for n in (0, 1))
    assert alone == workers


def test_a_row_is_bos_prompt_solution_eos():
    for index in (0, 1, 1_000_000):
        made = row(index)
        assert made.tokens[0] == 1 and made.tokens[-1] == 2 and 1 < made.prompt < len(made.tokens)
        assert 2 not in made.tokens[:-1] and made.tokens.max() < 512


def test_the_learning_rate_rises_and_falls():
    stage = Stage("kd", 100, 8, 0.5, warmup=10, decay=0.2)
    rates = [learning_rate(stage, i) for i in range(100)]
    assert rates[0] == pytest.approx(0.05) and rates[9] == rates[50] == rates[80] == 0.5
    assert rates[90] == pytest.approx(0.25) and rates[99] == pytest.approx(0.025)


def test_scaled_keeps_at_least_a_step(small):
    assert [s.steps for s in scaled(small.distil, 0.1).stages] == [1, 1, 1]
    assert [s.steps for s in scaled(small.distil, 2).stages] == [4, 4, 6]


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"sead": 1}, ["'sead'", "did you mean 'seed'?"]),
        ({"stages": [{"objective": "kd", "steps": 1, "rows": 1, "lr": 1}]}, ["teacher is missing"]),
        ({"stages": [{"objective": "kdd", "steps": 1, "rows": 1, "lr": 1}]}, ["stages[0]", "objective", "'kdd'"]),
        ({"stages": [{"objective": "kd", "steps": 1, "rows": 1, "rate": 1}]}, ["stages[0]", "'rate'"]),
        ({"model": {"width": 3}}, ["model", "vocab_size is missing"]),
        ({"seed": "x"}, ["seed", "'x'", "whole number"]),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path, changes, words):
    data = yaml.safe_load((RECIPES / "tiny-teacher.yaml").read_text()) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_no_yaml_and_no_such_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not YAML"):
        load_recipe(str(tmp_path / "mine.yaml"))
    with pytest.raises(InputError, match="did you mean 'tiny-mamba'"):
        load_recipe("tiny-mambo")


def test_recipes_are_read_into_records():
    assert all(isinstance(load_recipe(name)[0], Recipe) for name in NAMES) and len(NAMES) == 3
