"""``--model``: one door for embedded models, real checkpoints, random shapes and folders.

A name is an embedded model, ``smollm2-135m``, ``random:SHAPE``, or the path of a folder in one of the formats of
``checkpoints/`` or of a GGUF file. A wrong name is answered with the nearest one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.models.checkpoints import formats, native
from harness.models.checkpoints.source import weight_files
from harness.models.checkpoints.tokenizer import (
    TEMPLATE,
    chat_template,
    load_codec,
    load_hub_codec,
    save_special_tokens,
)
from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.models.shapes import SHAPES
from harness.models.template import template_sha256
from harness.models.text import Codec
from harness.models.weights import check_weights
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
    """The model of that name, in evaluation mode; ``seed`` draws the weights of a random shape.

    InputError with the numbers, before any of them is made or read, where the device has no room for the weights.
    """
    config_that_fits(name, dtype, device)
    if name.startswith("random:"):
        return _random(name, dtype, device, seed)
    if (file := _gguf(name)) is not None:
        from harness.models.checkpoints import gguf

        decoder, codec, digest = gguf.load(file, dtype, device)
        return LoadedModel(_label(file, name), decoder, codec, digest)
    folder = _folder(name)
    chosen = formats.recognise(folder)
    if chosen is None:
        decoder = native.load(folder, dtype, device)
        codec = load_codec(folder / native.TOKENIZER, decoder.config)
    else:
        decoder = formats.load(folder, chosen, dtype, device)
        codec = load_hub_codec(folder, decoder.config)
    return LoadedModel(_label(folder, name), decoder, codec, _sha256(_weights(folder)))


def config_that_fits(name: str, dtype: torch.dtype, device: torch.device) -> DecoderConfig:
    """The config of what ``load_model`` would load; InputError where the device has no room for its weights."""
    config = _config(name)
    check_weights(name, config, dtype, device)
    return config


def _config(name: str) -> DecoderConfig:
    """What ``describe`` gives, without a look at the tensors of our own layout or of a GGUF file."""
    if name.startswith("random:"):
        return _shape(name)
    if (file := _gguf(name)) is not None:
        from harness.models.checkpoints import gguf

        return gguf.config_of(file)
    folder = _folder(name)
    chosen = formats.recognise(folder)
    return DecoderConfig.load(folder / native.CONFIG) if chosen is None else formats.config_of(folder, chosen)


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a manifest says of a model, known without its weights in memory; ``chat_template`` is its sha256."""

    name: str
    sha256: str
    random: bool
    chat_template: str | None = None


def fingerprint(name: str, seed: int = 0) -> Fingerprint:
    """Name and checkpoint sha256 of what ``load_model`` would load; the same errors for a wrong name."""
    if name.startswith("random:"):
        _shape(name)
        return Fingerprint(name, _random_sha256(name, seed), True)
    if (file := _gguf(name)) is not None:
        return Fingerprint(_label(file, name), native.sha256(file), False, _template_sha256(name))
    folder = _folder(name)
    return Fingerprint(_label(folder, name), _sha256(_weights(folder)), False, _template_sha256(name))


def describe(name: str) -> tuple[str, DecoderConfig]:
    """Format and config of what ``load_model`` would load, its tensors checked."""
    if name.startswith("random:"):
        return "shape", _shape(name)
    if (file := _gguf(name)) is not None:
        from harness.models.checkpoints import gguf

        return formats.GGUF, gguf.load(file, torch.bfloat16, torch.device("cpu"))[0].config
    folder = _folder(name)
    chosen = formats.recognise(folder)
    if chosen is not None:
        return chosen[0].NAME, formats.config_of(folder, chosen)
    return formats.OURS, native.load(folder, torch.bfloat16, torch.device("cpu")).config


def convert(name: str, target: Path, dtype: torch.dtype) -> LoadedModel:
    """Write the model of that name into folder ``target`` in our layout: config, weights, tokenizer, chat template."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists and is not an empty folder; name a new one")
    if name.startswith("random:"):
        raise InputError(f"{name}: random weights; convert a checkpoint")
    model = load_model(name, dtype, torch.device("cpu"))
    # What the codec found: a tokenizer may say that no bos goes before a prompt.
    model.decoder.config = dataclasses.replace(model.config, bos=model.codec.bos)
    native.save(model.decoder, target, dtype)
    model.codec.tokenizer.save(str(target / native.TOKENIZER))
    if (template := _chat_template(name)) is not None:
        (target / TEMPLATE).write_text(template, encoding="utf-8")
        save_special_tokens(model.codec, target)
    return model


def _chat_template(name: str) -> str | None:
    if (file := _gguf(name)) is not None:
        from harness.models.checkpoints import gguf

        return gguf.chat_template(file)
    return chat_template(_folder(name))


def _template_sha256(name: str) -> str | None:
    return None if (template := _chat_template(name)) is None else template_sha256(template)


def known_models() -> list[str]:
    embedded = [n for n in TRIO if (EMBEDDED / n / native.CONFIG).is_file()]
    return [*embedded, SMOLLM2, *(f"random:{shape}" for shape in SHAPES), "FOLDER"]


def _gguf(name: str) -> Path | None:
    """The GGUF file that ``name`` stands for: SmolLM2's, a path, or the only one in a folder without config.json."""
    if name == SMOLLM2:
        from harness.models.checkpoints import gguf

        return gguf.find_smollm2()
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not path.is_dir() or (path / native.CONFIG).is_file():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise InputError(f"--model {name}: holds {len(found)} .gguf files; give the path of one, e.g. {found[0]}")
    return found[0] if found else None


def _weights(folder: Path) -> list[Path]:
    return [native.weights_path(folder)] if formats.recognise(folder) is None else weight_files(folder)


def _sha256(files: Sequence[Path]) -> str:
    """Of the files' bytes one behind the other, by name."""
    if len(files) == 1:
        return native.sha256(files[0])
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if (EMBEDDED / name / native.CONFIG).is_file():
        return EMBEDDED / name
    if Path(name).is_file():
        raise InputError(
            f"--model {name!r}: a file; give the folder that holds the model, here {str(Path(name).parent)!r},"
            " or a .gguf file"
        )
    raise InputError(f"--model {name!r}: no such model; {nearest(name, known_models())}")


def _shape(name: str) -> DecoderConfig:
    shape = name.removeprefix("random:")
    if shape not in SHAPES:
        raise InputError(f"--model {name!r}: no such shape; {nearest(shape, SHAPES)}")
    return SHAPES[shape]


def _random_sha256(name: str, seed: int) -> str:
    return hashlib.sha256(f"{name}:{seed}".encode()).hexdigest()


def _label(path: Path, name: str) -> str:
    return name if path.parent == EMBEDDED or name == SMOLLM2 else path.resolve().name


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
