"""Which batch fits: planned from bytes a slot and a prompt, before the clock starts."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from harness.models.decoder import Decoder
from harness.models.state import prompt_bytes, slot_bytes
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

    def bytes_of(slots: int) -> int:
        return needed_bytes(decoder, prompts, new_tokens, slots, engine, state_dtype)

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
    decoder: Decoder, prompts: Sequence[int], new_tokens: int, slots: int, engine: str, state_dtype: torch.dtype
) -> int:
    """Bytes that an engine plans for prompts of these token counts and ``slots`` chains behind them."""
    need = _native_need if engine == "native" else _eager_need
    return need(decoder, prompts, new_tokens, slots, state_dtype)


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


def _eager_need(decoder: Decoder, prompts: Sequence[int], new_tokens: int, slots: int, state_dtype: torch.dtype) -> int:
    dtype = decoder.embedding.weight.dtype
    state_dtype = torch.float64 if dtype == torch.float64 else state_dtype
    # By length: the largest batch is looked for among thousands of prompts of one.
    counts = Counter(prompts).items()
    fixed = sum(count * prompt_bytes(decoder.config, n, dtype, state_dtype) for n, count in counts)
    return fixed + slots * slot_bytes(decoder.config, new_tokens, dtype, state_dtype)


def _native_need(
    decoder: Decoder, prompts: Sequence[int], new_tokens: int, slots: int, state_dtype: torch.dtype
) -> int:
    from harness.engine.device_state import planned_bytes

    return planned_bytes(decoder.config, prompts, new_tokens, slots, decoder.embedding.weight.dtype, state_dtype)


def available_bytes(device: torch.device) -> int:
    """Free memory of the device: the GPU's, or the machine's available RAM."""
    gc.collect()  # an engine's steps refer to it: only the collector ends an earlier one, and its pools with it
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what it left in the allocator's cache is free too
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
