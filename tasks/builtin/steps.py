"""Longer named steps that several families share: gcd, reducing a fraction, factoring, simplifying a root.

Each is a function of a ``Work``: it writes its lines there and returns the value.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

from .item import Draft
from .latex import number, par, root, signed
from .work import Work

Kind = tuple[range, Callable[[random.Random, int], Draft]]


def draw(kinds: tuple[Kind, ...], rng: random.Random, level: int) -> Draft:
    """A problem of one of the kinds that exist at this level."""
    return rng.choice([make for levels, make in kinds if level in levels])(rng, level)


def nonzero(rng: random.Random, low: int, high: int) -> int:
    """Size between low and high, either sign."""
    return rng.choice((-1, 1)) * rng.randint(low, high)


def gcd(work: Work, a: int, b: int) -> int:
    work.say(f"gcd of {a} and {b}:")
    a, b = max(a, b), min(a, b)
    while b:
        a, b = b, work.divmod(a, b)[1]
    work.say(f"The gcd is {a}.")
    return a


def reduce(work: Work, p: int, q: int) -> Fraction:
    """p/q in lowest terms, sign in front."""
    if q < 0:
        work.say(f"\\frac{{{p}}}{{{q}}}=\\frac{{{-p}}}{{{-q}}}")
        p, q = -p, -q
    value = Fraction(p, q)
    if q == 1 or p == 0:
        return value
    if p % q == 0:
        work.div(p, q)
        return value
    g = gcd(work, abs(p), q)
    if g > 1:
        work.div(abs(p), g)
        work.div(q, g)
        work.say(f"\\frac{{{p}}}{{{q}}}={number(value)}")
    return value


def factor(work: Work, n: int) -> dict[int, int]:
    """Trial division by primes; only the divisions that succeed are written."""
    found: dict[int, int] = {}
    steps, rest, p = [], n, 2
    while p * p <= rest:
        if rest % p:
            p += 1
            continue
        found[p] = found.get(p, 0) + 1
        steps.append(f"{rest}={p}\\cdot{rest // p}")
        rest //= p
    found[rest] = found.get(rest, 0) + 1
    if not steps:
        work.say(f"{n} is prime.")
        return found
    work.say(", ".join(steps))
    work.say(f"{n}=" + "\\cdot".join(str(p) if e == 1 else f"{p}^{e}" for p, e in found.items()))
    return found


def simplify_root(work: Work, n: int) -> tuple[int, int]:
    r"""k and m with \sqrt{n} = k\sqrt{m} and m free of squares."""
    k = m = 1
    for p, e in factor(work, n).items():
        k *= p ** (e // 2)
        m *= p ** (e % 2)
    work.say(f"\\sqrt{{{n}}}={root(k, m)}")
    return k, m


def products(work: Work, terms: list[tuple[int, int, int]]) -> int:
    """The sum of sign*a*b over the terms: each product in turn, then the running sum."""
    values = [sign * work.mul(a, b) for sign, a, b in terms]
    total = values[0]
    for value in values[1:]:
        total = work.add(total, value)
    return total


def difference_of_products(work: Work, a: int, d: int, b: int, c: int) -> int:
    """ad-bc with its heading, as in a determinant."""
    work.say(f"{par(a)}\\cdot{par(d)}-{par(b)}\\cdot{par(c)}:")
    return work.sub(work.mul(a, d), work.mul(b, c))


def linear_value(work: Work, a: int, x: int, b: int) -> int:
    """ax+b with its heading."""
    work.say(f"{a}\\cdot{par(x)}{signed(b)}:")
    return work.add(work.mul(a, x), b)
