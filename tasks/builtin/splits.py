"""The training stream and the frozen test set, which share no problem by construction.

``train_item(index)`` draws again whenever its normalised prompt is one of the test prompts. The test
set is 250 items balanced over families and levels, without equal prompts; it is written once, to
``tasks/builtin_test.jsonl``, by ``python -m harness.tasks.builtin.splits``.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from .item import Item
from .registry import FAMILIES, generate

TRAIN_SEED = 1
TEST_SEED = 2
TEST_SIZE = 250
TEST_PATH = Path(__file__).parent.parent / "builtin_test.jsonl"
# One more try of a rejected training item looks far away from every index in use.
_RETRY_STRIDE = 10**9


def train_item(index: int, *, seed: int = TRAIN_SEED) -> Item:
    for attempt in range(100):
        item = generate(seed, index + attempt * _RETRY_STRIDE)
        if normalised(item.prompt) not in held_out():
            return item
    raise RuntimeError(f"training item {index}: a hundred draws all fell into the test set")


def normalised(prompt: str) -> str:
    """Without spaces, dollars and case, which carry no part of a problem."""
    return "".join(prompt.replace("$", "").split()).lower()


@functools.cache
def held_out() -> frozenset[str]:
    if TEST_PATH.exists():
        rows = [json.loads(line) for line in TEST_PATH.read_text(encoding="utf-8").splitlines()]
        return frozenset(normalised(row["prompt"]) for row in rows)
    return frozenset(normalised(item.prompt) for item in draw_test())


def draw_test(size: int = TEST_SIZE) -> list[Item]:
    """Families and levels in turn; 250 over 45 cells leaves every cell with 5 or 6."""
    # Levels change slowest within a round, and families are shifted by level, so the remainder spreads over both.
    names = list(FAMILIES)
    cells = [(names[(i + level) % len(names)], level) for i in range(len(names)) for level in range(1, 6)]
    found: list[Item] = []
    seen: set[str] = set()
    index = 0
    while len(found) < size:
        family, level = cells[len(found) % len(cells)]
        item = generate(TEST_SEED, index, family=family, level=level)
        index += 1
        if normalised(item.prompt) not in seen:
            seen.add(normalised(item.prompt))
            found.append(item)
    return found


def rows(items: Sequence[Item]) -> str:
    lines = (
        {"id": f"builtin-{n:04d}", "prompt": i.prompt, "answer": i.answer, "subject": i.family, "level": i.level}
        for n, i in enumerate(items, start=1)
    )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def guess_coverage(answers: Sequence[str], k: int = 64) -> float:
    """Mean chance that k draws with replacement from the other items' answers hold an item's own."""
    counts = collections.Counter(answers)
    others = len(answers) - 1
    return sum(1 - (1 - (counts[a] - 1) / others) ** k for a in answers) / len(answers)


def main() -> None:
    items = draw_test()
    text = rows(items)
    TEST_PATH.write_text(text, encoding="utf-8")
    print(f"wrote {len(items)} problems to {TEST_PATH}")
    print(f"sha256 {hashlib.sha256(text.encode()).hexdigest()}")
    print(f"guess coverage at 64: {guess_coverage([i.answer for i in items]):.4f}")


if __name__ == "__main__":
    main()
