"""Family ``counting``: multiples in a range, committees, lattice paths, drawing without replacement.

Counts are integers of three digits or more; probabilities are fractions in lowest terms.
"""

from __future__ import annotations

import random
from math import comb, lcm

from .item import Draft
from .latex import number
from .steps import draw, reduce
from .work import Work

_THINGS = (("red", "blue"), ("white", "black"), ("green", "red"), ("blue", "white"))


def counting(rng: random.Random, level: int) -> Draft:
    kinds = (
        (range(1, 6), _multiples),
        (range(1, 6), _committee),
        (range(2, 6), _paths),
        (range(2, 6), _exactly),
        (range(3, 6), _at_least_one),
    )
    return draw(kinds, rng, level)


def binomial(work: Work, n: int, k: int) -> int:
    value = comb(n, k)
    if k in (0, 1, n):
        work.say(f"\\binom{{{n}}}{{{k}}}={value}")
        return value
    short = min(k, n - k)
    if short != k:
        work.say(f"\\binom{{{n}}}{{{k}}}=\\binom{{{n}}}{{{short}}}")
    work.say(f"\\binom{{{n}}}{{{short}}}:")
    # Multiply and divide in turn: every intermediate value is itself a binomial, so it stays small.
    running = n
    for i in range(2, short + 1):
        running = work.div(work.mul(running, n - i + 1), i)
    work.say(f"\\binom{{{n}}}{{{k}}}={value}")
    return value


def _multiples(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    last = rng.randint(*{1: (200, 900), 2: (400, 1500), 3: (900, 4000), 4: (1000, 6000), 5: (3000, 9999)}[level])
    count_of = 2 if level < 4 else rng.choice((2, 3))
    first = 1 if level < 3 or count_of == 3 else rng.randint(101, last - 500)
    top = {1: 9, 2: 12, 3: 15, 4: 12, 5: 15}[level] if count_of == 3 or level < 4 else 15 * level - 30
    while True:
        divisors = sorted(rng.sample(range(2, top + 1), count_of))
        if all(b % a for a in divisors for b in divisors if a < b):
            break
    wanted = rng.random() < 0.6
    joined = ", ".join(f"${p}$" for p in divisors[:-1]) + f" or ${divisors[-1]}$"
    what = f"are divisible by {joined}" if wanted else f"are not divisible by {joined}"
    prompt = f"How many integers from ${first}$ to ${last}$ {what}?"

    def count(d: int) -> int:
        high = work.divmod(last, d)[0]
        low = work.divmod(first - 1, d)[0] if first > 1 else 0
        value = work.sub(high, low) if first > 1 else high
        work.say(f"Multiples of {d}: {value}")
        return value

    total = 0
    for p in divisors:
        value = count(p)
        total = work.add(total, value) if total else value
    for i, a in enumerate(divisors):
        for b in divisors[i + 1 :]:
            work.say(f"lcm of {a} and {b} is {lcm(a, b)}.")
            total = work.sub(total, count(lcm(a, b)))
    if len(divisors) == 3:
        work.say(f"lcm of all is {lcm(*divisors)}.")
        total = work.add(total, count(lcm(*divisors)))
    if not wanted:
        everything = work.add(work.sub(last, first), 1) if first > 1 else last
        total = work.sub(everything, total)
    return Draft(prompt, work, str(total))


def _committee(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    groups = rng.sample(("men", "women", "boys", "girls"), 2 if level < 4 else 3)
    low, high, most = {1: (5, 12, 2), 2: (6, 12, 3), 3: (8, 15, 4), 4: (7, 12, 3), 5: (9, 15, 4)}[level]
    while True:
        sizes = [(n, rng.randint(1 if level < 3 else 2, most)) for n in (rng.randint(low, high) for _ in groups)]
        total = 1
        for n, k in sizes:
            total *= comb(n, k)
        if total > 99 and any(k > 1 for _, k in sizes):
            break
    have = ", ".join(f"${n}$ {g}" for (n, _), g in zip(sizes, groups, strict=True))
    need = ", ".join(f"${k}$ {g}" for (_, k), g in zip(sizes, groups, strict=True))
    prompt = rng.choice(
        ("A club has {}. How many teams of {} can be made?", "From {}, how many ways are there to choose {}?")
    ).format(have, need)
    values = [binomial(work, n, k) for n, k in sizes]
    running = values[0]
    for value in values[1:]:
        running = work.mul(running, value)
    return Draft(prompt, work, str(running))


def _paths(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    top = {2: 6, 3: 7, 4: 8, 5: 9}[level]
    while True:
        a, b, c, d = (rng.randint(1, top) for _ in range(4))
        value = comb(a + b, a) * comb(c + d, c)
        if 100 < value < 10**6 and min(a, b) > 1:
            break
    avoid = rng.random() < 0.4
    prompt = (
        f"A path goes from $(0,0)$ to $({a + c},{b + d})$ by steps of $1$ to the right or up. "
        f"How many such paths {'do not ' if avoid else ''}go through $({a},{b})$?"
    )
    work.say(f"First part: {a}+{b}={a + b} steps.")
    first = binomial(work, a + b, a)
    work.say(f"Second part: {c} right and {d} up, {c}+{d}={c + d} steps.")
    second = binomial(work, c + d, c)
    through = work.mul(first, second)
    if not avoid:
        return Draft(prompt, work, str(through))
    work.say("All paths:")
    every = binomial(work, a + b + c + d, a + c)
    return Draft(prompt, work, str(work.sub(every, through)))


def _bag(rng: random.Random, level: int) -> tuple[int, int, int, tuple[str, str]]:
    low, high, most = {2: (4, 19, 2), 3: (4, 16, 3), 4: (5, 17, 4), 5: (6, 24, 4)}[level]
    return rng.randint(low, high), rng.randint(low, high), rng.randint(2, most), rng.choice(_THINGS)


def _exactly(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    a, b, k, (one, two) = _bag(rng, level)
    i = rng.randint(1, k - 1) if k > 2 else 1
    prompt = (
        f"A bag has ${a}$ {one} and ${b}$ {two} balls. We draw ${k}$ balls at once. "
        f"Find the probability that exactly ${i}$ are {one}. Give the answer in lowest terms."
    )
    work.say("Good ways:")
    good = work.mul(binomial(work, a, i), binomial(work, b, k - i))
    n = work.add(a, b)
    work.say("All ways:")
    every = binomial(work, n, k)
    value = reduce(work, good, every)
    work.say(f"The probability is {number(value)}.")
    return Draft(prompt, work, number(value))


def _at_least_one(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    a, b, k, (one, two) = _bag(rng, level)
    prompt = (
        f"A bag has ${a}$ {one} and ${b}$ {two} balls. We draw ${k}$ balls at once. "
        f"Find the probability that at least one is {one}. Give the answer in lowest terms."
    )
    work.say(f"Ways with no {one}:")
    bad = binomial(work, b, k)
    n = work.add(a, b)
    work.say("All ways:")
    every = binomial(work, n, k)
    good = work.sub(every, bad)
    work.say(f"Good ways: {good}")
    value = reduce(work, good, every)
    work.say(f"The probability is {number(value)}.")
    return Draft(prompt, work, number(value))
