"""The four objectives; each maps a padded batch to a loss averaged over the positions it counts.

``pretrain``: cross-entropy on the solution's tokens. ``mixers``: each Mamba mixer alone against the
attention it replaces, on the teacher's inputs. ``hidden``: block outputs end to end (both as squared
error relative to the teacher's power; MOHAWK, arXiv 2408.10189). ``kd``: forward KL to the teacher's
distribution at temperature 1 over the whole vocabulary, on the solution's positions. No student
stage sees gold tokens as targets: what it learns is the teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from harness.distill.recipe import Objective
from harness.distill.rows import Row
from harness.models.decoder import Decoder

# Batches are padded to a multiple of this: few distinct shapes keep the GPU's allocator quiet.
WIDTH_TOKENS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right, int64 ``tokens`` [rows, time].

    ``real`` and ``target`` are flat indices into [rows * time]: the positions that hold a token, and
    those whose next token belongs to the solution; ``wanted`` are these next tokens. Made on the
    host, so that selecting positions never waits for the device.
    """

    tokens: torch.Tensor
    real: torch.Tensor
    target: torch.Tensor
    wanted: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Batch:
        longest = max(len(r.tokens) for r in rows)
        time = -(-longest // WIDTH_TOKENS) * WIDTH_TOKENS
        tokens = np.zeros((len(rows), time), dtype=np.int64)
        for place, row in zip(tokens, rows, strict=True):
            place[: len(row.tokens)] = row.tokens
        length = np.array([len(r.tokens) for r in rows])[:, None]
        prompt = np.array([r.prompt for r in rows])[:, None]
        following = np.arange(time) + 1
        real = np.flatnonzero(following <= length)
        target = np.flatnonzero((following >= prompt) & (following < length))
        arrays = (tokens, real, target, tokens.ravel()[target + 1])
        pin = device.type == "cuda"
        tensors = (torch.from_numpy(a).pin_memory() if pin else torch.from_numpy(a) for a in arrays)
        return cls(*(t.to(device, non_blocking=True) for t in tensors))


def weight_of(rows: Sequence[Row], objective: Objective) -> int:
    """Number of positions that the objective averages over."""
    if objective in ("pretrain", "kd"):
        return sum(len(r.tokens) - r.prompt for r in rows)
    return sum(len(r.tokens) for r in rows)


def loss(objective: Objective, model: Decoder, teacher: Decoder | None, batch: Batch) -> torch.Tensor:
    if objective == "pretrain":
        return F.cross_entropy(_at(model(batch.tokens), batch.target).float(), batch.wanted)
    assert teacher is not None
    if objective == "mixers":
        return _mixers(model, teacher, batch)
    if objective == "hidden":
        return _hidden(model, teacher, batch)
    with torch.no_grad():
        wanted = _at(teacher(batch.tokens), batch.target).float().log_softmax(-1)
    got = _at(model(batch.tokens), batch.target).float().log_softmax(-1)
    return (wanted.exp() * (wanted - got)).sum(-1).mean()


def trainable(objective: Objective, model: Decoder) -> list[tuple[str, torch.nn.Parameter]]:
    """The parameters an objective moves: the new mixers alone, or everything."""
    if objective != "mixers":
        return list(model.named_parameters())
    new = {f"blocks.{i}.mixer." for i, kind in enumerate(model.config.layers) if kind != "attention"}
    return [(n, p) for n, p in model.named_parameters() if any(n.startswith(prefix) for prefix in new)]


def _at(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows of x [rows, time, n] at flat positions: [positions, n]."""
    return x.flatten(0, 1).index_select(0, positions)


def _relative_error(got: torch.Tensor, wanted: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    got, wanted = _at(got, real).float(), _at(wanted, real).float()
    return (got - wanted).square().sum() / wanted.square().sum()


def _mixers(model: Decoder, teacher: Decoder, batch: Batch) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        teacher(batch.tokens, seen)
    cos, sin = (t[: batch.tokens.shape[1], None] for t in teacher.rope_tables(seen[0]))
    errors = []
    for kind, x, source, target in zip(model.config.layers, seen[:-1], teacher.blocks, model.blocks, strict=True):
        if kind == "attention":
            continue
        with torch.no_grad():
            normed = source.mixer_norm(x)
            wanted = source.mixer(normed, (cos, sin))
        errors.append(_relative_error(target.mixer(normed), wanted, batch.real))
    return torch.stack(errors).mean()


def _hidden(model: Decoder, teacher: Decoder, batch: Batch) -> torch.Tensor:
    wanted: list[torch.Tensor] = []
    with torch.no_grad():
        teacher(batch.tokens, wanted)
    got: list[torch.Tensor] = []
    model(batch.tokens, got)
    return torch.stack([_relative_error(g, w, batch.real) for g, w in zip(got[1:], wanted[1:], strict=True)]).mean()
