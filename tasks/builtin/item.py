"""One generated problem, and the draft it is finished from.

A family hands over a ``Draft``: the question, the main working and the answer. ``finish`` adds
checking steps up to a length drawn by level, restates nothing, and closes with the one box.
"""

from __future__ import annotations

import dataclasses

from .checks import checks, estimate
from .work import Work

# Tokens a solution of each level aims at; drawn evenly within a fifth either side.
LENGTH = {1: 350, 2: 430, 3: 500, 4: 570, 5: 640}
CLOSINGS = ("The answer is ", "So the answer is ", "So we get ")


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """``solution`` ends with the closing brace of its only box; ``answer`` is the value in the box."""

    prompt: str
    solution: str
    answer: str
    family: str
    level: int


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    prompt: str
    work: Work
    answer: str


def finish(draft: Draft, family: str, *, last: tuple[str, ...] = (), box: str | None = None) -> Item:
    """``last`` are lines between the checks and the box; ``box`` is its content where it is not the answer alone."""
    work = draft.work
    lines = list(work.lines)
    target = LENGTH[work.level] * work.rng.uniform(0.8, 1.2)
    extra = checks(work, target - estimate("\n".join(lines + list(last))) - 25)
    if extra:
        lines += [work.rng.choice(("Check the steps.", "Now check.", "We check the work.")), *extra]
    lines += last
    lines.append(work.rng.choice(CLOSINGS) + f"\\boxed{{{box or draft.answer}}}")
    return Item(draft.prompt, "\n".join(lines), draft.answer, family, work.level)
