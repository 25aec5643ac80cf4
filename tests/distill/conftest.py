"""A recipe small enough to train in a second."""

from __future__ import annotations

import dataclasses

import pytest

from harness.distill.recipe import Recipe, Stage
from harness.models.config import AttentionConfig, DecoderConfig, MambaConfig

ATTENTION = AttentionConfig(heads=4, kv_heads=4, head_dim=8)
MAMBA = MambaConfig(heads=4, head_dim=8, state=8, groups=4, chunk=16, dt_bias=True)
TEACHER = DecoderConfig(512, 32, ("attention", "attention"), 48, 1280, (2,), 1, ATTENTION)
STUDENT = dataclasses.replace(TEACHER, layers=("discrete_mamba2", "attention"), mamba=MAMBA)


class Small:
    teacher, student = TEACHER, STUDENT
    scratch = Recipe("scratch", 5, TEACHER, (Stage("pretrain", 6, 3, 0.01, warmup=2),), exact_rows=3)
    distil = Recipe(
        "distil",
        5,
        STUDENT,
        (
            Stage("mixers", 2, 3, 0.01, warmup=1),
            Stage("hidden", 2, 3, 0.01, warmup=1),
            Stage("kd", 3, 3, 0.01, warmup=1),
        ),
        teacher="any",
        data_offset=50,
        exact_rows=3,
    )


@pytest.fixture(scope="session")
def small() -> type[Small]:
    return Small
