"""The choices a grader of mathematics cannot avoid, in one frozen record.

Each field says what happens by default and what the other value means. The defaults follow the
reference answers of MATH, which drop units freely and never mean two things by one number.
What is not listed here is not a choice: equality is exact, so ``0.333`` never equals ``1/3``.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """How surface forms are read; a verdict depends on the answer, its gold and this record only.

    strip_units: ``10 cm`` and ``\\text{5.4 cents}`` count as ``10`` and ``5.4``. The unit itself is not
        compared, so ``12 cm`` equals ``12 m``. False leaves them as text.
    strip_percent: ``50\\%`` counts as ``50``, not as ``1/2`` (a reference answer in percent is
        written either way, never as the fraction). False makes a percentage text.
    strip_currency: ``\\$18.90`` counts as ``18.90``. False leaves it as text.
    strip_degrees: ``90^\\circ`` counts as ``90``. False leaves it as text.
    thousands_commas: ``1,000`` (groups of three digits, no space, outside brackets) is one number.
        False makes it the list 1, 0. ``1{,}000`` and ``1,\\!000`` are one number either way.
    value_after_choice: ``(C) 2\\sqrt{3}`` is graded by its value. False leaves it as text.
    drop_assignment: ``x = 5`` counts as ``5`` and ``x \\in [0, 1]`` as ``[0, 1]``, whatever the variable is
        called; and ``2x+3`` is accepted where the reference says ``y = 2x+3``, or the other way round.
    """

    strip_units: bool = True
    strip_percent: bool = True
    strip_currency: bool = True
    strip_degrees: bool = True
    thousands_commas: bool = True
    value_after_choice: bool = True
    drop_assignment: bool = True


DEFAULT_POLICY = Policy()
