"""Text and tokens: prompts in, bytes out. Byte-level BPE alone, so that a chain's bytes add up token by token.

The chat template, where a model has one, runs in jinja2's sandbox.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer, decoders

from harness.records import InputError


@functools.cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(b): b for b in printable}
    shifted = 0
    for b in range(256):
        if b not in printable:
            table[chr(256 + shifted)] = b
            shifted += 1
    return table


class Codec:
    """A tokenizer with what generation needs beside it.

    ``token_bytes[id]`` is the text of a token as bytes (empty for special tokens). ``eos`` ends a
    chain; ``bos`` is put before a plain prompt (a chat template writes its own).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos: Sequence[int],
        bos: int | None = None,
        chat_template: str | None = None,
        where: str = "tokenizer",
    ) -> None:
        if not isinstance(tokenizer.decoder, decoders.ByteLevel) and "ByteLevel" not in repr(tokenizer.decoder):
            raise InputError(f"{where}: decoder {tokenizer.decoder!r}; only byte-level BPE tokenizers can be used")
        # Ids may have gaps: what counts is the largest.
        size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if size > vocab_size:
            raise InputError(f"{where}: {size} tokens, the model's vocabulary has {vocab_size}; take the model's own")
        outside = [t for t in (*eos, *(() if bos is None else (bos,))) if not 0 <= t < vocab_size]
        if outside:
            raise InputError(f"{where}: eos or bos {outside} outside the vocabulary of {vocab_size}; mend config.json")
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.eos, self.bos = tuple(eos), bos
        self.template = None if chat_template is None else _compile(chat_template, where)
        self.token_bytes = _token_bytes(tokenizer, vocab_size, where)

    def encode_prompt(self, text: str) -> list[int]:
        """Tokens of one prompt: through the chat template as one user turn, or bos and the bare text."""
        if self.template is None:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            return ids if self.bos is None else [self.bos, *ids]
        ids_by_name = {"bos_token": self.bos, "eos_token": self.eos[0]}
        special = {name: self.tokenizer.id_to_token(i) for name, i in ids_by_name.items() if i is not None}
        try:
            chat = self.template.render(
                messages=[{"role": "user", "content": text}], add_generation_prompt=True, **special
            )
        except jinja2.TemplateError as error:
            raise InputError(f"chat template: {error}; mend the model's template") from error
        return self.tokenizer.encode(chat, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", errors="replace")


def _compile(template: str, where: str) -> jinja2.Template:
    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise InputError(f"{where}: chat template: {error}; mend the model's template") from error


def _token_bytes(tokenizer: Tokenizer, vocab_size: int, where: str) -> list[bytes]:
    added = tokenizer.get_added_tokens_decoder()
    byte = byte_of_character()
    table = [b""] * vocab_size
    for text, index in tokenizer.get_vocab(with_added_tokens=True).items():
        if index in added:
            table[index] = b"" if added[index].special else text.encode()
        elif set(text) <= byte.keys():
            table[index] = bytes(byte[c] for c in text)
        else:
            raise InputError(f"{where}: token {index} {text!r} is no byte-level token; list it under added_tokens")
    return table
