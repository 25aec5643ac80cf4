"""The choices a grader of mathematics cannot avoid, in one frozen record.

Each field says what happens by default and what the other value means. The defaults follow the
reference answers of MATH, which drop units freely and never mean two things by one number.
What is not listed here is not a choice: classes are exact, so ``0.333`` and ``1/3`` never vote together.
"""

from __future__ import annotations

import dataclasses

from harness.records import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """How surface forms are read; a verdict depends on the answer, its gold and this record only.

    Fields that decide how one answer is read, and so its class:

    missing_units: ``10 cm`` and ``\\text{5.4 cents}`` are read as ``10`` and ``5.4``. Two known units of one kind
        are still compared where both are written (``12 cm`` is not ``12 m``, but is ``0.12 m``). False leaves
        units as text.
    missing_percent: ``50\\%`` is read as ``50``, the way reference answers in percent are written. False makes a
        percentage text.
    missing_currency: ``\\$18.90`` is read as ``18.90``. False leaves it as text.
    missing_degrees: ``90^\\circ`` is read as ``90``; in ``\\sin 30^\\circ`` degrees are always degrees. False leaves
        the rest as text.
    thousands_commas: ``1,000`` (groups of three digits, no space, outside brackets) is one number.
        False makes it the list 1, 0. ``1{,}000`` and ``1,\\!000`` are one number either way.
    value_after_choice: ``(C) 2\\sqrt{3}`` and ``c. 3`` are graded by their value. False leaves them as text.
    drop_assignment: ``x = 5`` is read as ``5`` and ``x \\in [0, 1]`` as ``[0, 1]``, whatever the variable is
        called; ``x = 1, y = 2`` as ``(1, 2)``, by the order of the names; and ``2x+3`` is accepted where the
        reference says ``y = 2x+3``, or the other way round.
    unordered_lists: ``4, 10, -2`` without brackets has no order and is the set of its items. False keeps the order.

    Fields that only make ``matches`` more tolerant; classes never depend on them:

    percent_as_fraction: where one side alone has a percent sign, ``33.5\\%`` also matches ``0.335``. False leaves
        only ``33.5``.
    rounded_digits: a decimal written with at least this many significant digits, and no more than the 17 a double
        prints, matches a value that is no terminating decimal where both round to the same at this many digits, or
        where the value rounds to the decimal as written. 12 admits ``0.0833333333333333`` for ``1/12`` and not
        ``0.08333333``. 0 switches it off; fewer than 4 would be no check.
    ratio_as_quotient: ``7:32`` matches ``7/32``. False keeps them apart.
    natural_log: ``\\log x`` without a base, read as base 10, also matches where both sides agree once it is read
        as ``\\ln x``. False leaves base 10 alone.
    """

    missing_units: bool = True
    missing_percent: bool = True
    missing_currency: bool = True
    missing_degrees: bool = True
    thousands_commas: bool = True
    value_after_choice: bool = True
    drop_assignment: bool = True
    unordered_lists: bool = True
    percent_as_fraction: bool = True
    rounded_digits: int = 12
    ratio_as_quotient: bool = True
    natural_log: bool = True

    def __post_init__(self) -> None:
        if self.rounded_digits != 0 and not 4 <= self.rounded_digits <= 100:
            raise InputError(f"rounded_digits = {self.rounded_digits!r}: must be 0 (off) or from 4 to 100")


DEFAULT_POLICY = Policy()
