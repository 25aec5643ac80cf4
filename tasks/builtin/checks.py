"""Checking steps: operations already done, verified by another way and written after the main working.

They make a chain as long as its level asks for, with real work: casting out nines, undoing the
operation, swapping the operands, or splitting one. Nothing here changes the answer, and no check leaps.
"""

from __future__ import annotations

import random
import string

from .work import Work

_LETTERS = str.maketrans("", "", string.ascii_letters)


def estimate(text: str) -> float:
    """Tokens of a solution to about 15: words merge almost wholly, anything else is about a token each."""
    rest = len(text.translate(_LETTERS))
    return rest + 0.07 * (len(text) - rest)


def checks(work: Work, wanted: float) -> list[str]:
    """Lines that check operations of ``work`` until about ``wanted`` tokens are written, in the order of the work.

    The last operation comes first in choice: it made the answer, so the answer stands near the end.
    """
    if wanted <= 0 or not work.done:
        return []
    rng, last = work.rng, len(work.done) - 1
    seen: set[tuple[str, int, int, int]] = set()
    order = []
    for i in [last, *rng.sample(range(last), last)]:
        if work.done[i] not in seen:
            seen.add(work.done[i])
            order.append(i)
    ways = (_nines, _undo, _swap, _split)
    chosen: list[tuple[int, list[str]]] = []
    headings: set[str] = set()
    for turn in range(len(ways)):
        for i in order:
            op, a, b, c = work.done[i]
            lines = ways[(turn + (a + b) % len(ways)) % len(ways)](rng, op, a, b, c)
            cost = estimate("\n".join(lines)) + 1
            # A difference and the sum that undid it are cast out alike: once is enough.
            if lines and lines[0] not in headings and cost < wanted + 40:
                headings.add(lines[0])
                chosen.append((i, lines))
                wanted -= cost
            if wanted < 15:
                break
        if wanted < 15:
            break
    chosen.sort(key=lambda entry: entry[0])
    return [line for _, lines in chosen for line in lines]


_SIGN = {"+": "+", "-": "-", "*": "\\cdot", "/": "/"}


def _nines(rng: random.Random, op: str, a: int, b: int, c: int) -> list[str]:
    # Differences and quotients are cast out as the sum or product that undoes them.
    if op == "-":
        op, a, b, c = "+", c, b, a
    elif op == "/":
        op, a, b, c = "*", c, b, a
    sign = _SIGN[op]
    (ra, ta), (rb, tb), (rc, tc) = _root(a), _root(b), _root(c)
    total = ra + rb if op == "+" else ra * rb
    rt, tt = _root(total)
    steps = [text for text in (ta, tb, tc) if text]
    return [
        f"Nines for {a}{sign}{b}={c}: " + ", ".join(steps),
        f"{ra}{sign}{rb}={total}" + (f" {tt}" if tt else "") + f" and {rt}={rc} ok",
    ]


def _undo(rng: random.Random, op: str, a: int, b: int, c: int) -> list[str]:
    work = Work(rng, 1, leaps=False)
    if op == "+":
        work.sub(c, b)
    elif op == "-":
        work.add(c, b)
    elif op == "/":
        work.mul(c, b)
    elif 0 < min(a, b) < 100:
        work.div(c, min(a, b))
    else:
        return []
    return [f"Undo {a}{_SIGN[op]}{b}={c}:", *work.lines, "ok"]


def _swap(rng: random.Random, op: str, a: int, b: int, c: int) -> list[str]:
    # Turning round an operation that is one known fact would only say it twice.
    if op in "-/" or max(a, b) < 100:
        return []
    work = Work(rng, 1, leaps=False)
    if op == "+":
        work.add(b, a)
    else:
        work.mul(b, a)
    return [f"Again {a}{_SIGN[op]}{b}={c}:", *work.lines, "ok"]


def _split(rng: random.Random, op: str, a: int, b: int, c: int) -> list[str]:
    """The same result with the smaller operand taken in two parts."""
    work = Work(rng, 1, leaps=False)
    heading = f"Split {a}{_SIGN[op]}{b}={c}:"
    if op == "/":
        op, a, b = "*", c, b
    b, a = (b, a) if op == "-" else (min(a, b), max(a, b))
    if b < 4 or a < 10:
        return []
    part = b // 10 * 10 if b > 10 and b % 10 else b - rng.randint(1, b // 2)
    if op == "*":
        work.say(f"{b}={part}+{b - part}")
        work.add(work.mul(a, part), work.mul(a, b - part))
    else:
        work.say(f"{b}={part}+{b - part}")
        step = work.add if op == "+" else work.sub
        step(step(a, part), b - part)
    return [heading, *work.lines, "ok"]


def _root(n: int) -> tuple[int, str]:
    """The digital root of n and its steps, ``4+7+8=19 1+9=10 1+0=1``."""
    steps = []
    while n >= 10:
        total = sum(map(int, str(n)))
        steps.append("+".join(str(n)) + f"={total}")
        n = total
    return n, " ".join(steps)
