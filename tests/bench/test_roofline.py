"""The roofline against figures worked out by hand, and what must hold of it whatever the shape."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from harness.bench.roofline import (
    Ceilings,
    Workload,
    crossover_batch,
    crossover_tokens,
    largest_batch,
    layer_products,
    products_flop,
    ring_length,
    step_parts,
    step_products,
    step_seconds,
    tokens_per_s,
)
from harness.models.decoder import Decoder
from harness.models.shapes import SHAPES
from harness.records import InputError

H100 = Ceilings(bytes_per_s=3.0e12, flop_per_s=713e12)
LLAMA, LLAMBA = SHAPES["llama-3.2-1b"], SHAPES["llamba-1b"]


@pytest.mark.parametrize(("batch", "new_tokens", "expected"), [(256, 1024, 95.6), (512, 2048, 62.3), (256, 4096, 36.7)])
def test_teacher_against_the_published_arithmetic(batch: int, new_tokens: int, expected: float) -> None:
    rate = tokens_per_s(LLAMA, Workload(batch, 128, new_tokens), H100)
    assert rate / 1000 == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize(("deferred", "expected"), [(False, 143), (True, 167)])
def test_student_against_the_published_arithmetic(deferred: bool, expected: float) -> None:
    rate = tokens_per_s(LLAMBA, Workload(256, 128, 1024, deferred=deferred), H100)
    assert rate / 1000 == pytest.approx(expected, rel=3e-3)


def test_at_batch_1_weights_are_what_is_read_and_the_larger_student_is_slower() -> None:
    alone = Workload(1, 128, 1)
    assert step_seconds(LLAMA, alone, H100) * 1e3 == pytest.approx(0.84, rel=0.02)
    assert step_seconds(LLAMBA, alone, H100) * 1e3 == pytest.approx(0.94, rel=0.01)


def test_mamba_in_llama_counts_its_mamba_layers() -> None:
    config = SHAPES["mamba-in-llama-1b"]
    work = Workload(256, 128, 1024)
    parts = {part.name: part for part in step_parts(config, work)}
    # 12 layers of 2048 channels x 16 numbers in 16 bits, read and written; 4 inputs of 512 channels.
    assert parts["states"].bytes == 12 * 256 * 2 * 2048 * 16 * 2
    assert parts["convolution inputs"].bytes == 12 * 256 * 4 * 512 * 2
    assert step_parts(config, dataclasses.replace(work, deferred=False)) == list(parts.values())
    mixers = 4 * 2048 * (2048 + 1024 + 2048) + 12 * (2048 * (1024 + 4096 + 128) + 128 * 2048 + 2048 * 2048)
    assert parts["layer products"].bytes == 2 * (mixers + 16 * 3 * 2048 * 8192)


@pytest.mark.parametrize("shape", ["tiny-hybrid", "llama-3.2-1b", "llamba-1b", "mamba-in-llama-1b", "mamba2-1.3b"])
def test_products_are_the_decoders_weights(shape: str) -> None:
    with torch.device("meta"):
        blocks = Decoder(SHAPES[shape]).blocks
    weights = Counter(
        (m.in_features, m.out_features) for block in blocks for m in block.modules() if isinstance(m, torch.nn.Linear)
    )
    assert layer_products(SHAPES[shape]) == weights
    config = SHAPES[shape]
    assert step_products(config) == weights + Counter([(config.width, config.vocab_size)])
    products = [part.flop for part in step_parts(config, Workload(5, 128, 1024)) if part.product]
    assert products_flop(config, 5) == pytest.approx(sum(products))


def test_products_have_a_ceiling_of_their_own() -> None:
    parts = {part.name: part for part in step_parts(LLAMA, Workload(256, 128, 1024))}
    slow = dataclasses.replace(H100, product_flop_per_s=100e12)
    for name, part in parts.items():
        product = name in ("layer products", "head")
        assert part.seconds(slow) == (part.flop / 100e12 if product else part.seconds(H100))


def test_the_deferred_roofline_is_the_higher_one_and_counts_the_convolution() -> None:
    given = Workload(256, 128, 1024)
    written_each_step = tokens_per_s(LLAMBA, dataclasses.replace(given, deferred=False), H100)
    assert tokens_per_s(LLAMBA, given, H100) > 1.1 * written_each_step
    parts = {part.name: part.bytes for part in step_parts(LLAMBA, given)}
    assert parts["convolution inputs"] == 16 * 256 * 4 * (2048 + 2 * 32 * 64) * 2


def test_ring_length_follows_the_state_dtype() -> None:
    assert LLAMBA.mamba is not None
    assert ring_length(LLAMBA.mamba, Workload(512, 128, 1024, state_bytes=2)) == 8
    wide = dataclasses.replace(LLAMBA.mamba, heads=64, state=128, groups=1)
    assert ring_length(wide, Workload(256, 128, 1024, state_bytes=4)) == 16


def test_the_mean_step_stands_for_all_steps() -> None:
    whole = step_seconds(LLAMA, Workload(256, 128, 1024), H100)
    each = [step_seconds(LLAMA, Workload(256, 128 + i, 1), H100) for i in range(1024)]
    assert whole == pytest.approx(sum(each) / len(each), rel=1e-9)


def test_a_shared_prompt_is_read_once_for_its_rows() -> None:
    def bytes_read(rows_per_prompt: int) -> float:
        parts = step_parts(LLAMA, Workload(256, 1024, 1, rows_per_prompt))
        return next(p.bytes for p in parts if p.name == "keys and values")

    token = 2 * 8 * 64 * 2 * 16
    assert bytes_read(1) - bytes_read(64) == pytest.approx(256 * 1024 * token * (1 - 1 / 64))


def test_crossovers_are_where_the_order_turns() -> None:
    work = Workload(256, 128, 1)
    turn = crossover_tokens(LLAMA, LLAMBA, work, H100)
    assert turn is not None
    for new_tokens, ahead in ((turn - 1, False), (turn, True)):
        at = dataclasses.replace(work, new_tokens=new_tokens)
        assert (step_seconds(LLAMBA, at, H100) < step_seconds(LLAMA, at, H100)) is ahead
    assert crossover_tokens(LLAMBA, LLAMA, work, H100) is None
    batches = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    first = crossover_batch(LLAMA, LLAMBA, Workload(1, 128, 1024), H100, batches)
    assert first is not None and 1 < first < 256
    assert crossover_batch(LLAMBA, LLAMA, Workload(1, 128, 1024), H100, batches) is None


def test_largest_batch_fills_memory_and_no_more() -> None:
    work = Workload(1, 128, 1024)
    most = largest_batch(LLAMA, work, 80e9)
    assert 500 < most < 2000
    assert largest_batch(LLAMA, dataclasses.replace(work, rows_per_prompt=64), 80e9) > most
    assert largest_batch(LLAMBA, work, 80e9) > most
    assert largest_batch(LLAMA, work, 1e9) == 0


def test_a_workload_that_makes_no_sense_is_named() -> None:
    with pytest.raises(InputError, match="batch = 0"):
        Workload(0, 128, 1024)
    with pytest.raises(InputError, match="prompt = -1"):
        Workload(1, -1, 1024)
    with pytest.raises(InputError, match="state_bytes = 3"):
        Workload(1, 1, 1, state_bytes=3)
