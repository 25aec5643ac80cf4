"""Family ``sequences``: arithmetic and geometric sequences, and recurrences of first and second order.

Recurrences are chains whose depth grows with the level. Answers are integers of three digits or
more, and fractions for infinite sums.
"""

from __future__ import annotations

import random
from fractions import Fraction

from .item import Draft
from .latex import number, par, signed, term
from .steps import draw, nonzero, reduce
from .work import Work


def sequences(rng: random.Random, level: int) -> Draft:
    kinds = (
        (range(1, 4), _arithmetic),
        (range(2, 6), _two_terms),
        (range(1, 6), _geometric),
        (range(1, 6), _first_order),
        (range(3, 6), _second_order),
        (range(2, 5), _infinite),
    )
    return draw(kinds, rng, level)


def _arithmetic(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    far = {1: 9, 2: 19, 3: 49}[level]
    a, d = nonzero(rng, 3, 60), nonzero(rng, 3, far)
    n = rng.randint(12, 30 if level < 3 else 60)
    shown = ", ".join(f"${a + i * d}$" for i in range(3))
    total = level > 1
    what = f"sum of the first ${n}$ terms" if total else f"term number ${n}$"
    prompt = f"An arithmetic sequence starts {shown}. Find the {what}."
    work.say(f"The step is {a + d}-{par(a)}={d}.")
    last = work.add(a, work.mul(n - 1, d))
    work.say(f"Term {n} is {last}.")
    if not total:
        return Draft(prompt, work, str(last))
    ends = work.add(a, last)
    work.say(f"The sum is {n}\\cdot{par(ends)}/2.")
    if n % 2 == 0:
        work.say(f"{n}/2={n // 2}")
        value = work.mul(n // 2, ends)
    else:
        value = work.div(work.mul(n, ends), 2)
    return Draft(prompt, work, str(value))


def _two_terms(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    a, d = nonzero(rng, 10, 99), nonzero(rng, 3, {2: 9, 3: 25, 4: 60, 5: 99}[level])
    i = rng.randint(3, 9)
    j = i + rng.randint(4, 9 if level < 4 else 25)
    k = rng.randint(30, 60 if level < 4 else 150)
    p, q = a + (i - 1) * d, a + (j - 1) * d
    prompt = f"In an arithmetic sequence term ${i}$ is ${p}$ and term ${j}$ is ${q}$. Find term ${k}$."
    change = work.sub(q, p)
    work.say(f"{j}-{i}={j - i}")
    work.div(change, j - i)
    work.say(f"The step is {d}.")
    start, position = (p, i) if rng.random() < 0.5 else (q, j)
    work.say(f"From term {position}: {k}-{position}={k - position} steps.")
    value = work.add(start, work.mul(d, k - position))
    if level > 3 and rng.random() < 0.5:
        prompt = prompt.replace("Find term", "Find the sum of the first term and term")
        first = work.sub(p, work.mul(i - 1, d))
        work.say(f"The first term is {first}.")
        value = work.add(first, value)
    return Draft(prompt, work, str(value))


def _geometric(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    a = nonzero(rng, 3, 99 if level < 4 else 199)
    r = rng.randint(2, 6) if level < 3 else rng.choice((3, 4, 5, 6, 7, -2, -3, -4, -5))
    n = {1: 4, 2: 4, 3: 5, 4: 5, 5: 6}[level] + rng.randint(0, 1)
    shown = ", ".join(f"${a * r**i}$" for i in range(3))
    prompt = f"A geometric sequence starts {shown}. Find the sum of the first ${n}$ terms."
    work.say(f"The ratio is {a * r}/{par(a)}={r}.")
    terms = [a]
    for i in range(2, n + 1):
        terms.append(work.mul(terms[-1], r))
        work.say(f"Term {i} is {terms[-1]}.")
    total = terms[0]
    for value in terms[1:]:
        total = work.add(total, value)
    return Draft(prompt, work, str(total))


def _first_order(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    p = rng.randint(2, 4) * (rng.choice((1, -1)) if level > 2 else 1)
    q, value = nonzero(rng, 3, 15 * level), rng.randint(11, 99)
    n = {1: 4, 2: 5, 3: 6, 4: 7, 5: 9}[level]
    prompt = f"Let $a_1={value}$ and $a_{{n+1}}={term(p, 'a_n', first=True)}{signed(q)}$. Find $a_{n}$."
    for i in range(2, n + 1):
        value = work.add(work.mul(p, value), q)
        work.say(f"a_{i}={value}")
    return Draft(prompt, work, str(value))


def _second_order(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    p, q = rng.randint(2, 3 + level // 4), nonzero(rng, 2, level)
    before, value = rng.randint(2, 15), rng.randint(11, 40)
    n = {3: 5, 4: 6, 5: 8}[level]
    rule = f"{p}a_{{n+1}}{term(q, 'a_n')}"
    prompt = f"Let $a_1={before}$, $a_2={value}$ and $a_{{n+2}}={rule}$. Find $a_{n}$."
    for i in range(3, n + 1):
        work.say(f"a_{i}={p}\\cdot{par(value)}{signed(q)}\\cdot{par(before)}")
        before, value = value, work.add(work.mul(p, value), work.mul(q, before))
        work.say(f"a_{i}={value}")
    return Draft(prompt, work, str(value))


def _infinite(rng: random.Random, level: int) -> Draft:
    """a/(1-p/q) = aq/(q-p), where a is a fraction from level 3 on."""
    work = Work(rng, level)
    top = {2: 30, 3: 40, 4: 90}[level]
    while True:
        ratio = Fraction(nonzero(rng, 1, 19), rng.randint(3, 20))
        a = rng.randint(7, top)
        if abs(ratio) < 1 and (a / (1 - ratio)).denominator > 1:
            break
    p, q = ratio.numerator, ratio.denominator
    prompt = (
        f"An infinite geometric series has first term ${a}$ and ratio ${number(ratio)}$. Find its sum in lowest terms."
    )
    taken = f"({number(ratio)})" if p < 0 else number(ratio)
    work.say(f"1-{taken}=\\frac{{{q - p}}}{{{q}}}")
    over = work.mul(a, q)
    work.say(f"The sum is \\frac{{{over}}}{{{q - p}}}.")
    value = reduce(work, over, q - p)
    work.say(f"So {number(value)}.")
    return Draft(prompt, work, number(value))
