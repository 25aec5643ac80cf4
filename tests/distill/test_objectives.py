"""The objectives: nothing to learn from oneself, padding that does not count, positions that do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.distill.objectives import Batch, loss, trainable, weight_of
from harness.distill.rows import Row, row
from harness.distill.train import initial, micro_batches
from harness.distill.transfer import transfer
from harness.models.decoder import Decoder

CPU = torch.device("cpu")
ROWS = [row(i) for i in (3, 4, 5)]


def random(config, seed=0):
    torch.manual_seed(seed)
    model = Decoder(config).requires_grad_(False)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.1)
    return model


@pytest.fixture(scope="module")
def teacher(small):
    return random(small.teacher)


@pytest.fixture(scope="module")
def student(small, teacher):
    model = Decoder(small.student).requires_grad_(False)
    transfer(teacher, model)
    return model


@pytest.mark.parametrize("objective", ["hidden", "kd"])
def test_a_model_has_nothing_to_learn_from_itself(teacher, objective):
    assert abs(float(loss(objective, teacher, teacher, Batch.of(ROWS, CPU)))) < 1e-6
    other = random(teacher.config, seed=1)
    assert float(loss(objective, other, teacher, Batch.of(ROWS, CPU))) > 1e-3


def test_mixers_are_held_against_the_attention_they_replace(student, teacher):
    value = float(loss("mixers", student, teacher, Batch.of(ROWS, CPU)))
    assert value > 0
    silent = Decoder(student.config).requires_grad_(False)
    silent.load_state_dict(student.state_dict())
    silent.blocks[0].mixer.out.weight.zero_()
    # Saying nothing is off by the teacher's whole power: a relative error of 1.
    assert float(loss("mixers", silent, teacher, Batch.of(ROWS, CPU))) == pytest.approx(1.0, abs=1e-5)


def test_kd_is_the_mean_kl_over_solution_positions(student, teacher):
    total, count = 0.0, 0
    for r in ROWS:
        tokens = torch.tensor(r.tokens.astype(np.int64))[None]
        p, q = (m(tokens)[0].double().log_softmax(-1) for m in (teacher, student))
        for position in range(r.prompt - 1, len(r.tokens) - 1):
            total += float((p[position].exp() * (p[position] - q[position])).sum())
            count += 1
    assert count == weight_of(ROWS, "kd")
    assert float(loss("kd", student, teacher, Batch.of(ROWS, CPU))) == pytest.approx(total / count, rel=1e-4)


def test_pretrain_is_cross_entropy_on_solution_tokens(teacher):
    total, count = 0.0, 0
    for r in ROWS:
        tokens = torch.tensor(r.tokens.astype(np.int64))[None]
        logits = teacher(tokens)[0]
        total += float(F.cross_entropy(logits[r.prompt - 1 : -1], tokens[0, r.prompt :], reduction="sum"))
        count += len(r.tokens) - r.prompt
    assert count == weight_of(ROWS, "pretrain")
    assert float(loss("pretrain", teacher, None, Batch.of(ROWS, CPU))) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("objective", ["pretrain", "mixers", "hidden", "kd"])
def test_padding_does_not_count(student, teacher, objective):
    batch = Batch.of(ROWS, CPU)
    padding = torch.ones_like(batch.tokens, dtype=torch.bool)
    padding.view(-1)[batch.real] = False
    other = dataclasses.replace(batch, tokens=batch.tokens.masked_fill(padding, 77))
    assert padding.any()
    assert torch.allclose(loss(objective, student, teacher, batch), loss(objective, student, teacher, other))


@pytest.mark.parametrize("objective", ["pretrain", "kd"])
def test_micro_batches_weighted_by_their_positions_give_the_whole(student, teacher, objective):
    whole = float(loss(objective, student, teacher, Batch.of(ROWS, CPU)))
    total = weight_of(ROWS, objective)
    parts = sum(
        float(loss(objective, student, teacher, Batch.of([r], CPU))) * weight_of([r], objective) / total for r in ROWS
    )
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_batch_by_hand():
    rows = [Row(np.array([1, 5, 6, 7, 2], dtype=np.int16), 2), Row(np.array([1, 9, 2], dtype=np.int16), 1)]
    batch = Batch.of(rows, CPU)
    assert batch.tokens.shape == (2, 64)
    assert batch.tokens[0, :6].tolist() == [1, 5, 6, 7, 2, 0] and batch.tokens[1, :4].tolist() == [1, 9, 2, 0]
    assert batch.real.tolist() == [0, 1, 2, 3, 4, 64, 65, 66]
    # The position before each solution token, and that token.
    assert batch.target.tolist() == [1, 2, 3, 64, 65] and batch.wanted.tolist() == [6, 7, 2, 9, 2]
    assert weight_of(rows, "kd") == weight_of(rows, "pretrain") == 5 and weight_of(rows, "mixers") == 8


def test_mixers_move_the_new_mixers_alone(small):
    model = Decoder(small.student)
    names = [n for n, _ in trainable("mixers", model)]
    assert names and all(n.startswith("blocks.0.mixer.") for n in names)
    for objective in ("pretrain", "hidden", "kd"):
        assert [n for n, _ in trainable(objective, model)] == [n for n, _ in model.named_parameters()]


@pytest.mark.parametrize("most", [1, 100, 333, 1000, 10**6])
def test_micro_batches_cover_all_rows_once(most):
    rows = [row(i) for i in range(40)]
    batches = list(micro_batches(rows, most))
    assert sorted(id(r) for b in batches for r in b) == sorted(id(r) for r in rows)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(r.tokens) for r in batch) <= most
    lengths = [len(r.tokens) for b in batches for r in b]
    assert lengths == sorted(lengths)


def test_the_first_weights_are_drawn_from_the_seed(small):
    one, same = initial(small.scratch, None), initial(small.scratch, None)
    other = initial(dataclasses.replace(small.scratch, seed=6), None)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    assert torch.equal(one.norm.weight, torch.ones(32))
