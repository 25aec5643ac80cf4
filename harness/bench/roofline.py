"""What a decode step costs at least: bytes and products of each part, and the slower of the two.

A part's seconds are max(bytes / copy bandwidth, FLOP / product ceiling); parts follow one another. Counted are weights,
keys and values (read, and one token appended), SSM states, convolution inputs; activations and logits are not, since an
ideal step keeps them on the chip. Contexts grow by one token a step and every count is linear in them, so the step in
the middle of a chain stands for all. Source of the deferred commit's bytes: ReplaySSM (vLLM #48018), as in
``kernels.mamba2_step``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from harness.engine.memory import SPARE_SHARE
from harness.models.config import AttentionConfig, DecoderConfig, MambaConfig
from harness.models.decoder import Decoder
from harness.models.state import prompt_bytes, slot_bytes
from harness.records import InputError

RING_LENGTHS = (8, 16)
_FLOATS = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}


@dataclasses.dataclass(frozen=True, slots=True)
class Ceilings:
    """What a device can do, measured: bytes/s of a large copy (read + write counted), FLOP/s of large products."""

    bytes_per_s: float
    flop_per_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """``batch`` rows, ``rows_per_prompt`` of them behind each prompt of ``prompt`` tokens; ``new_tokens`` each.

    ``dtype_bytes`` of weights, keys and values; ``state_bytes`` of an SSM state's entry; ``deferred``: the state is
    written every K steps instead of each step.
    """

    batch: int
    prompt: int
    new_tokens: int
    rows_per_prompt: int = 1
    dtype_bytes: int = 2
    state_bytes: int = 2
    deferred: bool = True

    def __post_init__(self) -> None:
        for field in ("batch", "new_tokens", "rows_per_prompt"):
            if getattr(self, field) < 1:
                raise InputError(f"{field} = {getattr(self, field)}: must be at least 1")
        for field in ("dtype_bytes", "state_bytes"):
            if getattr(self, field) not in _FLOATS:
                raise InputError(f"{field} = {getattr(self, field)}: must be one of {', '.join(map(str, _FLOATS))}")
        if self.prompt < 0:
            raise InputError(f"prompt = {self.prompt}: must be 0 tokens or more")


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Bytes moved and floating point operations of one part of a step, over all layers."""

    name: str
    bytes: float
    flop: float

    def seconds(self, ceilings: Ceilings) -> float:
        return max(self.bytes / ceilings.bytes_per_s, self.flop / ceilings.flop_per_s)


def step_parts(config: DecoderConfig, work: Workload) -> list[Part]:
    """The parts of the mean decode step of ``work``: products of the layers, head, keys and values, states."""
    attention = sum(kind == "attention" for kind in config.layers)
    mamba = len(config.layers) - attention
    weights = len(config.layers) * 3 * config.width * config.mlp
    parts = []
    if attention and config.attention is not None:
        weights += attention * _attention_weights(config.width, config.attention)
        parts.append(_keys_and_values(config.attention, attention, work))
    if mamba and config.mamba is not None:
        weights += mamba * _mamba_weights(config.width, config.mamba)
        parts += [_states(config.mamba, mamba, work), _convolutions(config.mamba, mamba, work)]
    head = config.vocab_size * config.width
    return [_product("layer products", weights, work), _product("head", head, work), *parts]


def step_seconds(config: DecoderConfig, work: Workload, ceilings: Ceilings) -> float:
    return sum(part.seconds(ceilings) for part in step_parts(config, work))


def tokens_per_s(config: DecoderConfig, work: Workload, ceilings: Ceilings) -> float:
    return work.batch / step_seconds(config, work, ceilings)


def ring_length(mamba: MambaConfig, work: Workload) -> int:
    """Steps between two commits: the K of 8 and 16 that moves fewer bytes."""
    return min(RING_LENGTHS, key=lambda k: _deferred_bytes(mamba, work, k))


def crossover_tokens(
    teacher: DecoderConfig, student: DecoderConfig, work: Workload, ceilings: Ceilings, longest: int = 1 << 20
) -> int | None:
    """New tokens from which on the student's mean step is the faster one; None: not below ``longest``."""

    def ahead(new_tokens: int) -> bool:
        at = dataclasses.replace(work, new_tokens=new_tokens)
        return step_seconds(student, at, ceilings) < step_seconds(teacher, at, ceilings)

    if not ahead(longest):
        return None
    low, high = 0, longest  # the gap is monotone in the length: only keys and values grow
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ahead(middle) else (middle, high)
    return high


def crossover_batch(
    teacher: DecoderConfig, student: DecoderConfig, work: Workload, ceilings: Ceilings, batches: Sequence[int]
) -> int | None:
    """The first of ``batches`` (ascending) from which on the student's step is the faster one at every larger one."""
    first = None
    for batch in batches:
        at = dataclasses.replace(work, batch=batch)
        if step_seconds(student, at, ceilings) < step_seconds(teacher, at, ceilings):
            first = batch if first is None else first
        else:
            first = None
    return first


def _product(name: str, weights: int, work: Workload) -> Part:
    return Part(name, weights * work.dtype_bytes, 2.0 * weights * work.batch)


def _attention_weights(width: int, a: AttentionConfig) -> int:
    return width * (2 * a.heads + 2 * a.kv_heads) * a.head_dim


def _mamba_weights(width: int, m: MambaConfig) -> int:
    return width * (m.conv_channels + m.inner + m.heads) + m.inner * width


def _keys_and_values(a: AttentionConfig, layers: int, work: Workload) -> Part:
    token = 2 * a.kv_heads * a.head_dim * work.dtype_bytes
    own = (work.new_tokens + 1) / 2
    read = own + work.prompt / work.rows_per_prompt
    flop = 4.0 * a.heads * a.head_dim * (own + work.prompt)
    return Part("keys and values", layers * work.batch * token * (read + 1), layers * work.batch * flop)


def _states(m: MambaConfig, layers: int, work: Workload) -> Part:
    moved = (
        _deferred_bytes(m, work, ring_length(m, work)) if work.deferred else 2 * m.inner * m.state * work.state_bytes
    )
    return Part("states", layers * work.batch * moved, layers * work.batch * 6.0 * m.inner * m.state)


def _deferred_bytes(m: MambaConfig, work: Workload, k: int) -> float:
    """Of one row and layer: the state read each step, written every ``k``, the mean ring read, an entry appended."""
    entry = work.dtype_bytes * (m.inner + m.groups * m.state) + 8 * m.heads
    return work.state_bytes * m.inner * m.state * (1 + 1 / k) + entry * (k - 1) / 2 + entry


def _convolutions(m: MambaConfig, layers: int, work: Workload) -> Part:
    moved = m.conv * m.conv_channels * work.dtype_bytes  # K - 1 inputs read, one written
    return Part("convolution inputs", layers * work.batch * moved, layers * work.batch * 2.0 * m.conv * m.conv_channels)


def largest_batch(config: DecoderConfig, work: Workload, memory_bytes: float) -> int:
    """Rows that fit beside the weights, a spare share kept back as the sampler does; ``work.batch`` is not read."""
    dtype, state_dtype = _FLOATS[work.dtype_bytes], _FLOATS[work.state_bytes]
    weights = work.dtype_bytes * sum(p.numel() for p in _parameters(config))
    row = slot_bytes(config, work.new_tokens, dtype, state_dtype) + (
        prompt_bytes(config, work.prompt, dtype, state_dtype) / work.rows_per_prompt
    )
    return max(0, int((memory_bytes * (1 - SPARE_SHARE) - weights) / row))


def _parameters(config: DecoderConfig) -> list[torch.nn.Parameter]:
    with torch.device("meta"):
        return list(Decoder(config).parameters())
