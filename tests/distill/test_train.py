"""Training taken up from a checkpoint is the training that was never stopped: equal losses, equal weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.distill.train import LOSS_FIELDS, initial, read_losses, train
from harness.models.decoder import Decoder
from harness.records import InputError

CPU = torch.device("cpu")


def losses(out):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_losses(out / "losses.csv")]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def random(config):
    torch.manual_seed(1)
    model = Decoder(config).requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim < 2), std=0.1)
    return model


@pytest.fixture(scope="module")
def teacher(small):
    return random(small.teacher)


@pytest.fixture(scope="module")
def whole(small, teacher, tmp_path_factory):
    """{name: (folder, model)} of each small recipe in one go."""
    made = {}
    for recipe, teaches in ((small.scratch, None), (small.distil, teacher)):
        out = tmp_path_factory.mktemp(recipe.name)
        made[recipe.name] = (out, train(recipe, "sha", teaches, out, CPU, 0))
    return made


@pytest.mark.parametrize("name", ["scratch", "distil"])
@pytest.mark.parametrize("stops", [(3,), (1, 2, 4), (2,), (5,), (6,)])
def test_resumed_is_uninterrupted(small, teacher, whole, tmp_path, name, stops):
    recipe, teaches = (small.scratch, None) if name == "scratch" else (small.distil, teacher)
    for stop in stops:
        train(recipe, "sha", teaches, tmp_path, CPU, 0, stop_after=stop)
        assert [row["step"] for row in losses(tmp_path)] == [str(i) for i in range(stop)]
    model = train(recipe, "sha", teaches, tmp_path, CPU, 0)
    out, expected = whole[name]
    assert losses(tmp_path) == losses(out)
    assert equal(model, expected)


def test_a_finished_run_is_left_alone(small, whole, tmp_path):
    out, expected = whole["scratch"]
    before = (out / "losses.csv").read_bytes()
    assert equal(train(small.scratch, "sha", None, out, CPU, 0), expected)
    assert (out / "losses.csv").read_bytes() == before


def test_losses_behind_the_checkpoint_are_drawn_again(small, whole, tmp_path):
    """Killed between two checkpoints, losses.csv is ahead of it: its extra rows are cut back, not doubled."""
    train(small.scratch, "sha", None, tmp_path, CPU, 0, stop_after=3)
    with (tmp_path / "losses.csv").open("a") as file:
        file.write("3,pretrain,9.9,0.1,1,3,10,0.1\r\n4,pretrain,9.9,0.1,1,3,10,0.1\r\n")
    train(small.scratch, "sha", None, tmp_path, CPU, 0)
    assert losses(tmp_path) == losses(whole["scratch"][0])


def test_another_recipe_is_refused(small, tmp_path):
    train(small.scratch, "sha", None, tmp_path, CPU, 0, stop_after=1)
    with pytest.raises(InputError, match="another recipe"):
        train(small.scratch, "other", None, tmp_path, CPU, 0)
    longer = dataclasses.replace(small.scratch, stages=(dataclasses.replace(small.scratch.stages[0], steps=9),))
    with pytest.raises(InputError, match="another recipe"):
        train(longer, "sha", None, tmp_path, CPU, 0)


def test_the_log_says_what_was_done(small, whole):
    rows = read_losses(whole["distil"][0] / "losses.csv")
    assert tuple(rows[0]) == LOSS_FIELDS
    assert [r["objective"] for r in rows] == ["mixers"] * 2 + ["hidden"] * 2 + ["kd"] * 3
    assert all(r["rows"] == "3" and float(r["loss"]) > 0 and float(r["grad_norm"]) > 0 for r in rows)


def test_training_lowers_the_loss(small, tmp_path):
    stage = dataclasses.replace(small.scratch.stages[0], steps=15)
    train(dataclasses.replace(small.scratch, stages=(stage,)), "sha", None, tmp_path, CPU, 0)
    values = [float(r["loss"]) for r in read_losses(tmp_path / "losses.csv")]
    assert values[-1] < values[0] - 0.5


def test_mixers_leave_everything_else_as_transferred(small, teacher, tmp_path):
    recipe = dataclasses.replace(small.distil, stages=small.distil.stages[:1])
    model = train(recipe, "sha", teacher, tmp_path, CPU, 0)
    start = initial(recipe, teacher).state_dict()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, start[n])}
    assert moved and all(n.startswith("blocks.0.mixer.") for n in moved)


def test_progress_is_told(small, tmp_path):
    told = []
    stage = dataclasses.replace(small.scratch.stages[0], steps=12)
    recipe = dataclasses.replace(small.scratch, stages=(stage,))
    train(recipe, "sha", None, tmp_path, CPU, 0, on_step=lambda step, row: told.append((step, row["step"])))
    assert told == [(9, 9), (11, 11)]
