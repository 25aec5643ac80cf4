"""``--model``: one door for embedded models, real checkpoints, random shapes and folders.

A name is an embedded model, ``smollm2-135m``, ``random:SHAPE`` or the path of a folder in our layout.
A wrong name is answered with the nearest one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import torch
from tokenizers import Tokenizer

from harness.models.checkpoints import native
from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.models.shapes import SHAPES
from harness.models.text import Codec
from harness.records import InputError, nearest
from harness.tasks.builtin.tokenizer import PATH as TOKENIZER

EMBEDDED = Path(__file__).parent / "embedded"
TRIO = ("tiny-teacher", "tiny-hybrid", "tiny-mamba")
SMOLLM2 = "smollm2-135m"


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to sample; ``random`` weights may never carry an accuracy."""

    name: str
    decoder: Decoder
    codec: Codec
    sha256: str
    random: bool = False

    @property
    def config(self) -> DecoderConfig:
        return self.decoder.config


def load_model(name: str, dtype: torch.dtype, device: torch.device, seed: int = 0) -> LoadedModel:
    """The model of that name, in evaluation mode; ``seed`` draws the weights of a random shape."""
    if name.startswith("random:"):
        return _random(name, dtype, device, seed)
    if name == SMOLLM2:
        from harness.models.checkpoints import gguf

        decoder, codec, digest = gguf.load(gguf.find_smollm2(), dtype, device)
        return LoadedModel(name, decoder, codec, digest)
    folder = _folder(name)
    decoder = native.load(folder, dtype, device)
    codec = load_codec(folder / native.TOKENIZER, decoder.config)
    return LoadedModel(_label(folder, name), decoder, codec, native.sha256(folder / native.WEIGHTS))


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a manifest says of a model, known without its weights in memory."""

    name: str
    sha256: str
    random: bool


def fingerprint(name: str, seed: int = 0) -> Fingerprint:
    """Name and checkpoint sha256 of what ``load_model`` would load; the same errors for a wrong name."""
    if name.startswith("random:"):
        _shape(name)
        return Fingerprint(name, _random_sha256(name, seed), True)
    if name == SMOLLM2:
        from harness.models.checkpoints import gguf

        return Fingerprint(name, native.sha256(gguf.find_smollm2()), False)
    folder = _folder(name)
    return Fingerprint(_label(folder, name), native.sha256(native.weights_path(folder)), False)


def known_models() -> list[str]:
    embedded = [n for n in TRIO if (EMBEDDED / n / native.CONFIG).is_file()]
    return [*embedded, SMOLLM2, *(f"random:{shape}" for shape in SHAPES), "FOLDER"]


def load_codec(path: Path, config: DecoderConfig) -> Codec:
    """The tokenizer of a model in our layout, checked against its vocabulary."""
    if not path.is_file():
        raise InputError(f"{path}: missing; a model folder holds its {native.TOKENIZER}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise InputError(f"{path}: not a tokenizer.json ({error}); copy it again") from error
    return Codec(tokenizer, config.vocab_size, config.eos, config.bos, where=str(path))


def _folder(name: str) -> Path:
    folder = Path(name) if Path(name).is_dir() else EMBEDDED / name
    if (folder / native.CONFIG).is_file():
        return folder
    if Path(name).is_dir():
        parts = f"{native.CONFIG}, {native.WEIGHTS} and {native.TOKENIZER}"
        raise InputError(f"--model {name}: holds no {native.CONFIG}; a model folder has {parts}")
    raise InputError(f"--model {name!r}: no such model; {nearest(name, known_models())}")


def _shape(name: str) -> DecoderConfig:
    shape = name.removeprefix("random:")
    if shape not in SHAPES:
        raise InputError(f"--model {name!r}: no such shape; {nearest(shape, SHAPES)}")
    return SHAPES[shape]


def _random_sha256(name: str, seed: int) -> str:
    return hashlib.sha256(f"{name}:{seed}".encode()).hexdigest()


def _label(folder: Path, name: str) -> str:
    return name if folder.parent == EMBEDDED else folder.resolve().name


def _random(name: str, dtype: torch.dtype, device: torch.device, seed: int) -> LoadedModel:
    config = _shape(name)
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder = decoder.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for parameter in decoder.parameters():
        if parameter.ndim < 2:
            parameter.data.fill_(1.0)
        else:
            parameter.data.normal_(0, 0.02, generator=generator)
    decoder.requires_grad_(False).eval()
    codec = load_codec(TOKENIZER, config)
    return LoadedModel(name, decoder, codec, _random_sha256(name, seed), random=True)
