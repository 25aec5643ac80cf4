"""Text and tokens: prompts in, bytes out. Byte-level BPE alone, so that a chain's bytes add up token by token.

Prompts are the tokens that transformers makes of the same folder: of a plain text, with what the tokenizer puts in
front of one; of a chat, those of the rendered template alone, which writes its own special tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer, decoders

from harness.models.template import ChatTemplate, Message
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
    chain; ``bos`` is put before a plain prompt, but beside a chat template only where the tokenizer itself does so.
    ``special`` are texts that the template knows by name (``bos_token``); by default those of bos and the first eos.
    ``where`` and ``template_where`` name the files in errors.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos: Sequence[int],
        bos: int | None = None,
        chat_template: str | None = None,
        where: str = "tokenizer",
        special: Mapping[str, str] | None = None,
        template_where: str | None = None,
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
        self.template = None if chat_template is None else ChatTemplate(chat_template, template_where or where)
        self.special = self._special_by_id() if special is None else dict(special)
        self.token_bytes = _token_bytes(tokenizer, vocab_size, where)
        self._where = where

    def encode_prompt(self, text: str) -> list[int]:
        """Tokens of one prompt: through the chat template as one user turn, or as plain text without one."""
        return self.encode_plain(text) if self.template is None else self.encode_chat([turn("user", text)])

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of a bare text, bos in front."""
        bos = self.bos if self.template is None else bos_of(self.tokenizer, self._where)
        ids = self.encode_exactly(text)
        return ids if bos is None else [bos, *ids]

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a chat up to where the model's turn begins; an InputError where there is no chat template."""
        if self.template is None:
            raise InputError(f"{self._where}: no chat template beside it; copy its chat_template.jinja there")
        ids = self.encode_exactly(self.template.render(messages, add_generation_prompt=True, **self.special))
        if not ids:
            raise InputError(f"{self.template.where}: chat template: renders to nothing; mend the model's template")
        return ids

    def encode_exactly(self, text: str) -> list[int]:
        """Tokens of a text that writes its own special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _special_by_id(self) -> dict[str, str]:
        ids = {"bos_token": self.bos, "eos_token": self.eos[0]}
        texts = {name: self.tokenizer.id_to_token(i) for name, i in ids.items() if i is not None}
        return {name: text for name, text in texts.items() if text is not None}

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", errors="replace")


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def bos_of(tokenizer: Tokenizer, where: str) -> int | None:
    """The token that the tokenizer itself puts in front of a text, if any."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    if whole == bare:
        return None
    if len(whole) != len(bare) + 1 or whole[1:] != bare:
        raise InputError(f"{where}: turns {bare} into {whole}; only one token in front of a text, bos, can be used")
    return whole[0]


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
