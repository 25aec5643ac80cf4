"""The native engine, uncaptured in Triton's interpreter, against the plain one: the same tokens.

On a GPU the same tests run the captured graphs.
"""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from harness.engine.backend import EagerBackend, Window
from harness.engine.graph import GraphBackend, buckets
from harness.engine.memory import available_bytes
from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig
from harness.models.decoder import Decoder
from harness.models.resolve import LoadedModel
from harness.models.state import AttentionState
from harness.models.text import Codec
from harness.records import Budget

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCAB, EOS = 37, 3
ATTENTION = AttentionConfig(heads=2, kv_heads=1, head_dim=16)
MAMBA = MambaConfig(heads=2, head_dim=16, state=16, groups=1, chunk=16)
MAMBA1 = {"grouped": Mamba1Config(32, 4, 16, xb=16, dt_bias_twice=True), "ungrouped": Mamba1Config(48, 4, 8)}
LAYERS = {
    "teacher": ("attention",),
    "discrete": ("discrete_mamba2",),
    "continuous": ("mamba2",),
    "hybrid": ("discrete_mamba2", "attention"),
    "grouped": ("mamba1", "attention"),
    "ungrouped": ("mamba1", "mamba1"),
}
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14]]


def budget(**changes: object) -> Budget:
    return dataclasses.replace(Budget((1.0,), "task", 3, 40, 0.9, 1.0, 0, 11, 3), **changes)  # type: ignore[arg-type]


def model(kind: str, gated_norm: bool = False, mlp: int = 24) -> LoadedModel:
    mamba = dataclasses.replace(MAMBA, gated_norm=gated_norm)
    config = DecoderConfig(
        VOCAB,
        32,
        LAYERS[kind],
        mlp,
        256,
        (EOS,),
        None,
        ATTENTION,
        mamba,
        MAMBA1.get(kind),  # type: ignore[arg-type]
    )
    decoder = Decoder(config)
    generator = torch.Generator().manual_seed(5)
    for parameter in decoder.parameters():
        scale = 0.3 if parameter.ndim > 1 else 0.1
        parameter.data = parameter.data * (parameter.ndim == 1) + scale * torch.randn(
            parameter.shape, generator=generator
        )
    vocabulary = {chr(ord("!") + i): i for i in range(VOCAB)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    codec = Codec(tokenizer, VOCAB, (EOS,))
    return LoadedModel("tiny", decoder.to(DEVICE).requires_grad_(False).eval(), codec, "0" * 64, random=True)


def both(kind: str, slots: int = 3, **changes: object) -> list[EagerBackend | GraphBackend]:
    mamba = {k: changes.pop(k) for k in ("gated_norm", "mlp") if k in changes}
    loaded = model(kind, **mamba)  # type: ignore[arg-type]
    given = budget(**changes)
    return [made(loaded, given, PROMPTS, ["a", "b"], slots) for made in (EagerBackend, GraphBackend)]


def drawn(window: Window) -> list[list[int]]:
    """The tokens of each row that count."""
    return [window.tokens[:count, row].tolist() for row, count in enumerate(window.count)]


def logprobs(window: Window) -> np.ndarray:
    return np.concatenate([window.logprobs[:count, row] for row, count in enumerate(window.count)])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("teacher", {}),
        ("teacher", {"samples_per_problem": 1, "top_k": 5, "top_p": 0.8}),
        ("discrete", {}),
        ("continuous", {"gated_norm": True, "mlp": 0}),
        ("hybrid", {"temperature": 0.0}),
        ("grouped", {}),
        ("ungrouped", {"mlp": 0, "temperature": 0.0}),
    ],
)
def test_same_tokens_as_the_plain_engine_through_fork_end_refill_and_move(
    kind: str, changes: dict[str, object]
) -> None:
    plain, graph = both(kind, **changes)
    windows: list[list[Window]] = []
    for backend in (plain, graph):
        seen = []
        backend.prefill(range(2))
        backend.fork([0, 1], [0, 0], [0, 1])
        seen.append(backend.window(2, 3))
        # A third row joins in the middle of the others' commits; then row 0 leaves and the last takes its place.
        backend.fork([0], [1], [2])
        seen.append(backend.window(3, 2))
        backend.release(0)
        backend.move(2, 0)
        backend.release(2)
        seen.append(backend.window(2, 5))
        backend.fork([1], [2], [2])
        seen.append(backend.window(3, 3))
        windows.append(seen)
    for expected, got in zip(*windows, strict=True):
        assert drawn(got) == drawn(expected)
        assert logprobs(got) == pytest.approx(logprobs(expected), abs=2e-4)
    assert sum(len(row) for w in windows[1] for row in drawn(w)) > 15


def test_a_row_ends_at_eos_and_at_its_length_and_stays_ended() -> None:
    plain, graph = both("discrete", slots=2, max_new_tokens=6)
    for backend in (plain, graph):
        backend.prefill(range(2))
        backend.fork([0, 1], [4, 7], [0, 1])
    first = [drawn(b.window(2, 4)) for b in (plain, graph)]
    second = [drawn(b.window(2, 4)) for b in (plain, graph)]
    assert first[0] == first[1] and second[0] == second[1]
    assert all(len(a) + len(b) <= 6 for a, b in zip(first[1], second[1], strict=True))
    assert [len(row) for row in drawn(graph.window(2, 3))] == [0, 0]


@pytest.mark.parametrize("kind", ["hybrid", "grouped"])
def test_rows_do_not_depend_on_their_slot_or_neighbours(kind: str) -> None:
    loaded = model(kind)
    together = GraphBackend(loaded, budget(), PROMPTS, ["a", "b"], 3)
    alone = GraphBackend(loaded, budget(), PROMPTS, ["a", "b"], 1)
    for backend in (together, alone):
        backend.prefill([0, 1])
    together.fork([0, 1, 0], [0, 1, 2], [0, 1, 2])
    alone.fork([0], [2], [0])
    assert drawn(together.window(3, 9))[2] == drawn(alone.window(1, 9))[0]


def bits_of(kind: str, fixed_rows: int | None, slots: int, slot: int, others: dict[int, tuple[int, int]]) -> bytes:
    """Sample 2 of prompt 1, forked into ``slot`` three steps behind ``others`` (slot: prompt, sample): its bits."""
    backend = GraphBackend(model(kind), budget(), PROMPTS, ["a", "b"], slots, fixed_rows=fixed_rows)
    backend.prefill([0, 1])
    if others:
        backend.fork([p for p, _ in others.values()], [n for _, n in others.values()], list(others))
        backend.window(slots, 3)
    backend.fork([1], [2], [slot])
    window = backend.window(slots, 6)
    count = window.count[slot]
    assert count > 3 and window.logprobs is not None
    own = window.tokens[:count, slot].tobytes() + window.logprobs[:count, slot].tobytes()
    return own + backend.logits[slot].cpu().numpy().tobytes()


@pytest.mark.parametrize("kind", ["hybrid", "continuous", "grouped"])
def test_with_fixed_rows_neither_batch_nor_slot_nor_neighbours_change_a_bit(kind: str) -> None:
    alone = bits_of(kind, 5, 1, 0, {})
    assert bits_of(kind, 5, 4, 3, {0: (1, 0), 1: (0, 0), 2: (1, 1)}) == alone
    assert bits_of(kind, 5, 3, 1, {0: (0, 1)}) == alone
    assert bits_of(kind, 5, 5, 2, {4: (1, 7), 0: (1, 8)}) == alone


def test_an_engine_that_nobody_holds_is_gone_before_memory_is_counted() -> None:
    backend = GraphBackend(model("hybrid"), budget(), PROMPTS, ["a", "b"], 2)
    state = weakref.ref(backend.state)
    gc.disable()
    try:
        del backend
        available_bytes(DEVICE)
    finally:
        gc.enable()
    assert state() is None


def test_clamped_entries_of_all_layers_are_counted() -> None:
    backend = GraphBackend(model("hybrid"), budget(), PROMPTS, ["a", "b"], 2, state_dtype=torch.float16)
    assert backend.state.saturated() == 0
    for layer in backend.state.layers:
        if not isinstance(layer, AttentionState):
            layer.write_prompts(
                torch.tensor([0], device=DEVICE),
                layer.tails[:1].clone(),
                torch.full((1, 2, 16, 16), 1e6, device=DEVICE),
            )
    assert backend.state.saturated() == 2 * 16 * 16


def test_pages_grow_past_the_first() -> None:
    plain, graph = both("teacher", slots=1, max_new_tokens=70, samples_per_problem=1)
    tokens = []
    for backend in (plain, graph):
        backend.eos = torch.zeros(0, dtype=torch.int64, device=DEVICE) if isinstance(backend, EagerBackend) else None  # type: ignore
        backend.prefill([1])
        backend.fork([1], [0], [0])
        tokens.append([t for _ in range(3) for t in drawn(backend.window(1, 22))[0]])
    n = min(map(len, tokens))
    assert tokens[0][:n] == tokens[1][:n]


def test_buckets_hold_every_batch() -> None:
    assert buckets(1) == [1]
    assert buckets(5) == [1, 2, 4, 5]
    assert buckets(100) == [1, 2, 4, 8, 16, 32, 48, 64, 96, 100]
