"""A checkpoint folder's tokenizer.json, chat template and special tokens, as one codec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from harness.models.checkpoints.fields import Fields
from harness.models.checkpoints.source import what_it_is
from harness.models.config import DecoderConfig
from harness.models.text import Codec, bos_of
from harness.records import InputError

TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
_MOST_PADDING = 0.1  # of a model's rows; phi-1's 905 of 51,200 are the most that is known
_SPECIAL_TOKENS_MAP = "special_tokens_map.json"
_SPECIAL = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


def load_codec(path: Path, config: DecoderConfig) -> Codec:
    """The tokenizer of a model in our layout, checked against its vocabulary; a chat template may lie beside it."""
    template = chat_template(path.parent)
    special = None if template is None else _special_tokens(path.parent)
    at = _template_path(path.parent)
    return Codec(_read(path), config.vocab_size, config.eos, config.bos, template, str(path), special, str(at))


def load_hub_codec(folder: Path, config: DecoderConfig) -> Codec:
    """The same of a foreign folder, with its chat template if it has one.

    Without a template, bos goes before a prompt only where the tokenizer itself puts it there. A tokenizer that lacks
    the model's eos, or more of its vocabulary than padding adds, is another model's.
    """
    path = folder / TOKENIZER
    tokenizer, template = _read(path), chat_template(folder)
    if not config.eos:
        raise InputError(
            f"{folder}: no end of text; eos_token_id must be in config.json or generation_config.json,"
            f" or eos_token in {TOKENIZER_CONFIG}"
        )
    special = _special_tokens(folder)
    _check_own(tokenizer, config, special or {}, str(path))
    bos = config.bos if template is not None else bos_of(tokenizer, str(path))
    at = _template_path(folder)
    return Codec(tokenizer, config.vocab_size, config.eos, bos, template, str(path), special, str(at))


def save_special_tokens(codec: Codec, folder: Path) -> None:
    """Beside a model in our layout: the special tokens that its chat template knows by name."""
    text = json.dumps(codec.special, indent=1, ensure_ascii=False)
    (folder / TOKENIZER_CONFIG).write_text(text + "\n", encoding="utf-8")


def _check_own(tokenizer: Tokenizer, config: DecoderConfig, special: Mapping[str, str], where: str) -> None:
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size < (1 - _MOST_PADDING) * config.vocab_size:
        raise InputError(
            f"{where}: {size} tokens, the model's vocabulary has {config.vocab_size}; take the model's own"
        )
    if unknown := [i for i in config.eos if tokenizer.id_to_token(i) is None]:
        raise InputError(f"{where}: has no token {unknown[0]}, which is the model's eos; take the model's own")
    for name in ("bos_token", "eos_token"):
        if name in special and tokenizer.token_to_id(special[name]) is None:
            raise InputError(f"{where}: has no token {special[name]!r}, which is {name}; take the model's own")


def _special_tokens(folder: Path) -> dict[str, str] | None:
    """Texts of the special tokens by name, as transformers reads them; None where no file says any.

    special_tokens_map.json goes before tokenizer_config.json, unless that one lists its added tokens: it is newer then.
    """
    fields: dict[str, Any] = {}
    path, older = folder / TOKENIZER_CONFIG, folder / _SPECIAL_TOKENS_MAP
    if path.is_file():
        fields |= Fields.read(path).data
    if older.is_file() and "added_tokens_decoder" not in fields:
        fields |= Fields.read(older).data
    if not any(name in fields for name in _SPECIAL):
        return None
    special = {}
    for name in _SPECIAL:
        value = fields.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if text is not None and not isinstance(text, str):
            raise InputError(f"{path}: {name} = {value!r}; expected a token's text")
        if text is not None:
            special[name] = text
    return special


def _read(path: Path) -> Tokenizer:
    if not path.is_file():
        raise InputError(f"{path}: missing; a model folder holds the {TOKENIZER} that it was trained with")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise InputError(f"{path}: {what_it_is(path, f'not a tokenizer.json ({error}); copy it again')}") from error


def _template_path(folder: Path) -> Path:
    """Where a folder's chat template lies, if it has one."""
    return folder / TEMPLATE if (folder / TEMPLATE).is_file() else folder / TOKENIZER_CONFIG


def chat_template(folder: Path) -> str | None:
    """chat_template.jinja, or tokenizer_config.json's chat_template: one, or the default of several named ones."""
    path = _template_path(folder)
    if path.name == TEMPLATE:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); copy it again") from error
    if not path.is_file():
        return None
    found = Fields.read(path).data.get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        if "default" not in named:
            raise InputError(f"{path}: chat_template has no 'default' among {sorted(map(str, named))}; name one so")
        found = named["default"]
    if found is not None and not isinstance(found, str):
        raise InputError(f"{path}: chat_template is {type(found).__name__}; expected text")
    return found
