"""The teacher-forced gate: tokens forced through each engine's own step give the logits of one whole forward.

Every layer kind and state dtype, through commits, forks, refills and padding, memory poisoned with NaN where nothing
was written. Without a GPU the native step runs uncaptured in Triton's interpreter, at 0.1 s a row and step: fewer
steps then, and 16-bit states on refilled slots of models without attention alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models

from harness.bench.forced import Agreement, Chain, force, forcing_budget, reference
from harness.engine.backend import EagerBackend
from harness.engine.engines import AnyBackend, check_model, make_backend
from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig
from harness.models.decoder import Decoder
from harness.models.resolve import TRIO, LoadedModel, load_model
from harness.models.state import AttentionState
from harness.models.text import Codec
from harness.records import Budget, InputError
from harness.tasks.loader import load_task, render

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
VOCAB, K = 37, 16  # every ring length that there is divides K
LONGER = 12 if ON_GPU else 1
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ATTENTION = AttentionConfig(heads=2, kv_heads=1, head_dim=16)
MAMBA2 = MambaConfig(heads=2, head_dim=16, state=16, groups=1, chunk=16, dt_bias=True)
# Layers and what else the config needs. To gate another family, name it here.
FAMILIES: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "teacher": (("attention",), {}),
    # Four heads share B and C here, which the native engine computes in a launch of its own.
    "continuous": (("mamba2",), {"mamba": dataclasses.replace(MAMBA2, heads=4, head_dim=8, gated_norm=True)}),
    "discrete": (("discrete_mamba2",), {}),
    "hybrid": (("attention", "discrete_mamba2"), {"mlp": 24}),
    "mamba-in-llama": (("mamba1", "attention"), {"mamba1": Mamba1Config(32, 4, xb=16, dt_bias_twice=True)}),
    "mamba1": (("mamba1",), {"mamba1": Mamba1Config(32, 4)}),
}
# Shorter than the convolution, ordinary, and longer than a page of keys.
PROMPTS = [[5, 6], [8, 9, 10, 11, 12, 13, 14], [(7 * i) % VOCAB for i in range(66)]]


def chain(prompt: int, slot: int, steps: int, commit: int, start: int = 0) -> Chain:
    """Random tokens; the sample is numbered so that layer 0 commits for the first time in step ``commit``."""
    tokens = np.random.default_rng([prompt, slot, start]).integers(0, VOCAB, LONGER * steps).tolist()
    sample = (K - 1 - commit - len(PROMPTS[prompt])) % K
    return Chain(prompt, sample, slot, tuple(tokens), LONGER * start)


# Slots of the engine, and who sits where. Rows hold, one after the other: the prompt's snapshot and a ring that fills,
# a commit, their own state and a ring that fills. Prompts are read together where chains share one, else row by row.
CASES: dict[str, tuple[int, list[Chain]]] = {
    "single": (1, [chain(1, 0, 6, commit=2)]),
    "odd": (3, [chain(0, 0, 4, commit=1), chain(1, 1, 4, commit=2), chain(2, 2, 4, commit=0)]),
    # Slot 0 stays empty, 1 is given up early; the bucket of 4 has a row beyond the rows, the engine a slot beyond that.
    "padded": (5, [chain(2, 1, 2, commit=0), chain(2, 2, 4, commit=1)]),
    # A first commit in step 7 means phase 0 at the fork: the ring's length by age and by phase are one.
    "forked": (4, [chain(1, slot, 4, commit=commit) for slot, commit in enumerate((0, 1, 2, 7))]),
    # Slot 1 holds a committed state and a ring half full when another prompt takes it, at another phase.
    "refilled": (2, [chain(0, 0, 8, commit=5), chain(1, 1, 4, commit=1), chain(2, 1, 4, commit=7, start=4)]),
}
# Largest error of a step (max|a - b| / max|b|), mean divergence of all, least share of equal top tokens. The last two
# are the design's; it leaves bf16 open. Errors are twice what states rounded at every step give in the plain engine,
# 10 times what fp32 gives: half a wrong ring entry is far beyond them.
GATES = {"fp32": (5e-5, 1e-5, 0.999), "fp16": (8e-3, 1e-4, 0.995), "bf16": (6e-2, 1e-3, 0.95)}


def combinations() -> Iterator[tuple[str, str, str, str]]:
    for family, (layers, _) in FAMILIES.items():
        for engine in ("eager", "native"):
            for case in CASES:
                for state in DTYPES:
                    has_state = set(layers) != {"attention"} and engine == "native"
                    brief = case == "refilled" and "attention" not in layers
                    if state == "fp32" or (has_state and (ON_GPU or brief)):
                        yield family, engine, case, state


def tiny(family: str) -> LoadedModel:
    """Random weights in fp32; heads that forget within a few tokens and heads that do not, so that an error stays."""
    layers, more = FAMILIES[family]
    given = {"mlp": 0, "attention": ATTENTION, "mamba": MAMBA2} | more
    config = DecoderConfig(vocab_size=VOCAB, width=32, layers=layers, context=512, eos=(3,), **given)  # type: ignore[arg-type]
    decoder = Decoder(config)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in decoder.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.3 * noise if parameter.ndim > 1 else 1 + 0.1 * noise
        if name.endswith("dt_bias"):
            parameter.data = torch.linspace(-4, -1, len(parameter))
        elif name.endswith("A_log"):
            parameter.data = torch.linspace(-1, 1, len(parameter)).view(-1, *[1] * (parameter.ndim - 1)) + 0.1 * noise
    codec = Codec(_tokenizer(), VOCAB, (3,))
    return LoadedModel(family, decoder.to(DEVICE).requires_grad_(False).eval(), codec, "0" * 64, random=True)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({chr(ord("!") + i): i for i in range(VOCAB)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@torch.inference_mode()
def poison(backend: AnyBackend) -> None:
    """NaN into all that a prefill, a fork or a step must write before anything reads it."""
    found = [backend.logits, backend.prompt_logits]
    for layer in backend.state.layers:
        for name, value in _tensors(layer):
            # The plain engine reads pages whole, with weight 0 behind the last token: its ``append`` keeps NaN out.
            if not (isinstance(backend, EagerBackend) and isinstance(layer, AttentionState) and name == "v"):
                found.append(value)
    if not isinstance(backend, EagerBackend):
        for plan in backend.fused.plans.values():
            found += [value for _, value in _tensors(plan)]
    for value in found:
        if value.is_floating_point():
            value.fill_(torch.nan)


def _tensors(holder: object) -> Iterator[tuple[str, torch.Tensor]]:
    names = [f.name for f in dataclasses.fields(holder)] if dataclasses.is_dataclass(holder) else list(vars(holder))
    for name in names:
        value = getattr(holder, name)
        if isinstance(value, torch.Tensor):
            yield name, value
        elif dataclasses.is_dataclass(value):
            yield from _tensors(value)


@pytest.mark.parametrize(("family", "engine", "case", "state"), list(combinations()))
def test_forced_tokens_give_the_logits_of_one_forward(family: str, engine: str, case: str, state: str) -> None:
    loaded = tiny(family)
    try:
        check_model(engine, loaded.config)
    except InputError as error:
        pytest.skip(str(error))
    slots, chains = CASES[case]
    ids = [f"p{i}" for i in range(len(PROMPTS))]
    budget = forcing_budget(chains, slots)
    backend = make_backend(engine, loaded, budget, PROMPTS, ids, slots, True, DTYPES[state])
    poison(backend)
    agreement = Agreement([reference(loaded.decoder, PROMPTS[c.prompt], c.tokens) for c in chains])
    force(backend, chains, agreement)
    assert len(agreement.error) == sum(len(c.tokens) + 1 for c in chains)
    error, divergence, same = GATES[state]
    late = [f"{c}@{n}: {e:.1e}" for c, n, e in zip(agreement.chain, agreement.consumed, agreement.error, strict=True)]
    assert agreement.error.max() <= error, late
    assert agreement.divergence.mean() <= divergence
    assert agreement.same.mean() >= same


def test_rounding_follows_the_trajectory_not_the_slot() -> None:
    """bf16 states are rounded at the same tokens in any slot and after a refill: others move logits by 1e-4 or more.

    Products of one and of two rows round differently in fp32, by 1e-6.
    """
    loaded = tiny("discrete")
    first, then = chain(2, 1, 3, commit=0), chain(1, 1, 5, commit=2, start=3)
    refilled, alone = (
        forced(loaded, chains)[-1] for chains in ([first, then], [dataclasses.replace(then, slot=0, start=0)])
    )
    assert (refilled - alone).abs().max() <= 1e-5 * alone.abs().max()


def forced(loaded: LoadedModel, chains: list[Chain]) -> list[torch.Tensor]:
    """Logits [1 + tokens, vocab] of each chain, from the native engine with 2 slots and bf16 states."""
    logits: list[list[torch.Tensor]] = [[] for _ in chains]

    def look(which: Sequence[int], _: Sequence[int], rows: torch.Tensor) -> None:
        for number, row in zip(which, rows, strict=True):
            logits[number].append(row)

    budget = forcing_budget(chains, 2)
    force(make_backend("native", loaded, budget, PROMPTS, list("abc"), 2, True, torch.bfloat16), chains, look)
    return [torch.stack(rows) for rows in logits]


@pytest.mark.parametrize("name", TRIO if ON_GPU else ["tiny-hybrid"])
def test_greedy_text_of_embedded_models_is_that_of_the_plain_decoder(name: str) -> None:
    """In fp32. If each token is the top one of a whole forward over what stands before it, so is the text."""
    rows, windows, steps = (8, 12, 8) if ON_GPU else (1, 1, 3)
    loaded = load_model(name, torch.float32, DEVICE)
    task = load_task("builtin", limit=rows)
    prompts = [loaded.codec.encode_prompt(render(task, problem)) for problem in task.problems]
    budget = Budget((1.0,), "task", 1, windows * steps, 0.0, 1.0, 0, 0, rows)
    backend = make_backend("native", loaded, budget, prompts, [p.id for p in task.problems], rows)
    backend.prefill(range(rows))
    backend.fork(range(rows), [0] * rows, range(rows))
    seen = [backend.window(rows, steps) for _ in range(windows)]
    for row, prompt in enumerate(prompts):
        tokens = [t for window in seen for t in window.tokens[: window.count[row], row].tolist()]
        assert len(tokens) == windows * steps or tokens[-1] in loaded.codec.eos
        assert tokens == reference(loaded.decoder, prompt, tokens[:-1]).argmax(1).tolist()
