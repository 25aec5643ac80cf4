"""``harness models``: what a checkpoint is, how many of its slots fit, and from where on it should beat a teacher."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from harness.bench.roofline import Ceilings, Workload, crossover_tokens, largest_batch
from harness.models.checkpoints import formats
from harness.models.config import DecoderConfig
from harness.models.hub import fetch
from harness.models.resolve import convert, describe, known_models
from harness.models.shapes import SHAPES
from harness.models.weights import parameters

_STATE_BYTES = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """The device that batch and crossover are worked out for; an H100's measured ceilings unless told otherwise."""

    memory_gib: float = 80.0
    bytes_per_s: float = 3.02e12
    flop_per_s: float = 713e12


def list_models(console: Console) -> None:
    """Names that ``--model`` takes, and the formats of folders."""
    for name in known_models():
        console.print(name, highlight=False)
    decides = {formats.OURS: formats.OURS_DECIDED_BY, **{f.NAME: f.DECIDED_BY for f in formats.FOREIGN}}
    for name, text in {**decides, formats.GGUF: formats.GGUF_DECIDED_BY}.items():
        console.print(f"FOLDER, {name}: {text}", highlight=False, markup=False)


def inspect_model(name: str, teacher: str | None, work: Workload, device: Device, console: Console) -> None:
    """Format, layers, parameters, bytes per slot, largest batch, and the crossover with ``teacher`` if one is named."""
    form, config = describe(name)
    state, token = slot_state_bytes(config, work.dtype_bytes)
    batch = largest_batch(config, work, device.memory_gib * 2**30)
    rows = [
        ("format", form),
        ("layers", layers_text(config)),
        ("width, MLP, vocabulary", f"{config.width}, {config.mlp}, {config.vocab_size}"),
        ("parameters", f"{parameters(config):,}{_shape_text(config)}"),
        ("state a slot", f"{state:,} bytes"),
        ("keys and values", f"{token:,} bytes a token"),
        (
            f"largest batch in {device.memory_gib:g} GiB",
            f"{batch} slots of {work.new_tokens} tokens behind {work.prompt}",
        ),
    ]
    if teacher is not None:
        rows.append((f"predicted crossover with {teacher}", _crossover(config, describe(teacher)[1], work, device)))
    table = Table(show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)


def convert_model(name: str, target: Path, dtype: torch.dtype, console: Console) -> None:
    model = convert(name, target, dtype)
    console.print(f"{target}: {parameters(model.config):,} parameters in our layout", highlight=False)


def fetch_model(hub_id: str, revision: str | None, folder: Path, console: Console) -> None:
    console.print(f"asking the hub for {hub_id} (half a minute where no network answers)", highlight=False)
    files = fetch(hub_id, revision, folder)
    console.print(f"{folder}: {len(files)} files; next: harness models inspect {folder}", highlight=False)


def slot_state_bytes(config: DecoderConfig, dtype_bytes: int) -> tuple[int, int]:
    """Bytes of one slot's states (SSM in fp32, convolution inputs in the model's dtype), of a token's keys, values."""
    state = token = 0
    for kind in config.layers:
        if kind == "attention":
            assert config.attention is not None
            token += 2 * config.attention.kv_heads * config.attention.head_dim * dtype_bytes
        else:
            mixer = config.recurrent(kind)
            state += math.prod(mixer.ssm_shape) * _STATE_BYTES + math.prod(mixer.conv_shape) * dtype_bytes
    return state, token


def layers_text(config: DecoderConfig) -> str:
    """``28: 6 attention (3, 8, 13, 18, 23, 27), 22 mamba1``."""
    parts = []
    for kind in dict.fromkeys(config.layers):
        at = [i for i, k in enumerate(config.layers) if k == kind]
        mixed = kind == "attention" and len(at) < len(config.layers)
        parts.append(f"{len(at)} {kind}{f' ({_numbers(at)})' if mixed else ''}")
    return f"{len(config.layers)}: {', '.join(parts)}"


def _numbers(at: Sequence[int]) -> str:
    return ", ".join(map(str, at))


def _shape_text(config: DecoderConfig) -> str:
    """The published shape that these sizes are, if any."""
    for name, shape in SHAPES.items():
        if dataclasses.replace(config, context=shape.context, eos=shape.eos, bos=shape.bos) == shape:
            return f" (the shape {name})"
    return ""


def _crossover(config: DecoderConfig, teacher: DecoderConfig, work: Workload, device: Device) -> str:
    tokens = crossover_tokens(teacher, config, work, Ceilings(device.bytes_per_s, device.flop_per_s))
    where = f"batch {work.batch}, prompt {work.prompt}"
    return f"never below {1 << 20} new tokens ({where})" if tokens is None else f"{tokens} new tokens ({where})"
