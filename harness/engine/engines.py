"""Which engine decodes: ``eager`` (plain PyTorch, the reference), ``native`` (fused kernels, a GPU) or ``vllm``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from harness.engine import sampler, vllm
from harness.engine.backend import EagerBackend
from harness.models.config import DecoderConfig
from harness.models.resolve import LoadedModel
from harness.records import Budget, InputError

if TYPE_CHECKING:  # imports Triton, which the plain engine does without
    from harness.engine.graph import GraphBackend

AnyBackend: TypeAlias = "EagerBackend | GraphBackend"
ENGINES = ("eager", "native", "vllm")
STATE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_engine(asked: str, device: torch.device, dtype: torch.dtype) -> str:
    """``auto`` is native on a GPU and eager elsewhere, and where weights are float64."""
    if asked != "auto":
        return asked
    return "native" if device.type == "cuda" and dtype != torch.float64 else "eager"


def check_engine(engine: str, device: torch.device, dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    """InputError where an engine cannot run on this device or in these dtypes; known before anything is loaded."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine!r}: must be auto, {', '.join(ENGINES)}")
    if engine == "eager":
        if state_dtype.itemsize < 4:
            raise InputError("--state-dtype: 16-bit states need the native engine, which rounds once a commit")
        return
    if engine == "vllm":
        if dtype == torch.float64:
            raise InputError("--engine vllm: has no float64; use float32, or --engine eager")
        vllm.check_installed()
        return
    if device.type != "cuda":
        raise InputError("--engine native: its kernels run on a GPU; use eager on a CPU")
    if dtype == torch.float64:
        raise InputError("--engine native: has no float64; use float32, or --engine eager")


def look_every(engine: str) -> int:
    """Decode steps between two looks of the host."""
    return vllm.LOOK_EVERY if engine == "vllm" else sampler.LOOK_EVERY


def check_model(engine: str, config: DecoderConfig) -> None:
    """InputError where the native engine has no kernel for a model's layers."""
    if engine == "eager":
        return
    for kind in sorted(set(config.layers) - {"attention"}):
        size = config.recurrent(kind).state
        if size & (size - 1):
            field = "mamba1" if kind == "mamba1" else "mamba"
            raise InputError(f"--engine native: {field}.state = {size} is no power of two; use eager")


def make_backend(
    engine: str,
    model: LoadedModel,
    budget: Budget,
    prompts: Sequence[Sequence[int]],
    ids: Sequence[str],
    slots: int,
    ignore_eos: bool = False,
    state_dtype: torch.dtype = torch.float32,
    fixed_rows: int | None = None,
) -> AnyBackend:
    """A backend of that engine; see ``EagerBackend`` and ``GraphBackend`` for the arguments."""
    if engine == "eager":
        return EagerBackend(model, budget, prompts, ids, slots, ignore_eos)
    from harness.engine.graph import GraphBackend

    return GraphBackend(model, budget, prompts, ids, slots, ignore_eos, state_dtype, fixed_rows)
