"""Exact sums of terms without sympy: rational x square root x power of i x powers of names.

A value has one representation here (radicands are squarefree, i is to the power 0 or 1, no coefficient is zero),
so equal dictionaries are equal values and ``terms_string`` is a class. It imports no sympy: the parent
process computes with it. Whatever does not fit raises ``TooComplex``, and the sympy path decides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from harness.grading.limits import MAX_GENERATORS, MAX_NUMBER_DIGITS

MAX_RADICAND = 10**6
"""Below it trial division is instant and sympy's own factoring of radicals is complete."""
MAX_TERMS = 60
MAX_BITS = 3 * MAX_NUMBER_DIGITS
"""Bits of a coefficient. Python refuses to print integers of more than 4300 digits; the worker may."""
MAX_NAMES = MAX_GENERATORS // 2
"""Far from where sympy, for which roots count as well, gives up: both paths then give one class."""
MAX_POWER = 2_000

Powers = tuple[tuple[str, int], ...]
Key = tuple[int, int, Powers]
"""(squarefree radicand, power of i, names with their exponents in order of name); pi is a name."""
Terms = dict[Key, Fraction]


class TooComplex(Exception):
    """The value is no short sum of such terms."""


def rational(value: Fraction) -> Terms:
    return {(1, 0, ()): value} if value else {}


def name(text: str) -> Terms:
    return {(1, 0, ((text, 1),)): Fraction(1)}


def imaginary() -> Terms:
    return {(1, 1, ()): Fraction(1)}


def root(value: Fraction) -> Terms:
    """The square root of a rational that is not negative."""
    if value < 0:
        raise TooComplex
    outside, inside = square_part(value.numerator * value.denominator)
    return {(inside, 0, ()): Fraction(outside, value.denominator)} if value else {}


def square_part(n: int) -> tuple[int, int]:
    """(a, b) with n = a*a*b and b squarefree."""
    if n > MAX_RADICAND:
        raise TooComplex
    outside, divisor = 1, 2
    while divisor * divisor <= n:
        while n % (divisor * divisor) == 0:
            n //= divisor * divisor
            outside *= divisor
        divisor += 1
    return outside, n


def add(one: Terms, other: Terms) -> Terms:
    total = dict(one)
    for key, value in other.items():
        total[key] = total.get(key, Fraction(0)) + value
    return checked({key: value for key, value in total.items() if value})


def scaled(one: Terms, factor: Fraction) -> Terms:
    return checked({key: value * factor for key, value in one.items()}) if factor else {}


def multiply(one: Terms, other: Terms) -> Terms:
    if len(one) * len(other) > 4 * MAX_TERMS:
        raise TooComplex
    total: Terms = {}
    for (radicand, i, powers), value in one.items():
        for (other_radicand, other_i, other_powers), other_value in other.items():
            outside, inside = square_part(radicand * other_radicand) if radicand > 1 or other_radicand > 1 else (1, 1)
            sign = -1 if i and other_i else 1
            key = (inside, i ^ other_i, _joined(powers, other_powers))
            total[key] = total.get(key, Fraction(0)) + sign * outside * value * other_value
    return checked({key: value for key, value in total.items() if value})


def power(base: Terms, exponent: int) -> Terms:
    """``base`` to a whole power; to a negative one only where ``divide`` can."""
    if exponent < 0:
        base, exponent = divide(rational(Fraction(1)), base), -exponent
    if not base and exponent == 0:
        raise TooComplex
    bits = max((value.numerator.bit_length() + value.denominator.bit_length() for value in base.values()), default=0)
    if exponent > MAX_POWER or bits * exponent > 2 * MAX_BITS or (len(base) > 1 and exponent > 20):
        raise TooComplex
    result = rational(Fraction(1))
    for _ in range(exponent):
        result = multiply(result, base)
    return result


def divide(one: Terms, other: Terms) -> Terms:
    """By one term without names; other quotients are left to sympy."""
    if len(other) != 1:
        raise TooComplex
    ((radicand, i, powers), value), *_ = other.items()
    if powers:
        raise TooComplex
    inverse: Terms = {(radicand, i, ()): (-1 if i else 1) / (value * radicand)}
    return multiply(one, inverse)


def equation_string(difference: Terms) -> str:
    """The class of ``difference = 0``: coprime whole coefficients, the leading one positive."""
    if not difference:
        return "eq:0"
    content = Fraction(
        math.gcd(*(value.numerator for value in difference.values())),
        math.lcm(*(value.denominator for value in difference.values())),
    )
    sign = 1 if difference[min(difference, key=_order)] > 0 else -1
    return "eq:" + terms_string(scaled(difference, sign / content))


def right_sides(difference: Terms) -> list[Terms]:
    """What ``difference = 0`` says each name is, for those in one term alone, where there is more than one name."""
    found = []
    uses = Counter(text for _, _, powers in difference for text, _ in powers)
    for text in sorted(uses) if len(uses) > 1 else ():
        slope = difference.get((1, 0, ((text, 1),)))
        if slope is not None and uses[text] == 1:
            rest = {key: value for key, value in difference.items() if key[2] != ((text, 1),)}
            found.append(scaled(rest, -1 / slope))
    return found


def polynomial(terms: Terms) -> Terms:
    """``terms``, where every coefficient is rational and pi is not in it."""
    for radicand, i, powers in terms:
        if radicand != 1 or i or any(text == "pi" for text, _ in powers):
            raise TooComplex
    return terms


def terms_string(terms: Mapping[Key, Fraction]) -> str:
    """The class string of a value, leading terms first: ``2*x+3``, ``1/3*sqrt(3)``, ``5-6*i``."""
    if not terms:
        return "0"
    return "".join(_term_string(key, terms[key]) for key in sorted(terms, key=_order)).removeprefix("+")


def fraction_string(value: Fraction) -> str:
    """In decimal, and beyond ``MAX_BITS`` in hexadecimal: Python refuses to print such integers otherwise."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        return f"{value.numerator:#x}/{value.denominator:#x}"
    return f"{value.numerator}" if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def _order(key: Key) -> tuple[int, Powers, int, int]:
    return -sum(exponent for _, exponent in key[2]), key[2], key[1], key[0]


def _term_string(key: Key, value: Fraction) -> str:
    radicand, i, powers = key
    factors = [f"sqrt({radicand})"] if radicand > 1 else []
    factors += ["i"] if i else []
    factors += [text if exponent == 1 else f"{text}^{exponent}" for text, exponent in powers]
    sign = "-" if value < 0 else "+"
    if abs(value) != 1 or not factors:
        factors.insert(0, fraction_string(abs(value)))
    return sign + "*".join(factors)


def _joined(one: Powers, other: Powers) -> Powers:
    if not one or not other:
        return one or other
    total = dict(one)
    for text, exponent in other:
        total[text] = total.get(text, 0) + exponent
    return tuple(sorted(total.items()))


def checked(terms: Terms) -> Terms:
    """``terms``, within the limits above."""
    if len(terms) > MAX_TERMS or len({text for _, _, powers in terms for text, _ in powers}) > MAX_NAMES:
        raise TooComplex
    for value in terms.values():
        if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
            raise TooComplex
    return terms
