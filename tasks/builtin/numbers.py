"""Family ``numbers``: least common multiples, large gcds, powers modulo m, divisor sums, bases, congruences.

Answers are integers, mostly of three digits or more.
"""

from __future__ import annotations

import random
from math import gcd as _gcd

from .item import Draft
from .steps import draw, factor, gcd
from .work import Work


def numbers(rng: random.Random, level: int) -> Draft:
    kinds = (
        (range(1, 6), _lcm),
        (range(2, 6), _power),
        (range(1, 6), _divisor_sum),
        (range(1, 6), _base),
        (range(2, 6), _congruence),
    )
    return draw(kinds, rng, level)


def _lcm(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    low, high = {1: (20, 160), 2: (40, 320), 3: (80, 600), 4: (100, 1500), 5: (300, 4000)}[level]
    while True:
        g = rng.randint(2, 15 if level < 4 else 60)
        a, b = (g * rng.randint(2, high // g) for _ in range(2))
        if low <= a < b and b % a and a * b // _gcd(a, b) > 99:
            break
    both = rng.random() < 0.3
    what = "sum of the gcd and the least common multiple" if both else "least common multiple"
    prompt = f"Find the {what} of ${a}$ and ${b}$."
    g = gcd(work, a, b)
    quotient = work.div(a, g)
    value = work.mul(b, quotient)
    work.say(f"The lcm is {value}.")
    if both:
        value = work.add(value, g)
    return Draft(prompt, work, str(value))


def _power(rng: random.Random, level: int) -> Draft:
    """Square and multiply."""
    work = Work(rng, level)
    m = rng.randint(*{2: (60, 199), 3: (101, 199), 4: (101, 299), 5: (101, 499)}[level])
    n = rng.randint(*{2: (4, 7), 3: (6, 11), 4: (8, 15), 5: (10, 20)}[level])
    a = rng.randint(2, 19)
    ask = rng.choice(("Find the remainder when {} is divided by {}.", "What is the remainder of {} divided by {}?"))
    prompt = ask.format(f"${a}^{{{n}}}$", f"${m}$")
    bits = bin(n)[2:]
    value, power = a % m, 1
    work.say(f"Work mod {m}.", f"{a}^1 gives {value}")

    def settle(product: int) -> int:
        return product if product < m else work.divmod(product, m)[1]

    for bit in bits[1:]:
        value, power = settle(work.mul(value, value)), 2 * power
        work.say(f"{a}^{{{power}}} gives {value}")
        if bit == "1":
            value, power = settle(work.mul(value, a)), power + 1
            work.say(f"{a}^{{{power}}} gives {value}")
    return Draft(prompt, work, str(value))


def _divisor_sum(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    low, high = {1: (60, 400), 2: (200, 999), 3: (500, 2500), 4: (1000, 5000), 5: (2000, 9999)}[level]
    while True:
        n = rng.randint(low, high)
        rest, largest = n, 1
        for p in (2, 3, 5, 7, 11, 13):
            while rest % p == 0:
                rest //= p
                largest = p
        # A smooth number keeps trial division short; one larger prime may stay.
        if rest in (1, 17, 19, 23, 29, 31, 37, 41, 43, 47) and n != rest and n != largest:
            break
    proper = rng.random() < 0.4
    which = f"divisors of ${n}$ that are less than ${n}$" if proper else f"divisors of ${n}$"
    prompt = rng.choice(("Find the sum of all positive {}.", "What is the sum of the positive {}?")).format(which)
    total = 1
    for p, e in factor(work, n).items():
        part, power = 1 + p, p
        steps = f"1+{p}"
        for _ in range(e - 1):
            power *= p
            part += power
            steps += f"+{power}"
        work.say(f"{steps}={part}")
        total = part if total == 1 else work.mul(total, part)
    if proper:
        total = work.sub(total, n)
    return Draft(prompt, work, str(total))


def _base(rng: random.Random, level: int) -> Draft:
    work = Work(rng, level)
    base = rng.randint(4, 9)
    more = {1: 3, 2: 3, 3: 4, 4: 5, 5: 6}[level]
    digits = [rng.randint(1, base - 1), *(rng.randrange(base) for _ in range(more))]
    shown = f"${''.join(map(str, digits))}_{base}$"
    prompt = rng.choice(("Write {} in base ten.", "Convert {} to base ten.")).format(shown)
    if rng.random() < 0.6:
        work.say(f"Go from the left with base {base}.")
        value = digits[0]
        for d in digits[1:]:
            value = work.add(work.mul(value, base), d)
        return Draft(prompt, work, str(value))
    work.say(f"Powers of {base}:")
    powers = [1]
    for _ in digits[1:]:
        powers.append(work.mul(powers[-1], base))
    work.say("Now the digits.")
    value = 0
    for d, p in zip(digits, reversed(powers), strict=True):
        if d:
            part = work.mul(d, p)
            value = work.add(value, part) if value else part
    return Draft(prompt, work, str(value))


def _congruence(rng: random.Random, level: int) -> Draft:
    """Least x above a bound with two given remainders, found by walking one progression."""
    work = Work(rng, level)
    low, high, walk = {2: (5, 12, 5), 3: (7, 19, 7), 4: (11, 35, 9), 5: (17, 60, 11)}[level]
    while True:
        p, q = sorted(rng.sample(range(low, high), 2))
        if _gcd(p, q) > 1:
            continue
        start = rng.randint(60, 200) if level < 4 else rng.randint(200, 900)
        a, b = rng.randrange(1, p), rng.randrange(1, q)
        first = start + (b - start) % q
        steps = next(k for k in range(p) if (first + k * q) % p == a)
        if first > start and 1 < steps <= walk:
            break
    prompt = (
        f"Find the least integer $n>{start}$ that leaves remainder ${a}$ when divided by ${p}$ "
        f"and remainder ${b}$ when divided by ${q}$."
    )
    rest = work.divmod(first, q)[1]
    work.say(f"First n above {start} with remainder {rest} mod {q} is {first}.")
    work.say(f"Go up by {q} until mod {p} gives {a}.")
    n = first
    for k in range(steps + 1):
        if k:
            n = work.add(n, q)
        work.say(f"{n}={p}\\cdot{n // p}+{n % p}")
    return Draft(prompt, work, str(n))
