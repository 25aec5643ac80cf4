"""Which format a folder is in, decided by its files and by fields of config.json; and the one way to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from harness.models.checkpoints import hf_llama, hf_mamba2, llamba, mamba_in_llama, mamba_ssm, native
from harness.models.checkpoints.fields import Fields, shown
from harness.models.checkpoints.mapping import Plan, check, fill
from harness.models.checkpoints.source import TensorSource, open_source
from harness.models.config import DecoderConfig, named
from harness.models.decoder import Decoder
from harness.records import InputError


class Format(Protocol):
    """A module of this folder; ``DECIDED_BY`` tells a user what makes a folder one of its kind."""

    NAME: str
    DECIDED_BY: str

    def recognises(self, folder: Path, config: Fields) -> bool: ...

    def plan(self, folder: Path, config: Fields, source: TensorSource) -> Plan: ...


# The first that recognises a folder has it: MambaInLlama's config.json says model_type "llama" too.
FOREIGN: tuple[Format, ...] = (mamba_in_llama, llamba, hf_llama, hf_mamba2, mamba_ssm)
OURS, GGUF = "ours", "gguf"
OURS_DECIDED_BY = f"{native.CONFIG} with width and layers"
GGUF_DECIDED_BY = "the path of a .gguf file, or a folder with one and no config.json"


def recognise(folder: Path) -> tuple[Format, Fields] | None:
    """The foreign format of ``folder`` and its config.json; None: our own layout. InputError for anything else."""
    path = folder / native.CONFIG
    if not path.is_file():
        raise InputError(f"{folder}: holds no {native.CONFIG}; {_known()}")
    config = Fields.read(path)
    for candidate in FOREIGN:
        if candidate.recognises(folder, config):
            return candidate, config
    if "model_type" not in config.data and config.data.keys() & {"width", "layers"}:
        return None
    found = ", ".join(f"{name} {shown(config.data.get(name))}" for name in ("model_type", "architectures"))
    raise InputError(f"{path}: {found}: none of the formats that can be read; {_known()}")


def load(folder: Path, chosen: tuple[Format, Fields], dtype: torch.dtype, device: torch.device) -> Decoder:
    """The decoder of a foreign folder, in evaluation mode."""
    source = open_source(folder)
    return fill(_plan(folder, chosen, source), source, dtype, device)


def config_of(folder: Path, chosen: tuple[Format, Fields]) -> DecoderConfig:
    """The config of a foreign folder, its tensors checked by name and shape, none of them loaded."""
    source = open_source(folder)
    plan = _plan(folder, chosen, source)
    check(plan, source)
    return plan.config


def _plan(folder: Path, chosen: tuple[Format, Fields], source: TensorSource) -> Plan:
    with named(chosen[1].where, folder):
        return chosen[0].plan(folder, chosen[1], source)


def _known() -> str:
    kinds = {OURS: OURS_DECIDED_BY, **{f.NAME: f.DECIDED_BY for f in FOREIGN}, GGUF: GGUF_DECIDED_BY}
    return f"known formats are {'; '.join(f'{name}: {decides}' for name, decides in kinds.items())}"
