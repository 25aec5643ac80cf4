"""The plan of a decode step: what the native engine launches, and the bytes each launch moves, before any of it runs.

The engine's own step runs on tensors without memory (``plan_launches``), so a plan is what would be captured into the
graph, at any size and without a GPU.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from harness.bench.cell import Cell, budget_of
from harness.bench.plan_bytes import Standing, bytes_moved
from harness.bench.plan_launches import Kind, recorded
from harness.engine.engines import check_model
from harness.engine.graph import GraphBackend
from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.models.resolve import LoadedModel
from harness.models.text import Codec


@dataclasses.dataclass(frozen=True, slots=True)
class Launched:
    """All launches of one name in a step: how many, and the bytes that they read and write."""

    kind: Kind
    name: str
    launches: int
    read: int
    written: int


def plan_step(
    config: DecoderConfig, codec: Codec, cell: Cell, dtype: torch.dtype, state_dtype: torch.dtype
) -> list[Launched]:
    """The step in the middle of a cell's chains, as ``harness throughput`` runs it; InputError as the engine's."""
    check_model("native", config)
    meta = torch.device("meta")
    with meta:
        decoder = Decoder(config)
    decoder = decoder.to(dtype).requires_grad_(False).eval()
    model = LoadedModel("plan", decoder, codec, "", random=True)
    prompts = -(-cell.batch // cell.rows_per_prompt)
    ids = [str(i) for i in range(prompts)]
    backend = GraphBackend(
        model, budget_of(cell, 0), [range(cell.prompt)] * prompts, ids, cell.batch, True, state_dtype
    )
    rows = np.arange(cell.batch)
    standing = Standing(
        rows // cell.rows_per_prompt, np.full_like(rows, cell.prompt), rows, np.full_like(rows, cell.new_tokens // 2)
    )
    return planned(backend, cell.batch, standing)


@torch.inference_mode()
def planned(backend: GraphBackend, rows: int, standing: Standing) -> list[Launched]:
    """What a step of ``rows`` rows launches, by name in the order of first launch; a backend on "meta" stays as is."""
    found: dict[tuple[Kind, str], list[int]] = {}
    with recorded() as calls:
        backend.step(rows)
    for call in calls:
        read, written = bytes_moved(call, standing)
        total = found.setdefault((call.kind, call.name), [0, 0, 0])
        for i, more in enumerate((1, read, written)):
            total[i] += more
    return [Launched(kind, name, *total) for (kind, name), total in found.items()]
