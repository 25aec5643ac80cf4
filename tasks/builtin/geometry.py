"""Family ``geometry``: points, distances, areas, lines and circles in the coordinate plane.

Answers are ordered pairs (also of fractions), multiples of a root, integers and half integers.
"""

from __future__ import annotations

import random
from fractions import Fraction
from math import isqrt

from .item import Draft
from .latex import number, pair, par, signed, term
from .steps import difference_of_products, draw, nonzero, reduce, simplify_root
from .work import Work


def geometry(rng: random.Random, level: int) -> Draft:
    kinds = (
        (range(1, 4), _reflection),
        (range(1, 5), _distance),
        (range(1, 6), _area),
        (range(3, 6), _crossing),
        (range(2, 6), _circle),
        (range(4, 6), _foot),
    )
    return draw(kinds, rng, level)


def _point(rng: random.Random, far: int) -> tuple[int, int]:
    return nonzero(rng, 1, far), nonzero(rng, 1, far)


def _reflection(rng: random.Random, level: int) -> Draft:
    """The fourth corner of a parallelogram, or a mirror point, perhaps both in turn."""
    work = Work(rng, level)
    far = {1: 60, 2: 200, 3: 900}[level]
    a, m = _point(rng, far), _point(rng, far)
    names = f"$A=({a[0]},{a[1]})$ and $M=({m[0]},{m[1]})$"
    prompt = f"Let {names}. Find the point $B$ such that $M$ is the midpoint of $AB$."
    found = []
    for name, p, q in zip("xy", a, m, strict=True):
        work.say(f"{name}: 2\\cdot{par(q)}-{par(p)}")
        found.append(work.sub(work.mul(2, q), p))
    if level > 1:
        c = _point(rng, far)
        prompt = (
            f"Let {names}, and let $M$ be the midpoint of $AB$. Add $B$ and $C=({c[0]},{c[1]})$ "
            "coordinate by coordinate to get $D$. Find $D$."
        )
        work.say(f"B={pair(*found)}", "Now D.")
        found = [work.add(p, q) for p, q in zip(found, c, strict=True)]
    if level == 1:
        work.say("Check the midpoint.")
        for p, q, mid in zip(a, found, m, strict=True):
            work.div(work.add(p, q), 2)
            work.say(f"It is {mid} as given.")
    return Draft(prompt, work, pair(*found))


def _distance(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    far = {1: 20, 2: 30, 3: 50, 4: 90}[level]
    while True:
        a, b = _point(rng, far), _point(rng, far)
        n = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
        square = max(k * k for k in range(1, isqrt(n) + 1) if n % (k * k) == 0) if n else 0
        if n > 20 and 1 < square < n and (level > 2 or n < 1500) and _smooth(n):
            break
    prompt = f"Find the distance from $({a[0]},{a[1]})$ to $({b[0]},{b[1]})$ in simplest radical form."
    dx, dy = work.sub(a[0], b[0]), work.sub(a[1], b[1])
    total = work.add(work.square(dx), work.square(dy))
    work.say(f"The distance is \\sqrt{{{total}}}.")
    k, m = simplify_root(work, total)
    return Draft(prompt, work, term(k, f"\\sqrt{{{m}}}", first=True))


def _smooth(n: int) -> bool:
    """Trial division by small primes leaves a prime below 100, so factoring stays a short search."""
    for p in (2, 3, 5, 7, 11, 13):
        while n % p == 0:
            n //= p
    return n < 100


def _area(rng: random.Random, level: int) -> Draft:
    """Shoelace formula around the corners."""
    work = Work(rng, level)
    far = {1: 20, 2: 40, 3: 50, 4: 30, 5: 60}[level]
    corners = 3 if level < 4 else 4
    while True:
        points = [_point(rng, far) for _ in range(corners)]
        around = list(zip(points, points[1:] + points[:1], strict=True))
        twice = sum(p[0] * q[1] - q[0] * p[1] for p, q in around)
        turns = [
            (q[0] - p[0]) * (r[1] - q[1]) - (q[1] - p[1]) * (r[0] - q[0])
            for p, q, r in zip(points, points[1:] + points[:1], points[2:] + points[:2], strict=True)
        ]
        # All turns the same way: a convex figure, so the formula is its area.
        if abs(twice) > 60 and (all(t > 0 for t in turns) or all(t < 0 for t in turns)):
            break
    shown = ", ".join(f"$({x},{y})$" for x, y in points)
    figure = "triangle" if corners == 3 else "quadrilateral"
    prompt = f"Find the area of the {figure} with corners {shown} in order."
    base = points[0]
    if corners == 3 and rng.random() < 0.5:
        work.say(f"Take {pair(*base)} as origin.")
        (p, q), (r, s) = ((work.sub(x, base[0]), work.sub(y, base[1])) for x, y in points[1:])
        work.say(f"Sides ({p},{q}) and ({r},{s}).")
        total = difference_of_products(work, p, s, q, r)
    else:
        parts = [difference_of_products(work, a, d, b, c) for (a, b), (c, d) in around]
        total = parts[0]
        for part in parts[1:]:
            total = work.add(total, part)
    answer = Fraction(abs(total), 2)
    work.say(f"The area is {abs(total)}/2.")
    if answer.denominator == 1:
        work.div(abs(total), 2)
    return Draft(prompt, work, number(answer))


def _crossing(rng: random.Random, level: int) -> Draft:
    """Where y=ax+b meets y=cx+d, at a rational point."""
    work = Work(rng, level)
    top, far = {3: (9, 30), 4: (19, 90), 5: (45, 300)}[level]
    while True:
        a, c = nonzero(rng, 2, top), nonzero(rng, 2, top)
        b, d = nonzero(rng, 2, far), nonzero(rng, 2, far)
        if a != c and (b - d) % (a - c):
            break
    one, two = f"y={a}x{signed(b)}", f"y={c}x{signed(d)}"
    prompt = f"Where do the lines ${one}$ and ${two}$ meet? Give the point as an ordered pair in lowest terms."
    work.say(f"{a}x{signed(b)}={c}x{signed(d)}")
    slope, gap = work.sub(a, c), work.sub(d, b)
    work.say(f"{term(slope, 'x', first=True)}={gap}")
    x = reduce(work, gap, slope)
    work.say(f"x={number(x)}", f"Put x in {one}.")
    y = _line_value(work, a, x, b)
    work.say(f"y={number(y)}")
    if rng.random() < 0.5:
        work.say(f"Check {two}.")
        _line_value(work, c, x, d)
    return Draft(prompt, work, pair(x, y))


def _line_value(work: Work, a: int, x: Fraction, b: int) -> Fraction:
    q = x.denominator
    over = work.add(work.mul(a, x.numerator), work.mul(b, q))
    work.say(f"This gives \\frac{{{over}}}{{{q}}}.")
    return reduce(work, over, q)


def _circle(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    far = {2: 15, 3: 30, 4: 60, 5: 99}[level]
    h, k = _point(rng, far)
    e = nonzero(rng, 5, 20 * far)
    if h * h + k * k - e < 5:
        e = -abs(e)
    a, b = -2 * h, -2 * k
    shown = f"x^2+y^2{term(a, 'x')}{term(b, 'y')}{signed(e)}=0"
    work.say("Complete the squares.", f"{a}/2={a // 2}, {b}/2={b // 2}")
    work.say(f"The center is {pair(h, k)}.")
    first, second = work.square(h), work.square(k)
    square = work.sub(work.add(first, second), e)
    work.say(f"r^2={square}")
    if rng.random() < 0.5:
        return Draft(f"Find the square of the radius of the circle ${shown}$.", work, str(square))
    prompt = f"The circle ${shown}$ has center $(h,k)$ and radius $r$. Find $h+k+r^2$."
    total = work.add(work.add(h, k), square)
    return Draft(prompt, work, str(total))


def _foot(rng: random.Random, level: int) -> Draft:
    """The foot of the perpendicular from a point to ax+by=c."""
    work = Work(rng, level)
    top, far = {4: (5, 15), 5: (9, 30)}[level]
    a, b = rng.randint(1, top), nonzero(rng, 1, top)
    p, q = _point(rng, far)
    c = nonzero(rng, 2, 3 * far)
    if a * p + b * q == c:
        c += 1
    line = f"{term(a, 'x', first=True)}{term(b, 'y')}={c}"
    prompt = (
        f"Find the point on the line ${line}$ that is closest to $({p},{q})$. "
        "Give it as an ordered pair in lowest terms."
    )
    gap = work.sub(c, work.add(work.mul(a, p), work.mul(b, q)))
    norm = work.add(work.square(a), work.square(b))
    work.say(f"t=\\frac{{{gap}}}{{{norm}}}")
    t = reduce(work, gap, norm)
    work.say(f"t={number(t)}", f"x={p}{signed(a)}t")
    x = _line_value(work, a, t, p)
    work.say(f"x={number(x)}", f"y={q}{signed(b)}t")
    y = _line_value(work, b, t, q)
    work.say(f"y={number(y)}")
    return Draft(prompt, work, pair(x, y))
