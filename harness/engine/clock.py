"""The run's clock: real seconds, or a fake one that makes every budget test exact.

``now`` is seconds since the clock's zero, not counting what happened while it was paused. ``tick``
reports work done: a real clock ignores it, a fake one moves by the work's price.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, Protocol

Work = Literal["prefill", "step"]


class Clock(Protocol):
    real: bool

    @property
    def running(self) -> bool: ...

    def start(self, at: float = 0.0) -> None:
        """Run from ``at`` seconds on."""

    def pause(self) -> None:
        """Stand still until the next ``start``."""

    def now(self) -> float: ...

    def tick(self, work: Work, amount: int) -> None: ...


class RealClock:
    """Monotonic seconds."""

    real = True

    def __init__(self) -> None:
        self._zero: float | None = None
        self._held = 0.0

    @property
    def running(self) -> bool:
        return self._zero is not None

    def start(self, at: float = 0.0) -> None:
        self._zero = time.monotonic() - at

    def pause(self) -> None:
        self._held, self._zero = self.now(), None

    def now(self) -> float:
        zero = self._zero  # read once: the heartbeat's thread asks too
        return self._held if zero is None else time.monotonic() - zero

    def tick(self, work: Work, amount: int) -> None:
        pass


class FakeClock:
    """Moves by ``price[work] * amount`` at each tick: prompt tokens prefilled, rows stepped once."""

    real = False
    DEFAULT_PRICE: Mapping[str, float] = {"prefill": 1e-4, "step": 1e-3}

    def __init__(self, price: Mapping[str, float] | None = None) -> None:
        self.price = dict(self.DEFAULT_PRICE if price is None else price)
        self._now = 0.0
        self.running = False

    def start(self, at: float = 0.0) -> None:
        self._now, self.running = at, True

    def pause(self) -> None:
        self.running = False

    def now(self) -> float:
        return self._now

    def tick(self, work: Work, amount: int) -> None:
        if self.running:
            self._now += self.price[work] * amount
