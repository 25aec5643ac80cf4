"""Family ``quadratic``: expanding, roots by factor pairs and by the discriminant, power sums of roots.

Answers are polynomials, ordered pairs of roots, single roots with a square root, and integers.
"""

from __future__ import annotations

import random
from math import gcd, isqrt

from .item import Draft
from .latex import pair, par, poly, signed, surd
from .steps import draw, nonzero, reduce, simplify_root
from .work import Work


def quadratic(rng: random.Random, level: int) -> Draft:
    kinds = (
        (range(1, 6), _expand),
        (range(1, 4), _factor_pairs),
        (range(3, 6), _rational_roots),
        (range(3, 6), _radical_root),
        (range(2, 6), _power_sum),
    )
    return draw(kinds, rng, level)


def _expand(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    top = {1: 9, 2: 15, 3: 12, 4: 40, 5: 30}[level]
    sizes = {1: (2, 2), 2: (2, 2), 3: (2, 3), 4: (2, 3), 5: (3, 3)}[level]
    left, right = ([rng.randint(2, top), *(nonzero(rng, 2, top) for _ in range(n - 1))] for n in sizes)
    prompt = rng.choice(("Expand $({})({})$.", "Write $({})({})$ as a polynomial.")).format(poly(left), poly(right))
    degree = len(left) + len(right) - 2
    found = []
    for power in range(degree, -1, -1):
        pairs = [(a, b) for i, a in enumerate(left) for j, b in enumerate(right) if degree - i - j == power]
        name = "Constant" if power == 0 else "x term" if power == 1 else f"x^{power} term"
        work.say(f"{name}: " + "+".join(f"{par(a)}\\cdot{par(b)}" for a, b in pairs))
        total = work.mul(*pairs[0])
        for a, b in pairs[1:]:
            total = work.add(total, work.mul(a, b))
        found.append(total)
    work.say(f"We get {poly(found)}.")
    # At x=1 both sides are sums of coefficients: a short test of the whole expansion.
    work.say("Check at x=1.")
    sums = []
    for part in (left, right, found):
        total = part[0]
        for c in part[1:]:
            total = work.add(total, c)
        sums.append(total)
    work.mul(sums[0], sums[1])
    work.say(f"Both are {sums[2]}.")
    return Draft(prompt, work, poly(found))


def _factor_pairs(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    top = {1: 15, 2: 24, 3: 40}[level]
    while True:
        r, s = sorted((nonzero(rng, 2, top), nonzero(rng, 2, top)))
        divisors = [d for d in range(1, isqrt(abs(r * s)) + 1) if r * s % d == 0]
        if r != s and r + s != 0 and len(divisors) < 9:
            break
    b, c = -(r + s), r * s
    k = rng.randint(2, 9)
    shown = poly([k, k * b, k * c])
    prompt = f"Find the roots of ${shown}=0$. Give the answer as an ordered pair $(r,s)$ with $r<s$."
    work.say(f"Divide by {k}.")
    work.div(k * b, k)
    work.div(k * c, k)
    work.say(f"{poly([1, b, c])}=0")
    work.say(f"We want r+s={r + s} and rs={c}.")
    tried = []
    for d in divisors if rng.random() < 0.5 else divisors[::-1]:
        other = abs(c) // d
        sign = "+" if c > 0 else "-"
        total = other + d if c > 0 else other - d
        tried.append(f"{other}\\cdot{d}: {other}{sign}{d}={total}")
        if total == abs(r + s):
            break
    work.say(*tried, f"So r={r} and s={s}.", "Put one back.")
    x = rng.choice((r, s))
    work.add(work.add(work.square(x), work.mul(b, x)), c)
    return Draft(prompt, work, pair(r, s))


def _discriminant(work: Work, a: int, b: int, c: int) -> int:
    work.say(f"D=b^2-4ac with a={a}, b={b}, c={c}.")
    square = work.square(b)
    product = work.mul(4 * a, c)
    value = work.sub(square, product)
    work.say(f"D={value}")
    return value


def _rational_roots(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    top, far = {3: (5, 12), 4: (7, 16), 5: (9, 24)}[level]
    while True:
        p, q, m, n = rng.randint(2, top), nonzero(rng, 1, far), rng.randint(1, top), nonzero(rng, 1, far)
        if gcd(p, q) == 1 and gcd(m, n) == 1 and p * n != m * q:
            break
    a, b, c = p * m, p * n + q * m, q * n
    prompt = f"Solve ${poly([a, b, c])}=0$. Give the roots as an ordered pair $(r,s)$ with $r<s$, in lowest terms."
    value = _discriminant(work, a, b, c)
    k = isqrt(value)
    # The root is bracketed by tens, then the last digit settles it.
    tens = k // 10 * 10
    work.say(f"{tens}^2={tens * tens} and {tens + 10}^2={(tens + 10) ** 2}, try {k}.")
    work.square(k)
    roots = []
    for sign, name in ((-1, "r"), (1, "s")):
        over = work.add(-b, sign * k)
        work.say(f"{name}=\\frac{{{over}}}{{{2 * a}}}")
        roots.append(reduce(work, over, 2 * a))
    work.say(f"The roots are {pair(*roots)}.")
    return Draft(prompt, work, pair(*roots))


def _radical_root(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    far = {3: 20, 4: 40, 5: 99}[level]
    while True:
        a, b, c = rng.randint(1, 2 * level), nonzero(rng, 3, far), nonzero(rng, 1, far)
        value = b * b - 4 * a * c
        if value > 1 and isqrt(value) ** 2 != value and any(value % (p * p) == 0 for p in (2, 3, 5, 7)):
            break
    which = rng.choice(("larger", "smaller"))
    prompt = f"Find the {which} root of ${poly([a, b, c])}=0$ in simplest radical form."
    k, m = simplify_root(work, _discriminant(work, a, b, c))
    if which == "smaller":
        k = -k
    g = gcd(2 * a, gcd(b, k))
    work.say(f"x=\\frac{{{surd(-b, k, m)}}}{{{2 * a}}}")
    if g > 1:
        work.say(f"Divide {-b}, {k} and {2 * a} by {g}.")
    over, under = surd(-b // g, k // g, m), 2 * a // g
    answer = over if under == 1 else f"\\frac{{{over}}}{{{under}}}"
    work.say(f"x={answer}")
    return Draft(prompt, work, answer)


def _power_sum(rng: random.Random, level: int) -> Draft:
    r"""S_n = pS_{n-1} - qS_{n-2} for S_n = r^n + s^n."""
    work = Work(rng, level)
    n = {2: 3, 3: 4, 4: 5, 5: 6}[level]
    top = {2: 15, 3: 12, 4: 12, 5: 11}[level]
    p, q = nonzero(rng, 3, top), nonzero(rng, 2, top)
    equation = poly([1, -p, q])
    extra = nonzero(rng, 11, 99 if level < 4 else 999)
    prompt = f"Let $r$ and $s$ be the roots of ${equation}=0$. Find $r^{n}+s^{n}{signed(extra)}$."
    work.say(f"r+s={p} and rs={q}.", f"S_0=2, S_1={p}, and S_n={p}S_{{n-1}}{signed(-q)}S_{{n-2}}.")
    before, value = 2, p
    for i in range(2, n + 1):
        work.say(f"S_{i}={p}\\cdot{par(value)}{signed(-q)}\\cdot{par(before)}")
        before, value = value, work.add(work.mul(p, value), work.mul(-q, before))
        work.say(f"S_{i}={value}")
    return Draft(prompt, work, str(work.add(value, extra)))
