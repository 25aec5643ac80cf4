"""Family ``linear``: one unknown, brackets, two-sided inequalities, two unknowns.

Answers are integers, fractions in lowest terms, intervals and ordered pairs. Systems are solved by
elimination or by determinants, drawn at random; every solution is put back into the problem.
"""

from __future__ import annotations

import random
from fractions import Fraction

from .item import Draft
from .latex import number, pair, par, poly, signed, term
from .steps import difference_of_products, draw, linear_value, nonzero, reduce
from .work import Work


def linear(rng: random.Random, level: int) -> Draft:
    kinds = (
        (range(1, 4), _equation),
        (range(2, 6), _brackets),
        (range(1, 6), _interval),
        (range(3, 6), _system),
    )
    return draw(kinds, rng, level)


def _equation(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    x = nonzero(rng, 21, 99 if level == 1 else 299)
    c = 0 if level == 1 else rng.randint(2, 9 if level == 2 else 30)
    a, b = c + rng.randint(3, 9 if level < 3 else 19), nonzero(rng, 11, 99 if level < 3 else 499)
    d = a * x + b - c * x
    left, right = poly([a, b]), poly([c, d])
    prompt = rng.choice(("Solve ${}={}$ for $x$.", "Find $x$ if ${}={}$.")).format(left, right)
    if c:
        work.say(f"{left}={right}", f"{a}-{c}={a - c}, so {poly([a - c, b])}={d}")
    e = work.sub(d, b)
    work.say(f"{a - c}x={e}")
    work.div(e, a - c)
    work.say(f"x={x}", "Put x back.")
    value = linear_value(work, a, x, b)
    if c:
        linear_value(work, c, x, d)
        work.say(f"Both sides are {value}.")
    return Draft(prompt, work, str(x))


def _brackets(rng: random.Random, level: int) -> Draft:
    """a(x+b)+c(x+d)=e, with a rational solution from level 3 on."""
    work = Work(rng, level)
    top = {2: 9, 3: 12, 4: 30, 5: 60}[level]
    while True:
        a, c = rng.randint(2, top), nonzero(rng, 2, top)
        b, d = nonzero(rng, 2, 10 * level), nonzero(rng, 2, 10 * level)
        if a + c == 0:
            continue
        x = nonzero(rng, 21, 199)
        e = a * (x + b) + c * (x + d) if level == 2 else nonzero(rng, 20, 600)
        value = Fraction(e - a * b - c * d, a + c)
        if level == 2 or value.denominator > 1:
            break
    shown = f"{a}(x{signed(b)}){term(c, f'(x{signed(d)})')}={e}"
    prompt = f"Solve ${shown}$ for $x$."
    if level > 2:
        prompt += " Give the answer as a fraction in lowest terms."
    p, q = work.mul(a, b), work.mul(c, d)
    work.say(f"{poly([a, p])}{term(c, 'x')}{signed(q)}={e}")
    s, t = work.add(a, c), work.add(p, q)
    work.say(f"{poly([s, t])}={e}")
    f = work.sub(e, t)
    work.say(f"{term(s, 'x', first=True)}={f}")
    if level == 2:
        work.div(f, s)
        work.say(f"x={x}", "Put x back.")
        work.add(work.mul(a, x + b), work.mul(c, x + d))
        return Draft(prompt, work, str(x))
    work.say(f"x=\\frac{{{f}}}{{{s}}}")
    value = reduce(work, f, s)
    work.say(f"x={number(value)}")
    return Draft(prompt, work, number(value))


def _interval(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    top = {1: 9, 2: 12, 3: 19, 4: 40, 5: 90}[level]
    far = {1: 60, 2: 99, 3: 300, 4: 600, 5: 999}[level]
    a = rng.randint(3, top) * (rng.choice((1, -1)) if level > 2 else 1)
    b = nonzero(rng, 2, far)
    low = nonzero(rng, 5, far)
    high = low + rng.randint(abs(a) + 1, far)
    first, second = rng.choice((("\\le", "<"), ("<", "\\le"), ("\\le", "\\le"), ("<", "<")))
    middle = poly([a, b])
    prompt = f"Solve ${low} {first} {middle} {second} {high}$ for $x$. Give the answer as an interval."
    l1, h1 = work.sub(low, b), work.sub(high, b)
    work.say(f"{l1} {first} {term(a, 'x', first=True)} {second} {h1}")
    if a < 0:
        # Dividing by a negative number turns both signs round.
        l1, h1, first, second = -h1, -l1, second, first
        work.say(f"Change signs: {l1} {first} {term(-a, 'x', first=True)} {second} {h1}")
    work.say(f"Left end \\frac{{{l1}}}{{{abs(a)}}}")
    left = reduce(work, l1, abs(a))
    work.say(f"It is {number(left)}.", f"Right end \\frac{{{h1}}}{{{abs(a)}}}")
    right = reduce(work, h1, abs(a))
    work.say(f"It is {number(right)}.", f"{number(left)} {first} x {second} {number(right)}")
    answer = f"{'[' if first != '<' else '('}{number(left)},{number(right)}{']' if second != '<' else ')'}"
    return Draft(prompt, work, answer)


def _system(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    top, far = {3: (6, 20), 4: (12, 40), 5: (25, 70)}[level]
    while True:
        a, b, c, d = rng.randint(2, top), nonzero(rng, 2, top), rng.randint(2, top), nonzero(rng, 2, top)
        if a * d != b * c:
            break
    x, y = nonzero(rng, 2, far), nonzero(rng, 2, far)
    e, f = a * x + b * y, c * x + d * y
    one, two = f"{a}x{term(b, 'y')}={e}", f"{c}x{term(d, 'y')}={f}"
    ask = rng.choice(("Solve the system ${}$ and ${}$.", "Find $x$ and $y$ if ${}$ and ${}$."))
    prompt = ask.format(one, two) + " Give the answer as an ordered pair $(x,y)$."
    if rng.random() < 0.5:
        work.say("Determinants.")
        base = difference_of_products(work, a, d, b, c)
        work.say(f"D={base}")
        over = difference_of_products(work, e, d, b, f)
        work.say(f"x={over}/{par(base)}")
        work.div(over, base)
    else:
        work.say(f"Multiply the first by {d} and the second by {b}.")
        g, h = work.mul(a, d), work.mul(e, d)
        work.say(f"{g}x{term(b * d, 'y')}={h}")
        m, n = work.mul(c, b), work.mul(f, b)
        work.say(f"{m}x{term(b * d, 'y')}={n}", "Subtract.")
        s, t = work.sub(g, m), work.sub(h, n)
        work.say(f"{s}x={t}")
        work.div(t, s)
    work.say(f"x={x}", f"Put x in {one}.")
    g = work.mul(a, x)
    work.say(f"{g}{term(b, 'y')}={e}")
    h = work.sub(e, g)
    work.say(f"{term(b, 'y', first=True)}={h}")
    work.div(h, b)
    work.say(f"y={y}", f"Check {two}.")
    work.add(work.mul(c, x), work.mul(d, y))
    return Draft(prompt, work, pair(x, y))
