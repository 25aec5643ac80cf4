"""The working of one solution: arithmetic written out so that every line is a local step.

Sums and differences over two digits go column by column, products by partial products, quotients
digit by digit. ``LEAP`` is the chance, by level, that an operation one size above the safe one is
done in a single line instead: the one knob that makes high levels hard for a reason that is random,
not systematic. Every operation is logged in ``done`` so that ``checks`` can verify it later.
"""

from __future__ import annotations

import random

from .latex import par, signed

LEAP = {1: 0.0, 2: 0.02, 3: 0.08, 4: 0.2, 5: 0.4}


class Work:
    def __init__(self, rng: random.Random, level: int, leaps: bool = True) -> None:
        self.rng = rng
        self.level = level
        self.lines: list[str] = []
        self.done: list[tuple[str, int, int, int]] = []
        self._chance = LEAP[level] if leaps else 0.0

    def say(self, *lines: str) -> None:
        self.lines.extend(lines)

    def add(self, a: int, b: int) -> int:
        c = a + b
        if a >= 0 and b >= 0:
            return self._plus(a, b)
        if max(abs(a), abs(b)) < 100:
            self._note("+" if a > 0 else "", a, b, c)
            self.say(f"{a}{signed(b)}={c}")
            return c
        if a < 0 and b < 0:
            self._plus(-a, -b)
        elif abs(a) >= abs(b):
            self._minus(abs(a), abs(b))
        else:
            self._minus(abs(b), abs(a))
        if a < 0 or c < 0:
            self.say(f"{a}{signed(b)}={c}")
        return c

    def sub(self, a: int, b: int) -> int:
        if b < 0:
            self.say(f"{a}-({b})={a}+{-b}")
        return self.add(a, -b)

    def mul(self, a: int, b: int) -> int:
        if a >= 0 and b >= 0:
            return self._times(a, b)
        if not _small_product(abs(a), abs(b)):
            self._times(abs(a), abs(b))
        self.say(f"{a}\\cdot{par(b)}={a * b}")
        return a * b

    def square(self, a: int) -> int:
        c = self.mul(abs(a), abs(a))
        self.say(f"{par(a)}^2={c}")
        return c

    def div(self, a: int, b: int) -> int:
        """An exact quotient."""
        if a % b:
            raise ArithmeticError(f"{a}/{b} is not exact")
        if a >= 0 and b > 0:
            return self.divmod(a, b)[0]
        if abs(b) > 1 and abs(a) >= 100:
            self.divmod(abs(a), abs(b))
        self.say(f"{a}/{par(b)}={a // b}")
        return a // b

    def divmod(self, a: int, b: int) -> tuple[int, int]:
        """Quotient and remainder of non-negative integers."""
        q, r = divmod(a, b)
        self._note("/", a, b, q if r == 0 else -1)
        short = b == 1 or a < b or (a < 100 and b < 10) or (a < 10 * b and b < 100)
        if short or (a < 1000 and b < 100 and self._leap()):
            self.say(f"{a}/{b}={q}" if r == 0 else f"{a}={b}\\cdot{q}+{r}")
            return q, r
        steps: list[str] = []
        rest = 0
        for i, digit in enumerate(str(a)):
            rest = 10 * rest + int(digit)
            if rest < b and not steps and i < len(str(a)) - 1:
                continue
            d = rest // b
            if b < 10:
                steps.append(f"{rest}={b}\\cdot{d}+{rest - b * d}")
            else:
                if b >= 100 and d > 1:
                    self._times(b, d)
                steps.append(f"{rest}-{b}\\cdot{d}={rest}-{b * d}={rest - b * d}")
            rest -= b * d
        self.say(f"{a}/{b}: " + " ".join(steps) + f" so {q}" + (f" r {r}" if r else ""))
        return q, r

    def _plus(self, a: int, b: int) -> int:
        c = a + b
        self._note("+", a, b, c)
        carryless = min(a, b) < 10 and a % 10 + b % 10 < 10
        if max(a, b) < 100 or carryless or (max(a, b) < 10000 and self._leap()):
            self.say(f"{a}+{b}={c}")
            return c
        steps, carry, x, y = [], 0, a, b
        while x or y:
            total = x % 10 + y % 10 + carry
            steps.append(f"{x % 10}+{y % 10}" + ("+1" if carry else "") + f"={total}")
            carry, x, y = total // 10, x // 10, y // 10
        self.say(f"{a}+{b}: " + " ".join(steps) + f" so {c}")
        return c

    def _minus(self, a: int, b: int) -> int:
        c = a - b
        self._note("-", a, b, c)
        carryless = b < 10 and a % 10 >= b
        if a < 100 or carryless or (a < 10000 and self._leap()):
            self.say(f"{a}-{b}={c}")
            return c
        steps, borrow, x, y = [], 0, a, b
        while x:
            top = x % 10 - borrow
            borrow = int(top < y % 10)
            top += 10 * borrow
            steps.append(f"{top}-{y % 10}={top - y % 10}")
            x, y = x // 10, y // 10
        self.say(f"{a}-{b}: " + " ".join(steps) + f" so {c}")
        return c

    def _times(self, a: int, b: int) -> int:
        c, big, small = a * b, max(a, b), min(a, b)
        self._note("*", a, b, c)
        leap = (big < 100 or (big < 1000 and small < 10)) and self._leap()
        if _small_product(a, b) or leap:
            self.say(f"{a}\\cdot{b}={c}")
        elif small < 10:
            steps, carry, x = [], 0, big
            while x:
                total = x % 10 * small + carry
                steps.append(f"{x % 10}\\cdot{small}" + (f"+{carry}" if carry else "") + f"={total}")
                carry, x = total // 10, x // 10
            self.say(f"{a}\\cdot{b}: " + " ".join(steps) + f" so {c}")
        else:
            parts = [int(d) * 10**i for i, d in enumerate(reversed(str(small))) if d != "0"]
            if self.rng.random() < 0.5:
                parts.reverse()
            if len(parts) > 1:
                self.say(f"{a}\\cdot{b}=" + "+".join(f"{big}\\cdot{p}" for p in parts))
            values = []
            for p in parts:
                digit = int(str(p)[0])
                self._times(big, digit)
                if p != digit:
                    self.say(f"{big}\\cdot{p}={big * p}")
                values.append(big * p)
            total = values[0]
            for value in values[1:]:
                total = self._plus(total, value)
            if len(parts) > 1 or a < b:
                self.say(f"{a}\\cdot{b}={c}")
        return c

    def _leap(self) -> bool:
        return self.rng.random() < self._chance

    def _note(self, op: str, a: int, b: int, c: int) -> None:
        if op and max(a, b, c) >= 10 and min(a, b) > 1 and c >= 0:
            self.done.append((op, a, b, c))


def _small_product(a: int, b: int) -> bool:
    return (max(a, b) < 100 and min(a, b) < 10) or min(a, b) < 2 or a in (10, 100) or b in (10, 100)
