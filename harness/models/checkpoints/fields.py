"""A foreign config.json, read field by field: what is missing or not understood is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from harness.models.config import RopeScaling
from harness.records import InputError, nearest

T = TypeVar("T")
_REQUIRED: Any = object()


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

    def get(self, name: str, kind: type[T], default: T = _REQUIRED) -> T:
        """The field's value, which must be of ``kind`` (a whole number will do for a float)."""
        value = self.data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise InputError(f"{self.where}: {name} is missing; this format has it")
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise InputError(f"{self.where}: {name} = {value!r}; expected {kind.__name__}")
        return value  # type: ignore[return-value]

    def inside(self, name: str) -> Fields:
        return Fields(self.data.get(name), f"{self.where}: {name}")

    def only(self, name: str, *allowed: Any) -> None:
        """InputError unless the field is absent or one of ``allowed``: anything else is not built here."""
        value = self.data.get(name)
        if value is not None and value not in allowed:
            raise InputError(f"{self.where}: {name} = {value!r}; only {' or '.join(map(repr, allowed))} can be run")

    def known(self, *names: str) -> None:
        """InputError for any field but ``names``: one that this format has not may change the maths."""
        for name in self.data:
            if name not in names:
                raise InputError(f"{self.where}: {name} = {self.data[name]!r} is not known; {nearest(name, names)}")

    def tokens(self, name: str) -> tuple[int, ...]:
        """Token ids: one, several, or none."""
        value = self.data.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(type(i) is int for i in ids):
            raise InputError(f"{self.where}: {name} = {value!r}; expected a token id or a list of them")
        return tuple(ids)

    def rope(self) -> tuple[float, RopeScaling]:
        """theta and scaling, from ``rope_theta`` and ``rope_scaling`` or, in newer files, ``rope_parameters``."""
        newer = self.data.get("rope_parameters")
        own = Fields(newer, f"{self.where}: rope_parameters") if newer is not None else self
        theta = own.get("rope_theta", float, 10000.0)
        scaling = own if newer is not None else self.inside("rope_scaling") if self.data.get("rope_scaling") else None
        if scaling is None:
            return theta, RopeScaling()
        scaling.only("partial_rotary_factor", 1, 1.0)
        kind = scaling.data.get("rope_type", scaling.data.get("type", "default"))
        if kind == "default":
            return theta, RopeScaling()
        if kind != "llama3":
            raise InputError(f"{scaling.where}: rope_type = {kind!r}; only 'default' or 'llama3' can be run")
        return theta, RopeScaling(
            factor=scaling.get("factor", float),
            low_freq_factor=scaling.get("low_freq_factor", float),
            high_freq_factor=scaling.get("high_freq_factor", float),
            original_context=scaling.get("original_max_position_embeddings", int),
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
