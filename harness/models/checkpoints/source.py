"""Named tensors on disk, read one at a time: one safetensors file, an index of shards, or pickles without code.

Names and shapes are known before any tensor is read, so that a checkpoint can be checked as a whole first.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from harness.records import InputError

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
DECIDING = (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)


class TensorSource:
    """``shapes`` of all tensors; ``get`` reads one, on the CPU and in its own dtype."""

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        self.folder, self._file_of = folder, dict(files)
        self._pickles: dict[Path, dict[str, torch.Tensor]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            found = self._found(path)
            for name in (n for n, p in files.items() if p == path):
                if name not in found:
                    raise InputError(f"{path}: holds no {name}, which the index puts there; copy the shards again")
                self.shapes[name] = found[name]

    @property
    def files(self) -> list[Path]:
        return sorted(set(self._file_of.values()))

    def get(self, name: str) -> torch.Tensor:
        path = self._file_of[name]
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt") as file:
                    return file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path}: {name} cannot be read ({error}); copy the file again") from error
        return self._pickle(path)[name]

    def _found(self, path: Path) -> dict[str, tuple[int, ...]]:
        if path.suffix == ".safetensors":
            with _opened(path) as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return {name: tuple(t.shape) for name, t in self._pickle(path).items()}

    def _pickle(self, path: Path) -> dict[str, torch.Tensor]:
        if path not in self._pickles:
            self._pickles[path] = _read_pickle(path)
        return self._pickles[path]


def open_source(folder: Path) -> TensorSource:
    """The weights in ``folder``: safetensors before pickles, one file before an index."""
    path = _deciding(folder)
    return TensorSource(folder, _indexed(path) if path.suffix == ".json" else dict.fromkeys(_names(path), path))


def weight_files(folder: Path) -> list[Path]:
    """The files that ``open_source`` reads tensors from."""
    path = _deciding(folder)
    return sorted(set(_indexed(path).values())) if path.suffix == ".json" else [path]


def _deciding(folder: Path) -> Path:
    for name in DECIDING:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: holds no weights; one of {', '.join(DECIDING)} must be there")


def _opened(path: Path):  # type: ignore[no-untyped-def]  # safetensors names no type for it
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); copy it again") from error


def _names(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return list(file.keys())
    return list(_read_pickle(path))


def _indexed(index: Path) -> dict[str, Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): index.parent / str(file) for name, file in weight_map.items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: no index of shards ({error!r}); it names a file for each tensor") from error
    for path in sorted(set(files.values())):
        if path.parent != index.parent:
            raise InputError(f"{index}: names {path}, outside its folder; shards lie beside their index")
        if not path.is_file():
            raise InputError(f"{path}: missing, though {index.name} names it; copy all shards")
    return files


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """A state dict through torch's restricted unpickler: whatever is not plain tensors is refused, never run."""
    try:
        # What it warns of it then refuses, or reads.
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a plain file of tensors ({reason}); use safetensors") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise InputError(f"{path}: holds more than named tensors; use safetensors")
    return tensors
