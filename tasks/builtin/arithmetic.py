"""Family ``arithmetic``: sums of products, chains of operations, products of brackets.

The answer is an integer of three digits or more. Levels raise the digits of the factors and the
number of terms or operations.
"""

from __future__ import annotations

import random

from .item import Draft
from .latex import par
from .steps import draw
from .work import Work

# Digits of the two factors of each product, by level.
_FACTORS = {
    1: [(2, 1), (2, 1)],
    2: [(2, 1), (3, 1), (2, 1)],
    3: [(2, 2), (3, 1)],
    4: [(2, 2), (2, 2), (3, 1)],
    5: [(3, 2), (2, 2), (2, 2)],
}


def arithmetic(rng: random.Random, level: int) -> Draft:
    return draw(((range(1, 6), _sum), (range(1, 6), _chain), (range(2, 6), _brackets)), rng, level)


def _digits(rng: random.Random, n: int) -> int:
    return rng.randint(3 if n == 1 else 10 ** (n - 1) + 2, 10**n - 1)


def _sum(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    terms = [(rng.choice((1, -1)), _digits(rng, m), _digits(rng, n)) for m, n in _FACTORS[level]]
    terms[0] = (1, *terms[0][1:])
    plain = rng.choice((1, -1)) * _digits(rng, 3 if level < 4 else 4)
    shown = ""
    for i, (sign, a, b) in enumerate(terms):
        shown += ("" if not i else "+" if sign > 0 else "-") + f"{a}\\cdot{b}"
    shown += f"{plain:+d}"
    order = list(range(len(terms)))
    if rng.random() < 0.5:
        order.reverse()
    values = {i: work.mul(terms[i][1], terms[i][2]) for i in order}
    total = values[0]
    rest = "".join(f"{terms[i][0] * values[i]:+d}" for i in range(1, len(terms))) + f"{plain:+d}"
    work.say(f"{shown}={total}{rest}")
    for i in range(1, len(terms)):
        total = work.add(total, terms[i][0] * values[i])
    total = work.add(total, plain)
    ask = rng.choice(("Compute ${}$.", "Find the value of ${}$.", "Evaluate ${}$."))
    return Draft(ask.format(shown), work, str(total))


def _chain(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    value = rng.randint(12, 99)
    says = [f"Start with ${value}$."]
    for i in range(level + 3):
        if value > 20000:
            kind = "down"
        elif i % 2 == 0 and abs(value) < 3000:
            kind = "times"
        else:
            kind = rng.choice(("plus", "minus"))
        if kind == "times":
            b = rng.randint(3, 9) if level < 3 or abs(value) > 99 else rng.randint(12, 99 if level > 3 else 49)
            says.append(f"Multiply by ${b}$.")
            value = work.mul(value, b)
        elif kind == "plus":
            b = _digits(rng, 2 if level == 1 else 3)
            says.append(f"Add ${b}$.")
            value = work.add(value, b)
        elif kind == "minus":
            b = _digits(rng, 2 if level == 1 else 3)
            says.append(f"Subtract ${b}$.")
            value = work.sub(value, b)
        else:
            b = rng.randint(3, 9)
            # Brought to a multiple first, so the quotient is exact.
            if value % b:
                says.append(f"Subtract ${value % b}$.")
                value = work.sub(value, value % b)
            says.append(f"Divide by ${b}$.")
            value = work.div(value, b)
    says.append(rng.choice(("What is the result?", "Find the result.")))
    return Draft(" ".join(says), work, str(value))


def _brackets(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    size = {2: (10, 60), 3: (10, 99), 4: (20, 300), 5: (100, 700)}[level]
    a, b = rng.randint(*size), rng.randint(*size)
    c = rng.randint(*size)
    d = c - rng.randint(3, 9) if level == 2 else rng.randint(10, 99)
    e, f = _digits(rng, 2), _digits(rng, 1 if level < 4 else 2)
    shown = f"({a}+{b})({c}-{d})-{e}\\cdot{f}" if rng.random() < 0.5 else f"({c}-{d})({a}+{b})-{e}\\cdot{f}"
    first = work.add(a, b)
    second = work.sub(c, d)
    work.say(f"{shown}={first}\\cdot{par(second)}-{e}\\cdot{f}")
    if rng.random() < 0.5:
        high = work.mul(first, second)
        low = work.mul(e, f)
    else:
        low = work.mul(e, f)
        high = work.mul(first, second)
    ask = rng.choice(("Compute ${}$.", "Find the value of ${}$.", "Evaluate ${}$."))
    return Draft(ask.format(shown), work, str(work.sub(high, low)))
