"""A foreign config.json, read field by field: what is missing or not understood is an error that names it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

from harness.models.config import RopeScaling
from harness.records import InputError, nearest

T = TypeVar("T")
_REQUIRED: Any = object()
# More than any published model has; past them a config is damaged, and to build it would take all memory.
MOST_LAYERS, LARGEST = 1000, 1 << 24
_SHOWN = 80


def shown(value: Any) -> str:
    """A value of a foreign file for an error: printable, in one line, its first ``_SHOWN`` characters."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def printable(name: str) -> str:
    """A name of a foreign file for an error: as it is unless it could drive a terminal or break the line."""
    return name if name.isprintable() else shown(name)


class Fields:
    """The fields of one JSON object; ``where`` names it in errors (``config.json``, ``config.json: ssm_cfg``)."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise InputError(f"{where}: expected named fields, found {type(data).__name__}")
        self.data, self.where = data, where

    @classmethod
    def read(cls, path: Path) -> Fields:
        try:
            return cls(json.loads(path.read_text(encoding="utf-8")), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); copy it again") from error
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not JSON ({error.msg}, line {error.lineno}); copy it again") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
            raise InputError(f"{path}: cannot be read ({error}); copy it again") from error

    def get(self, name: str, kind: type[T], default: T = _REQUIRED) -> T:
        """The field's value, which must be of ``kind``."""
        value = self.data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise InputError(f"{self.where}: {name} is missing; this format has it")
            return default
        if type(value) is not kind:
            raise InputError(f"{self.where}: {name} = {shown(value)}; expected {kind.__name__}")
        return value

    def size(self, name: str, default: int = _REQUIRED, least: int = 1, most: int = LARGEST) -> int:
        """A whole number from ``least`` to ``most``: how many there are of something, or how wide it is."""
        value = self.get(name, int, default)
        if not least <= value <= most:
            raise InputError(f"{self.where}: {name} = {shown(value)}; expected a whole number from {least} to {most}")
        return value

    def layers(self, name: str, default: int = _REQUIRED) -> int:
        return self.size(name, default, most=MOST_LAYERS)

    def positive(self, name: str, default: float = _REQUIRED) -> float:
        """A finite number above 0, which may be written as a whole one."""
        value = self.data.get(name)
        number = float(value) if type(value) is int and abs(value) < 1 << 64 else self.get(name, float, default)
        if not (math.isfinite(number) and number > 0):
            raise InputError(f"{self.where}: {name} = {shown(value)}; expected a number above 0")
        return number

    def inside(self, name: str) -> Fields:
        return Fields(self.data.get(name), f"{self.where}: {name}")

    def only(self, name: str, *allowed: Any) -> None:
        """InputError unless the field is absent or one of ``allowed``: anything else is not built here."""
        value = self.data.get(name)
        if value is not None and value not in allowed:
            raise InputError(
                f"{self.where}: {name} = {shown(value)}; only {' or '.join(map(repr, allowed))} can be run"
            )

    def known(self, *names: str) -> None:
        """InputError for any field but ``names``: one that this format has not may change the maths."""
        for name in self.data:
            if name not in names:
                raise InputError(
                    f"{self.where}: {printable(name)} = {shown(self.data[name])} is not known; {nearest(name, names)}"
                )

    def tokens(self, name: str) -> tuple[int, ...]:
        """Token ids: one, several, or none."""
        value = self.data.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(type(i) is int and 0 <= i < LARGEST for i in ids):
            raise InputError(f"{self.where}: {name} = {shown(value)}; expected a token id or a list of them")
        return tuple(ids)

    def layer_numbers(self, name: str, depth: int, default: list[int] = _REQUIRED) -> list[int]:
        """Numbers of layers, counted from 0."""
        value = self.get(name, list, default)
        if not all(type(i) is int and 0 <= i < depth for i in value):
            raise InputError(f"{self.where}: {name} = {shown(value)}; expected layers from 0 to {depth - 1}")
        return value

    def padded_vocabulary(self) -> int:
        """``vocab_size`` as mamba_ssm and what descends from it pad the embedding's rows."""
        multiple = self.size("pad_vocab_size_multiple", 8)
        return -(-self.size("vocab_size") // multiple) * multiple

    def dt_rank(self, width: int) -> int:
        """Of a Mamba-1 mixer; ``auto``, the default, is a sixteenth of the width."""
        return -(-width // 16) if self.data.get("dt_rank", "auto") == "auto" else self.size("dt_rank")

    def rope(self) -> tuple[float, RopeScaling]:
        """theta and scaling, from ``rope_theta`` and ``rope_scaling`` or, in newer files, ``rope_parameters``."""
        newer = self.data.get("rope_parameters")
        own = Fields(newer, f"{self.where}: rope_parameters") if newer is not None else self
        theta = own.positive("rope_theta", 10000.0)
        scaling = own if newer is not None else self.inside("rope_scaling") if self.data.get("rope_scaling") else None
        if scaling is None:
            return theta, RopeScaling()
        scaling.only("partial_rotary_factor", 1, 1.0)
        kind = scaling.data.get("rope_type", scaling.data.get("type", "default"))
        if kind == "default":
            return theta, RopeScaling()
        if kind != "llama3":
            raise InputError(f"{scaling.where}: rope_type = {shown(kind)}; only 'default' or 'llama3' can be run")
        low, high = scaling.positive("low_freq_factor"), scaling.positive("high_freq_factor")
        if low >= high:
            raise InputError(f"{scaling.where}: low_freq_factor = {low}; must be less than high_freq_factor = {high}")
        return theta, RopeScaling(
            factor=scaling.positive("factor"),
            low_freq_factor=low,
            high_freq_factor=high,
            original_context=scaling.size("original_max_position_embeddings"),
        )


def special_tokens(folder: Path, config: Fields) -> tuple[tuple[int, ...], int | None]:
    """eos and bos: of config.json; where it has none, generation_config.json's; then tokenizer_config.json's eos."""
    eos, bos = config.tokens("eos_token_id"), config.tokens("bos_token_id")
    generation = folder / "generation_config.json"
    if generation.is_file() and not (eos and bos):
        fields = Fields.read(generation)
        eos, bos = eos or fields.tokens("eos_token_id"), bos or fields.tokens("bos_token_id")
    return eos or _eos_by_name(folder), bos[0] if bos else None


def _eos_by_name(folder: Path) -> tuple[int, ...]:
    paths = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not all(path.is_file() for path in paths):
        return ()
    named, tokenizer = (Fields.read(path) for path in paths)
    token = named.data.get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    added = tokenizer.get("added_tokens", list, [])
    return tuple(
        t["id"] for t in added if isinstance(t, dict) and t.get("content") == text and type(t.get("id")) is int
    )
