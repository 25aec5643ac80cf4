r"""The tokenizer of the built-in task: byte-level BPE with exactly 512 tokens.

Ids 0, 1 and 2 are ``<|pad|>``, ``<|bos|>`` and ``<|eos|>``; every digit is a token of its own; the
LaTeX commands of the generator are whole, ordinary tokens. Any text comes back byte for byte. The
trained file beside this module is made by ``python -m harness.tasks.builtin.tokenizer``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE = 512
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")
COMMANDS = ("\\frac", "\\sqrt", "\\boxed", "\\text", "\\cdot", "\\le", "\\binom")
PATH = Path(__file__).with_name("tokenizer.json")
_TRAINING_ITEMS = 20_000


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(COMMANDS),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Commands are cut out first: merges for them would be wasted, as they become tokens of their own below.
    commands = re.compile("|".join(re.escape(c) for c in sorted(COMMANDS, key=len, reverse=True)))
    tokenizer.train_from_iterator((piece for text in texts for piece in commands.split(text) if piece), trainer)
    tokenizer.add_tokens([AddedToken(c, normalized=False) for c in COMMANDS])
    if tokenizer.get_vocab_size() != SIZE:
        raise ValueError(f"{tokenizer.get_vocab_size()} tokens instead of {SIZE}: too little text to learn the merges")
    return tokenizer


def load_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(PATH))


def main() -> None:
    from .splits import train_item

    items = (train_item(i) for i in range(_TRAINING_ITEMS))
    train_tokenizer(f"{item.prompt}\n{item.solution}" for item in items).save(str(PATH))
    print(f"wrote {PATH}")


if __name__ == "__main__":
    main()
