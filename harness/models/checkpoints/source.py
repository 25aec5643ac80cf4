"""Named tensors on disk, read one at a time: one safetensors file, an index of shards, or pickles without code.

Names and shapes are known before any tensor is read, so that a checkpoint can be checked as a whole first.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from harness.models.checkpoints.fields import printable, shown
from harness.records import InputError

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
DECIDING = (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)
_ADVICE = "Weights only load failed"
# How torch's restricted unpickler names what a file wants to call and may not.
_GLOBAL = re.compile(r"GLOBAL (?=[\w.]{1,80} )(\w+(?:\.\w+)*) (?:was not an allowed|whose module)", re.ASCII)


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
                    raise InputError(
                        f"{path}: holds no {printable(name)}, which the index puts there; copy the shards again"
                    )
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
        raise not_whole(path, error) from error


def not_whole(path: Path, error: Exception) -> InputError:
    """What to say of a safetensors file that its library does not take."""
    return InputError(f"{path}: {what_it_is(path, f'not a whole safetensors file ({error}); copy it again')}")


def what_it_is(path: Path, otherwise: str) -> str:
    """What the first bytes say of a file that is not what it should be, and the cure; else ``otherwise``."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        return f"cannot be read ({error.strerror}); copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file; run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return f"a web page, not the file (starts with {head[:16]!r}); download it again"
    return otherwise


def _names(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return list(file.keys())
    return list(_read_pickle(path))


def _indexed(index: Path) -> dict[str, Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): index.parent / str(file) for name, file in weight_map.items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: no index of shards ({error!r}); it names a file for each tensor") from error
    for path in sorted(set(files.values())):
        if path.parent != index.parent:
            raise InputError(
                f"{index}: names {printable(str(path))}, outside its folder; shards lie beside their index"
            )
        if not path.is_file():
            raise InputError(f"{printable(str(path))}: missing, though {index.name} names it; copy all shards")
    return files


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """A state dict through torch's restricted unpickler: whatever is not plain tensors is refused, never run."""
    try:
        # What it warns of it then refuses, or reads.
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # Any kind at all: the bytes may be hostile or cut anywhere, and torch's readers check few of them first.
        if (called := _GLOBAL.search(str(error))) is not None:
            raise InputError(
                f"{path}: asks for {called[1]}, which is no tensor: refused, its code was not run; use safetensors"
            ) from error
        said = str(error).partition("\n")[0]
        # Without torch's advice, which is to read it unprotected.
        reason = type(error).__name__ if _ADVICE in said or not said else f"{type(error).__name__}: {shown(said)}"
        otherwise = f"not a plain file of tensors, or cut short ({reason}); copy it again or use safetensors"
        raise InputError(f"{path}: {what_it_is(path, otherwise)}") from error
    if not isinstance(tensors, dict) or not all(_plain(name, t) for name, t in tensors.items()):
        raise InputError(f"{path}: holds more than named tensors; use safetensors")
    return tensors


def _plain(name: object, tensor: object) -> bool:
    return isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided
