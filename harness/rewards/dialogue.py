"""A dialogue as tokens, where the template's special tokens are special and the text of a turn never is.

The chat template is rendered with stand-ins for the turns' contents, so hostile text can neither steer the template
nor be taken for its markers. What lies between two special tokens is encoded as one text: for text without markers
the tokens are those of encoding the whole rendered dialogue at once, as transformers does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from harness.models.template import ChatTemplate
from harness.models.text import turn
from harness.records import InputError


class Mark(NamedTuple):
    """A turn that is one token, whose place is wanted."""

    text: str
    token: int


class DialogueEncoder:
    """``special``: texts that the template knows by name (``bos_token``). ``where`` names the model in errors."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, special: Mapping[str, str], where: str) -> None:
        self._template, self._names, self._where = template, special, where
        self._special = special_tokens(tokenizer)
        longest_first = sorted(self._special, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
        self._plain = plain_tokenizer(tokenizer, where)
        self._ids = functools.lru_cache(maxsize=4096)(self._encode)  # a template's own words come again and again
        self._frames: dict[tuple[str, ...], list[str]] = {}

    def single(self, text: str) -> Mark:
        """``text`` as a turn of one token."""
        ids = self._ids(text)
        if len(ids) != 1:
            raise InputError(
                f"{self._where}: {text!r} is {len(ids)} tokens; the answers of a reward model are one each"
            )
        return Mark(text, ids[0])

    def encode(self, turns: Sequence[tuple[str, str | Mark]]) -> tuple[list[int], list[int]]:
        """Tokens of the turns (role, content), and the positions of those that are a ``Mark``."""
        ids: list[int] = []
        at: list[int] = []
        pending = ""
        for i, text in enumerate(self._frame(tuple(role for role, _ in turns))):
            for n, part in enumerate(self._split.split(text) if self._split is not None else [text]):
                if n % 2:  # re.split: every other part is what was matched
                    ids += [*self._ids(pending), self._special[part]]
                    pending = ""
                else:
                    pending += part
            if i == len(turns):
                break
            content = turns[i][1]
            if isinstance(content, str):
                pending += content
                continue
            found = self._ids(pending + content.text)
            if found[-1:] != [content.token]:
                raise InputError(f"{self._where}: {content.text!r} is no token of its own behind {pending[-20:]!r}")
            at.append(len(ids) + len(found) - 1)
            ids += found
            pending = ""
        return ids + self._ids(pending), at

    def _frame(self, roles: tuple[str, ...]) -> list[str]:
        """The template's own text around the contents of turns with these roles: one part more than turns."""
        if roles not in self._frames:
            # Private-use characters: no template writes them.
            stand_ins = [f"\ue000{i}\ue001" for i in range(len(roles))]
            turns = [turn(role, content) for role, content in zip(roles, stand_ins, strict=True)]
            text = self._template.render(turns, add_generation_prompt=False, **self._names)
            parts = re.split("\ue000([0-9]+)\ue001", text)
            if parts[1::2] != [str(i) for i in range(len(roles))]:
                raise InputError(f"{self._where}: the chat template does not write each turn once and in order")
            self._frames[roles] = parts[::2]
        return self._frames[roles]

    def _encode(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids if text else []


def special_tokens(tokenizer: Tokenizer) -> Mapping[str, int]:
    """Text and id of the special tokens."""
    return {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def plain_tokenizer(tokenizer: Tokenizer, where: str) -> Tokenizer:
    """A copy that finds no special token in text, and neither cuts nor pads."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    plain.no_truncation()
    plain.no_padding()
    for text, token in special_tokens(tokenizer).items():
        # A model whose vocabulary holds the text itself would find it all the same.
        if plain.encode(text, add_special_tokens=False).ids == [token]:
            raise InputError(
                f"{where}: {text!r} in plain text becomes the special token; such a tokenizer is not safe here"
            )
    return plain
