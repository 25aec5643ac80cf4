"""Family ``radicals``: sums and products of fractions, and expressions with square roots.

Answers are fractions in lowest terms, multiples of a root, and ``a+b\\sqrt{c}`` forms, also over a
common denominator.
"""

from __future__ import annotations

import random
from fractions import Fraction
from math import gcd as _gcd
from math import lcm

from .item import Draft
from .latex import number, par, root, signed, surd
from .steps import draw, gcd, nonzero, reduce
from .work import Work

_FREE = (2, 3, 5, 6, 7, 10, 11, 13, 14, 15, 17, 19, 21, 22, 23)


def radicals(rng: random.Random, level: int) -> Draft:
    kinds = (
        (range(1, 6), _sum),
        (range(2, 6), _product_and_sum),
        (range(1, 5), _root_sum),
        (range(1, 6), _root_product),
        (range(3, 6), _rationalise),
    )
    return draw(kinds, rng, level)


def _fraction(rng: random.Random, top: int) -> Fraction:
    while True:
        value = Fraction(rng.randint(1, 2 * top), rng.randint(3, top))
        if value.denominator > 2:
            return value


def _add_fractions(work: Work, x: Fraction, y: Fraction) -> Fraction:
    """x+y over the least common denominator, then lowest terms."""
    b, d = x.denominator, y.denominator
    sign = "+" if y >= 0 else "-"
    work.say(f"{number(x)}{sign}{number(abs(y))}:")
    g = gcd(work, b, d)
    under = lcm(b, d)
    k, m = under // b, under // d
    if g > 1:
        work.say(f"{b}/{g}={b // g}, {d}/{g}={d // g}")
    work.mul(b, k)
    tops = work.mul(x.numerator, k), work.mul(y.numerator, m)
    total = work.add(*tops)
    work.say(f"Sum \\frac{{{total}}}{{{under}}}")
    value = reduce(work, total, under)
    work.say(f"So {number(value)}.")
    return value


def _sum(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    count, top = {1: (2, 12), 2: (2, 30), 3: (3, 15), 4: (3, 24), 5: (3, 40)}[level]
    while True:
        values = [_fraction(rng, top)] + [rng.choice((1, -1)) * _fraction(rng, top) for _ in range(count - 1)]
        if sum(values).denominator > 2 and lcm(*(v.denominator for v in values)) < 40000:
            break
    shown = number(values[0]) + "".join(("+" if v > 0 else "-") + number(abs(v)) for v in values[1:])
    total = values[0]
    for value in values[1:]:
        total = _add_fractions(work, total, value)
    ask = rng.choice(("Compute ${}$.", "Find the value of ${}$."))
    return Draft(ask.format(shown) + " Give the answer in lowest terms.", work, number(total))


def _product_and_sum(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    top = {2: 9, 3: 14, 4: 20, 5: 32}[level]
    while True:
        x, y, z = (_fraction(rng, top) for _ in range(3))
        y *= rng.choice((1, -1))
        if (x * y).denominator > 1 and (x * y + z).denominator > 2:
            break
    prompt = f"Compute ${number(x)}\\cdot{par_fraction(y)}+{number(z)}$. Give the answer in lowest terms."
    work.say(f"{number(x)}\\cdot{par_fraction(y)}:")
    over, under = work.mul(x.numerator, y.numerator), work.mul(x.denominator, y.denominator)
    first = reduce(work, over, under)
    work.say(f"So {number(first)}.")
    return Draft(prompt, work, number(_add_fractions(work, first, z)))


def par_fraction(value: Fraction) -> str:
    return number(value) if value > 0 else f"({number(value)})"


def _root_sum(rng: random.Random, level: int) -> Draft:
    """c1*sqrt(a^2 m) + c2*sqrt(b^2 m) [+ ...]."""
    work = Work(rng, level)
    m = rng.choice(_FREE)
    count = 2 if level < 3 else 3
    top = {1: 5, 2: 9, 3: 12, 4: 19}[level]
    far = {1: 9, 2: 20, 3: 30, 4: 60}[level]
    while True:
        parts = [(nonzero(rng, 2, far), k) for k in rng.sample(range(2, top + 1), count)]
        total = sum(c * k for c, k in parts)
        if abs(total) > 20 and parts[0][0] > 0:
            break
    shown = ""
    for i, (c, k) in enumerate(parts):
        shown += (signed(c) if i else str(c)) + f"\\sqrt{{{k * k * m}}}"
    prompt = rng.choice(("Simplify ${}$.", "Write ${}$ in simplest form.")).format(shown)
    sizes = []
    for c, k in parts:
        n = k * k * m
        # The largest square that divides is named at once, then multiplied out: the one searching step here.
        work.say(f"\\sqrt{{{n}}}: {k}^2={k * k}")
        work.mul(k * k, m)
        work.say(f"\\sqrt{{{n}}}={root(k, m)}")
        sizes.append(work.mul(c, k))
    work.say("".join((signed(s) if i else str(s)) + f"\\sqrt{{{m}}}" for i, s in enumerate(sizes)))
    sum_so_far = sizes[0]
    for size in sizes[1:]:
        sum_so_far = work.add(sum_so_far, size)
    return Draft(prompt, work, root(sum_so_far, m))


def _times(work: Work, a: int, b: int, c: int, d: int, m: int) -> tuple[int, int]:
    """(a+b sqrt m)(c+d sqrt m): the rational part and the coefficient of the root."""
    work.say(f"Rational part: {par(a)}\\cdot{par(c)}+{par(b)}\\cdot{par(d)}\\cdot{m}")
    first = work.mul(a, c)
    second = work.mul(work.mul(b, d), m)
    whole = work.add(first, second)
    work.say(f"Root part: {par(a)}\\cdot{par(d)}+{par(b)}\\cdot{par(c)}")
    part = work.add(work.mul(a, d), work.mul(b, c))
    work.say(f"Product {surd(whole, part, m)}")
    return whole, part


def _root_product(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    m = rng.choice(_FREE)
    top = {1: 6, 2: 8, 3: 20, 4: 12, 5: 20}[level]
    count = 2 if level < 4 else 3
    while True:
        factors = [(nonzero(rng, 2, top), nonzero(rng, 2, top)) for _ in range(count)]
        a, b = factors[0]
        ok = True
        for c, d in factors[1:]:
            a, b = a * c + b * d * m, a * d + b * c
            ok = ok and a != 0 and abs(b) > 1
        if ok:
            break
    shown = "".join(f"({surd(x, y, m)})" for x, y in factors)
    prompt = f"Write ${shown}$ in the form $a+b\\sqrt{{{m}}}$."
    a, b = factors[0]
    for c, d in factors[1:]:
        work.say(f"({surd(a, b, m)})({surd(c, d, m)})")
        a, b = _times(work, a, b, c, d, m)
    if count == 2 and max(abs(a), abs(b)) < 100:
        _check_norms(work, [*factors, (a, b)], m)
    return Draft(prompt, work, surd(a, b, m))


def _check_norms(work: Work, values: list[tuple[int, int]], m: int) -> None:
    """a^2-b^2m of a product is the product of those of its factors: a second way that uses every number."""
    work.say(f"Check with N=a^2-{m}b^2.")
    norms = []
    for a, b in values:
        first, second = work.square(a), work.mul(work.square(b), m)
        norms.append(work.sub(first, second))
        work.say(f"N={norms[-1]}")
    work.mul(norms[0], norms[1])
    work.say(f"It is {norms[2]} as wanted.")


def _rationalise(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    m = rng.choice(_FREE)
    top = {3: 7, 4: 12, 5: 25}[level]
    while True:
        a, b, c, d = (nonzero(rng, 1, top) for _ in range(4))
        under, over, part = c * c - d * d * m, a * c - b * d * m, b * c - a * d
        if under and over and part and abs(under) > 1:
            break
    prompt = f"Rationalise $\\frac{{{surd(a, b, m)}}}{{{surd(c, d, m)}}}$ and give it in lowest terms."
    work.say(f"Multiply by {surd(c, -d, m)}.", "Below:")
    work.sub(work.square(c), work.mul(work.square(d), m))
    work.say("Above:")
    over, part = _times(work, a, b, c, -d, m)
    if under < 0:
        under, over, part = -under, -over, -part
        work.say(f"Change signs: {under} below, {surd(over, part, m)} above.")
    g = _gcd(under, over, part)
    if g > 1:
        work.say(f"Divide by {g}: {over}/{g}={over // g}, {part}/{g}={part // g}, {under}/{g}={under // g}")
    top_text, under = surd(over // g, part // g, m), under // g
    answer = top_text if under == 1 else f"\\frac{{{top_text}}}{{{under}}}"
    return Draft(prompt, work, answer)
