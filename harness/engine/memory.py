"""Which batch fits: planned from bytes a slot and a prompt, before the clock starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch

from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.models.state import prompt_bytes, slot_bytes
from harness.models.weights import available_bytes
from harness.records import InputError

# Kept back for activations and the allocator's slack: a share of what is free; natively at most so many bytes, since
# there a step's temporaries are planned and a prefill's pass has ``PASS_TOKENS`` or one prompt. Measured peaks lie 0.3
# to 1.9 GiB above plan and weights (H100, up to 3B parameters, prompts of 128 tokens); the rest is margin.
SPARE_SHARE = 0.15
NATIVE_SPARE_BYTES = 6 * 2**30


def room(free_bytes: float, engine: str) -> float:
    """Of so many free bytes, those that a plan may fill."""
    spare = SPARE_SHARE * free_bytes
    return free_bytes - (min(spare, NATIVE_SPARE_BYTES) if engine == "native" else spare)


def largest_batch(
    decoder: Decoder,
    prompts: Sequence[int],
    new_tokens: int,
    engine: str = "eager",
    state_dtype: torch.dtype = torch.float32,
    free_bytes: int | None = None,
) -> int:
    """Slots that fit beside all prompts (their token counts); InputError with the numbers if not even one does."""
    free = available_bytes(decoder.device) if free_bytes is None else free_bytes
    dtype = decoder.embedding.weight.dtype

    def bytes_of(slots: int) -> int:
        return needed_bytes(decoder.config, dtype, prompts, new_tokens, slots, engine, state_dtype)

    if bytes_of(1) > room(free, engine):
        fixed = bytes_of(0)
        raise InputError(
            f"memory: {free / 2**30:.2f} GiB free, {len(prompts)} prompts need {fixed / 2**30:.2f} GiB and one slot"
            f" {(bytes_of(1) - fixed) / 2**30:.3f} GiB; lower max_new_tokens or limit"
        )
    return most_that_fit(bytes_of, room(free, engine))


def most_that_fit(bytes_of: Callable[[int], int], most: float, known: int = 1) -> int:
    """The largest n with bytes_of(n) <= most; ``known`` of them are known to fit."""
    low, high = known, 2 * known
    while bytes_of(high) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_of(middle) <= most else (low, middle)
    return low


def needed_bytes(
    config: DecoderConfig,
    dtype: torch.dtype,
    prompts: Sequence[int],
    new_tokens: int,
    slots: int,
    engine: str,
    state_dtype: torch.dtype,
) -> int:
    """Bytes that an engine plans for prompts of these token counts and ``slots`` chains behind them, weights apart."""
    if engine == "native":
        from harness.engine.device_state import planned_bytes

        return planned_bytes(config, prompts, new_tokens, slots, dtype, state_dtype)
    state_dtype = torch.float64 if dtype == torch.float64 else state_dtype
    # By length: the largest batch is looked for among thousands of prompts of one.
    counts = Counter(prompts).items()
    fixed = sum(count * prompt_bytes(config, n, dtype, state_dtype) for n, count in counts)
    return fixed + slots * slot_bytes(config, new_tokens, dtype, state_dtype)


def check_batch(
    decoder: Decoder,
    prompts: Sequence[int],
    new_tokens: int,
    batch: int,
    engine: str = "eager",
    state_dtype: torch.dtype = torch.float32,
) -> None:
    """InputError naming both numbers if ``batch`` slots do not fit."""
    fits = largest_batch(decoder, prompts, new_tokens, engine, state_dtype)
    if batch > fits:
        raise InputError(f"budget.batch = {batch}: memory holds {fits} slots of {new_tokens} tokens; use {fits} or max")
