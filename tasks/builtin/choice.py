"""Family ``choice``: a question of another family with five options, as in the AMC.

``answer`` is the value, never the letter: a letter could be guessed. Distractors change one number
or one sign of the value, so none of them equals it.
"""

from __future__ import annotations

import random
import re

from .item import Draft, Item, finish

_NUMBER = re.compile(r"(?<![\^\d])\d+")


def choice(draft: Draft, rng: random.Random, family: str) -> Item:
    options = [draft.answer]
    while len(options) < 5:
        other = distractor(rng, draft.answer)
        if other not in options:
            options.append(other)
    rng.shuffle(options)
    listed = [f"({letter}) ${option}$" for letter, option in zip("ABCDE", options, strict=True)]
    prompt = draft.prompt + "\n" + " ".join(listed)
    right = options.index(draft.answer)
    letter = "ABCDE"[right]
    looks = [f"({'ABCDE'[i]}) {options[i]} no" for i in range(right)] + [f"({letter}) {draft.answer} yes"]
    last = (f"We look for {draft.answer}.", *looks)
    asked = Draft(prompt, draft.work, draft.answer)
    return finish(asked, family, last=last, box=f"\\text{{({letter}) }} {draft.answer}")


def distractor(rng: random.Random, answer: str) -> str:
    r"""The answer with one number changed, or one leading sign: ``2\sqrt{3}`` to ``4\sqrt{3}``."""
    if rng.random() < 0.2 and answer[0] not in "([":
        return answer[1:] if answer[0] == "-" else "-" + answer
    spot = rng.choice(list(_NUMBER.finditer(answer)))
    old = int(spot.group())
    if old < 10:
        new = rng.choice([n for n in range(max(2, old - 3), old + 4) if n != old])
    else:
        step = 10 ** rng.randrange(min(3, len(spot.group())))
        new = old + rng.choice((-2, -1, 1, 2)) * step
    if new < 2 or new == old:
        new = old + 3
    return answer[: spot.start()] + str(new) + answer[spot.end() :]
