"""Our layout: a folder with config.json, model.safetensors, tokenizer.json and a card (README.md).

Tensors are checked by name and shape before any is used: everything missing, unexpected or
misshapen is listed in one message, and nothing is loaded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.models.checkpoints.mapping import kept_wide
from harness.models.checkpoints.source import not_whole
from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.records import InputError

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> Decoder:
    """The decoder in ``folder``, in evaluation mode."""
    config = DecoderConfig.load(folder / CONFIG)
    path = weights_path(folder)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise not_whole(path, error) from error
    return assemble(config, tensors, str(path), dtype, device)


def weights_path(folder: Path) -> Path:
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{path}: missing; a model folder holds {CONFIG}, {WEIGHTS} and {TOKENIZER}")
    return path


def assemble(
    config: DecoderConfig, tensors: dict[str, torch.Tensor], where: str, dtype: torch.dtype, device: torch.device
) -> Decoder:
    """A decoder from named tensors, all of them checked first; ``where`` names their source in errors."""
    with torch.device("meta"):
        model = Decoder(config)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    faults = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in expected]
    faults += [
        f"{name} is {list(t.shape)}, config.json says {list(expected[name])}"
        for name, t in tensors.items()
        if name in expected and tuple(t.shape) != expected[name]
    ]
    if faults:
        raise InputError(f"{where}: {'; '.join(faults)}; give the weights that belong to this config")
    kinds = _kinds(model, dtype)
    model.load_state_dict({n: t.to(device=device, dtype=kinds[n]) for n, t in tensors.items()}, assign=True)
    return model.requires_grad_(False).eval()


def save(model: Decoder, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write config.json and model.safetensors (weights in ``dtype``); the tokenizer is the caller's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(model.config.to_json(), encoding="utf-8")
    kinds = _kinds(model, dtype)
    tensors = {n: p.detach().to(device="cpu", dtype=kinds[n]).contiguous() for n, p in model.named_parameters()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _kinds(model: Decoder, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of each parameter: ``dtype``, but fp32 at least for those that rounding would change."""
    wide = kept_wide(model)
    return {n: torch.promote_types(dtype, torch.float32) if n in wide else dtype for n, _ in model.named_parameters()}


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
