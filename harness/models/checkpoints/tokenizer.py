"""A checkpoint folder's tokenizer.json, chat template and special tokens, as one codec."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from harness.models.checkpoints.fields import Fields
from harness.models.config import DecoderConfig
from harness.models.text import Codec
from harness.records import InputError

TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


def load_codec(path: Path, config: DecoderConfig) -> Codec:
    """The tokenizer of a model in our layout, checked against its vocabulary; a chat template may lie beside it."""
    return Codec(_read(path), config.vocab_size, config.eos, config.bos, chat_template(path.parent), where=str(path))


def load_hub_codec(folder: Path, config: DecoderConfig) -> Codec:
    """The same of a foreign folder, with its chat template if it has one.

    Without a template, bos goes before a prompt only where the tokenizer itself puts it there.
    """
    path = folder / TOKENIZER
    tokenizer, template = _read(path), chat_template(folder)
    if not config.eos:
        raise InputError(
            f"{folder}: no end of text; eos_token_id must be in config.json or generation_config.json,"
            f" or eos_token in {TOKENIZER_CONFIG}"
        )
    bos = config.bos if template is not None or tokenizer.encode("a").ids[:1] == [config.bos] else None
    return Codec(tokenizer, config.vocab_size, config.eos, bos, template, where=str(path))


def _read(path: Path) -> Tokenizer:
    if not path.is_file():
        raise InputError(f"{path}: missing; a model folder holds the {TOKENIZER} that it was trained with")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise InputError(f"{path}: not a tokenizer.json ({error}); copy it again") from error


def chat_template(folder: Path) -> str | None:
    """chat_template.jinja, or tokenizer_config.json's chat_template: one, or the default of several named ones."""
    if (folder / TEMPLATE).is_file():
        try:
            return (folder / TEMPLATE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{folder / TEMPLATE}: cannot be read ({error}); copy it again") from error
    path = folder / TOKENIZER_CONFIG
    if not path.is_file():
        return None
    found = Fields.read(path).data.get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise InputError(f"{path}: chat_template is {type(found).__name__}; expected text")
    return found
