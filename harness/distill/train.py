"""Runs a recipe: AdamW over its stages, with a loss log, checkpoints and an exact resume.

Weights are fp32; products run in bf16 autocast on a GPU, except in the first ``EXACT_STEPS`` steps,
whose losses any CPU can repeat. A checkpoint holds weights, optimiser, step and random state; a
resumed run reads the same rows as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from harness.distill.objectives import Batch, loss, trainable, weight_of
from harness.distill.recipe import EXACT_STEPS, Recipe, Stage
from harness.distill.rows import Row, steps
from harness.distill.transfer import transfer
from harness.models.decoder import Decoder
from harness.records import InputError

MICRO_TOKENS = {"cuda": 65536, "cpu": 8192}
CHECKPOINT_EVERY_S = 60.0
LOG_EVERY = 10  # steps between two looks at the losses: each look waits for the device
LOSS_FIELDS = ("step", "objective", "loss", "lr", "grad_norm", "rows", "tokens", "seconds")


def train(
    recipe: Recipe,
    identity: str,
    teacher: Decoder | None,
    out: Path,
    device: torch.device,
    workers: int,
    stop_after: int | None = None,
    on_step: Callable[[int, dict[str, object]], None] | None = None,
) -> Decoder:
    """Train to the end (or to ``stop_after`` steps) and return the model; goes on where ``out`` left off.

    ``identity`` names what a checkpoint in ``out`` must have come from: the recipe, and the teacher.
    ``out`` receives losses.csv and checkpoint.pt. ``on_step`` is told each step's row of the log.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = initial(recipe, teacher).to(device)
    checkpoint = out / "checkpoint.pt"
    start, seconds = 0, 0.0
    optimiser: torch.optim.AdamW | None = None
    pending: dict[str, object] | None = None
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["identity"] != identity or saved["steps"] != recipe.steps:
            raise InputError(f"{out}: holds a run of another recipe; choose another --out or remove it")
        model.load_state_dict(saved["model"])
        start, seconds, pending = saved["step"], saved["seconds"], saved["optimiser"]
    log = _open_log(out / "losses.csv", start)
    last_save = began = time.monotonic()
    end = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    stream = steps(recipe, start, workers)
    try:
        for step in range(start, end):
            stage, inside = recipe.stage_at(step)
            if inside == 0 or optimiser is None:
                optimiser = _optimiser(recipe, stage, model, device)
                if pending is not None and inside > 0:
                    optimiser.load_state_dict(pending)
                pending = None
            rows = next(stream)
            value, norm, lr = _step(recipe, stage, inside, step, model, teacher, optimiser, rows, device)
            tokens = sum(len(r.tokens) for r in rows)
            log.add(step, stage.objective, value, lr, norm, len(rows), tokens, seconds + time.monotonic() - began)
            last = step + 1 == end
            if last or (step + 1) % LOG_EVERY == 0:
                record = log.flush()
                if on_step is not None:
                    on_step(step, record)
            if last or time.monotonic() - last_save > CHECKPOINT_EVERY_S:
                log.flush()
                _save(checkpoint, model, optimiser, step + 1, recipe, identity, seconds + time.monotonic() - began)
                last_save = time.monotonic()
    finally:
        stream.close()
        log.close()
    return model.eval()


def initial(recipe: Recipe, teacher: Decoder | None) -> Decoder:
    """The model a recipe starts from: the teacher's weights transferred, or a seeded random draw on the CPU."""
    model = Decoder(recipe.model)
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or name.endswith("conv_weight"):
                continue
            std = 0.02 if name == "embedding.weight" else parameter.shape[1] ** -0.5
            if name.endswith((".out.weight", ".down.weight")):
                std /= (2 * len(recipe.model.layers)) ** 0.5
            parameter.normal_(0, std, generator=generator)
    if teacher is not None:
        on_cpu = Decoder(teacher.config)
        on_cpu.load_state_dict({n: t.cpu() for n, t in teacher.state_dict().items()})
        transfer(on_cpu, model)
    return model


def learning_rate(stage: Stage, inside: int) -> float:
    """Linear warm-up, flat, then linear to 0 over the last ``decay`` share of the stage."""
    rising = (inside + 1) / max(1, stage.warmup)
    falling = (stage.steps - inside) / max(1.0, stage.decay * stage.steps)
    return stage.lr * min(1.0, rising, falling)


def _optimiser(recipe: Recipe, stage: Stage, model: Decoder, device: torch.device) -> torch.optim.AdamW:
    moving = trainable(stage.objective, model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for _, parameter in moving:
        parameter.requires_grad_(True)
    decayed = [p for n, p in moving if p.ndim >= 2 and not n.endswith("conv_weight")]
    kept = [p for n, p in moving if p.ndim < 2 or n.endswith("conv_weight")]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    betas = (recipe.betas[0], recipe.betas[1])
    return torch.optim.AdamW(groups, lr=stage.lr, betas=betas, fused=device.type == "cuda")


def _step(
    recipe: Recipe,
    stage: Stage,
    inside: int,
    step: int,
    model: Decoder,
    teacher: Decoder | None,
    optimiser: torch.optim.AdamW,
    rows: list[Row],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """One optimiser step over micro-batches of rows of like length; loss, gradient norm (on the device) and rate."""
    lr = learning_rate(stage, inside)
    for group in optimiser.param_groups:
        group["lr"] = lr
    exact = step < EXACT_STEPS or device.type == "cpu"
    autocast = contextlib.nullcontext() if exact else torch.autocast(device.type, torch.bfloat16)
    total = weight_of(rows, stage.objective)
    value = torch.zeros((), device=device)
    for micro in micro_batches(rows, MICRO_TOKENS[device.type]):
        share = weight_of(micro, stage.objective) / total
        with autocast:
            part = loss(stage.objective, model, teacher, Batch.of(micro, device)) * share
        part.backward()
        value += part.detach()
    norm = torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], recipe.clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return value, norm, lr


def micro_batches(rows: list[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows sorted by length, cut so that each padded batch holds at most ``tokens`` (one row at least)."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda r: len(r.tokens)):
        if batch and (len(batch) + 1) * len(row.tokens) > tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _save(
    path: Path,
    model: Decoder,
    optimiser: torch.optim.AdamW,
    step: int,
    recipe: Recipe,
    identity: str,
    seconds: float,
) -> None:
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "steps": recipe.steps,
        "identity": identity,
        "seconds": seconds,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


class _Log:
    """losses.csv, cut back to the step that training goes on from. Numbers stay on the device until a flush."""

    def __init__(self, path: Path, kept: list[dict[str, str]]) -> None:
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, LOSS_FIELDS)
        self.writer.writeheader()
        self.writer.writerows(kept)
        self.waiting: list[tuple[Any, ...]] = []
        self.last: dict[str, object] = {}

    def add(self, *values: Any) -> None:
        """A row in the order of ``LOSS_FIELDS``."""
        self.waiting.append(values)

    def flush(self) -> dict[str, object]:
        """Write what waits; the last row written."""
        for step, objective, loss_, lr, norm, rows, tokens, seconds in self.waiting:
            values = (step, objective, f"{float(loss_):.6g}", f"{lr:.6g}", f"{float(norm):.4g}", rows, tokens)
            self.last = dict(zip(LOSS_FIELDS, (*values, f"{seconds:.2f}"), strict=True))
            self.writer.writerow(self.last)
        self.waiting.clear()
        self.file.flush()
        return self.last

    def close(self) -> None:
        self.flush()
        self.file.close()


def _open_log(path: Path, start: int) -> _Log:
    kept = [r for r in read_losses(path) if int(r["step"]) < start] if path.is_file() else []
    return _Log(path, kept)


def read_losses(path: Path) -> list[dict[str, str]]:
    """Rows of a losses.csv, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
