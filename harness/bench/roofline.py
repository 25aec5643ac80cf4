"""What a decode step costs at least: bytes and products of each part, and the slower of the two.

A part's seconds are max(bytes / copy bandwidth, FLOP / product ceiling); parts follow one another. Counted are weights,
keys and values (read, and one token appended), SSM states, convolution inputs; activations and logits are not, since an
ideal step keeps them on the chip. Contexts grow by one token a step and every count is linear in them, so the step in
the middle of a chain stands for all. Source of the deferred commit's bytes: ReplaySSM (vLLM #48018), as in
``kernels.mamba2_step``.

Copy bandwidth does not bound a stream that is only read (an H100's keys and values came at 3.08 TB/s, where its copies
count as 3.0), so that a share of this roofline may pass 100 %.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import torch

from harness.engine.memory import room
from harness.kernels.mamba2_ring import ring_length as shortest_ring
from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig
from harness.models.state import prompt_bytes, slot_bytes
from harness.models.weights import parameters
from harness.records import InputError

_FLOATS = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}


@dataclasses.dataclass(frozen=True, slots=True)
class Ceilings:
    """What a device can do, measured: bytes/s of a large copy (read + write counted), FLOP/s of large products.

    ``product_flop_per_s``: of a model's own products at the batch in question, where they were measured.
    """

    bytes_per_s: float
    flop_per_s: float
    product_flop_per_s: float | None = None


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
    product: bool = False

    def seconds(self, ceilings: Ceilings) -> float:
        own = ceilings.product_flop_per_s if self.product else None
        return max(self.bytes / ceilings.bytes_per_s, self.flop / (own or ceilings.flop_per_s))


def step_parts(config: DecoderConfig, work: Workload) -> list[Part]:
    """The parts of the mean decode step of ``work``: products of the layers, head, keys and values, states."""
    kinds = Counter("mamba2" if kind == "discrete_mamba2" else kind for kind in config.layers)
    parts = []
    if kinds["attention"] and config.attention is not None:
        parts.append(_keys_and_values(config.attention, kinds["attention"], work))
    if kinds["mamba2"] and config.mamba is not None:
        m = config.mamba
        deferred = _deferred_bytes(m, work, ring_length(m, work))
        parts.append(_states(m, deferred if work.deferred else _both_ways(m, work), kinds["mamba2"], work))
        parts.append(_convolutions(m.conv, m.conv_channels, m.conv_channels, kinds["mamba2"], work))
    if kinds["mamba1"] and config.mamba1 is not None:
        # Never deferred: with 16 numbers a channel, a ring of inputs would weigh as much as the state.
        parts.append(_states(config.mamba1, _both_ways(config.mamba1, work), kinds["mamba1"], work))
        parts.append(_convolutions(config.mamba1.conv, config.mamba1.raw, config.mamba1.inner, kinds["mamba1"], work))
    weights = sum(depth * width * count for (depth, width), count in layer_products(config).items())
    head = config.vocab_size * config.width
    return [_product("layer products", weights, work), _product("head", head, work), *parts]


def layer_products(config: DecoderConfig) -> Counter[tuple[int, int]]:
    """Shapes [depth, width] of the weights that a step of all layers multiplies with, and how often each stands."""
    shapes: Counter[tuple[int, int]] = Counter()
    for kind in config.layers:
        if kind == "attention":
            assert config.attention is not None
            shapes.update(_attention_products(config.width, config.attention))
        elif kind == "mamba1":
            assert config.mamba1 is not None
            shapes.update(_mamba1_products(config.width, config.mamba1))
        else:
            assert config.mamba is not None
            m = config.mamba
            shapes.update([(config.width, m.conv_channels + m.inner + m.heads), (m.inner, config.width)])
        if config.mlp:
            shapes.update([(config.width, 2 * config.mlp), (config.mlp, config.width)])
    return shapes


def step_products(config: DecoderConfig) -> Counter[tuple[int, int]]:
    """``layer_products`` and the head's."""
    return layer_products(config) + Counter([(config.width, config.vocab_size)])


def products_flop(config: DecoderConfig, rows: int) -> float:
    """Floating point operations of all matrix products of a step of ``rows`` rows."""
    return sum(2.0 * rows * depth * width * count for (depth, width), count in step_products(config).items())


def step_seconds(config: DecoderConfig, work: Workload, ceilings: Ceilings) -> float:
    return sum(part.seconds(ceilings) for part in step_parts(config, work))


def tokens_per_s(config: DecoderConfig, work: Workload, ceilings: Ceilings) -> float:
    return work.batch / step_seconds(config, work, ceilings)


def ring_length(mamba: MambaConfig, work: Workload) -> int:
    """Steps between two commits, as the engine chooses them."""
    shape, dtypes = (mamba.heads, mamba.head_dim, mamba.state), (_FLOATS[work.state_bytes], _FLOATS[work.dtype_bytes])
    return shortest_ring(shape, sum(mamba.conv_parts[:2]), *dtypes)


def crossover_tokens(
    teacher: DecoderConfig,
    student: DecoderConfig,
    work: Workload,
    ceilings: Ceilings,
    students: Ceilings | None = None,
    longest: int = 1 << 20,
) -> int | None:
    """New tokens from which on the student's mean step is the faster one; None: not below ``longest``.

    ``students``: its own ceilings, where ``ceilings`` has the teacher's products.
    """

    def ahead(new_tokens: int) -> bool:
        at = dataclasses.replace(work, new_tokens=new_tokens)
        return step_seconds(student, at, students or ceilings) < step_seconds(teacher, at, ceilings)

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
    return Part(name, weights * work.dtype_bytes, 2.0 * weights * work.batch, product=True)


def _attention_products(width: int, a: AttentionConfig) -> list[tuple[int, int]]:
    return [(width, (a.heads + 2 * a.kv_heads) * a.head_dim), (a.heads * a.head_dim, width)]


def _mamba1_products(width: int, m: Mamba1Config) -> list[tuple[int, int]]:
    behind = [(m.dt_rank, m.inner), (m.inner, width)]
    if m.xb is None:
        return [(width, 2 * m.inner), (m.inner, 2 * m.state + m.dt_rank), *behind]
    return [(width, 2 * m.xb + 2 * m.inner + m.dt_rank), *behind]


def _keys_and_values(a: AttentionConfig, layers: int, work: Workload) -> Part:
    token = 2 * a.kv_heads * a.head_dim * work.dtype_bytes
    own = (work.new_tokens + 1) / 2
    read = own + work.prompt / work.rows_per_prompt
    flop = 4.0 * a.heads * a.head_dim * (own + work.prompt)
    return Part("keys and values", layers * work.batch * token * (read + 1), layers * work.batch * flop)


def _states(m: MambaConfig | Mamba1Config, moved: float, layers: int, work: Workload) -> Part:
    return Part("states", layers * work.batch * moved, layers * work.batch * 6.0 * m.inner * m.state)


def _both_ways(m: MambaConfig | Mamba1Config, work: Workload) -> float:
    """Of one row and layer: the state read and written."""
    return 2 * m.inner * m.state * work.state_bytes


def _deferred_bytes(m: MambaConfig, work: Workload, k: int) -> float:
    """Of one row and layer: the state read each step, written every ``k``, the mean ring read, an entry appended."""
    entry = work.dtype_bytes * sum(m.conv_parts[:2]) + 8 * m.heads
    return work.state_bytes * m.inner * m.state * (1 + 1 / k) + entry * (k - 1) / 2 + entry


def _convolutions(taps: int, kept: int, channels: int, layers: int, work: Workload) -> Part:
    """``kept`` raw inputs a token, for ``channels`` behind the convolution."""
    moved = taps * kept * work.dtype_bytes  # all but one read, one written
    return Part("convolution inputs", layers * work.batch * moved, layers * work.batch * 2.0 * taps * channels)


def largest_batch(config: DecoderConfig, work: Workload, memory_bytes: float) -> int:
    """Rows that fit beside the weights, what the native engine keeps back left free; ``work.batch`` is not read."""
    dtype, state_dtype = _FLOATS[work.dtype_bytes], _FLOATS[work.state_bytes]
    weights = work.dtype_bytes * parameters(config)
    row = slot_bytes(config, work.new_tokens, dtype, state_dtype) + (
        prompt_bytes(config, work.prompt, dtype, state_dtype) / work.rows_per_prompt
    )
    return max(0, int(room(memory_bytes - weights, "native") / row))
