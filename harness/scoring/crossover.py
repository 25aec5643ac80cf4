"""Student against teacher over time: when it gets ahead for good, by what factor it is sooner, and how sure that is.

All times are seconds on the run's clock and lie on the grid given; on ``clock.event_grid`` they are
exact where it holds every event. A time never reached is +inf and stays in the quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.records import InputError
from harness.scoring.intervals import Band, Resampler, mean_over_problems, simultaneous_band
from harness.scoring.table import FloatArray

Outcome = Literal["ahead", "crosses", "falls back", "never", "undecided"]

JUDGED_FROM = 0.05
LEAST_PROBLEMS = 10
SHARES = tuple(s / 10 for s in range(1, 10))
QUANTILES = (0.025, 0.5, 0.975)
# Means of shares such as 1/3 are not exact; anything nearer to 0 than this is a tie.
EPSILON = 1e-9


@dataclass(frozen=True, eq=False)
class Comparison:
    """One student against the teacher in one metric, on ``grid_s`` (G,).

    ``band`` covers the grid from ``t0_s`` on (G' points). ``crossover_quantiles_s`` are the 2.5, 50
    and 97.5 % quantiles over draws. ``speedup`` (9,) is S(q) at q = ``SHARES`` of the teacher's final
    value, NaN where the teacher ended at 0, 0 where the student never got there.
    """

    student: str
    teacher: str
    grid_s: FloatArray
    student_curve: FloatArray
    teacher_curve: FloatArray
    t0_s: float
    band: Band
    outcome: Outcome
    crossover_s: float
    crossover_quantiles_s: tuple[float, ...]
    p_crossed: float
    speedup: FloatArray
    speedup_low: FloatArray
    speedup_high: FloatArray

    @property
    def judged_s(self) -> FloatArray:
        """(G',) the part of the grid that the band covers."""
        return self.grid_s[self.grid_s >= self.t0_s]


def compare(
    student: FloatArray,
    teacher: FloatArray,
    grid_s: FloatArray,
    resampler: Resampler,
    names: tuple[str, str] = ("student", "teacher"),
) -> Comparison:
    """Compare per-problem values (P, G), or (R, P, G) with timing runs, whose grid ends at the deadline T.

    ``t0`` is the first t with max(Q) >= 5 %, taken anew in each draw; ``t_x`` as ``crossover_times``
    says; the outcome as ``outcome_of`` says, from the simultaneous band over [t0, T].
    """
    n_problems = student.shape[-2]
    if teacher.shape[-2:] != student.shape[-2:] or student.shape[-1] != len(grid_s):
        raise InputError(f"student {student.shape}, teacher {teacher.shape}: need the same problems on the same grid")
    q_student, q_teacher = mean_over_problems(student), mean_over_problems(teacher)
    draws_student = resampler.means(student, names[0])
    draws_teacher = resampler.means(teacher, names[1])
    difference, draws = q_student - q_teacher, draws_student - draws_teacher
    t0_index = int(_first_index(np.maximum(q_student, q_teacher), JUDGED_FROM))
    band = simultaneous_band(difference[t0_index:], draws[:, t0_index:])
    crossed = crossover_times(draws_student, draws_teacher, grid_s)
    speedup = speedups(q_student, q_teacher, grid_s)
    drawn_speedup = speedups(draws_student, draws_teacher, grid_s)
    return Comparison(
        student=names[0],
        teacher=names[1],
        grid_s=grid_s,
        student_curve=q_student,
        teacher_curve=q_teacher,
        t0_s=float(_at(grid_s, t0_index)),
        band=band,
        outcome=outcome_of(band, n_problems),
        crossover_s=float(crossover_times(q_student, q_teacher, grid_s)),
        crossover_quantiles_s=tuple(float(q) for q in np.quantile(crossed, QUANTILES, method="inverted_cdf")),
        p_crossed=float(np.isfinite(crossed).mean()),
        speedup=speedup,
        speedup_low=_defined_quantile(drawn_speedup, QUANTILES[0]),
        speedup_high=_defined_quantile(drawn_speedup, QUANTILES[-1]),
    )


def outcome_of(band: Band, n_problems: int) -> Outcome:
    """The verdict, read off a simultaneous band over [t0, T].

    The student is *proven ahead* at t where the band lies wholly above 0 and *proven behind* where
    it lies wholly below. What was proven last must still hold as the point estimate at the deadline
    T (ahead: D(T) > 0, behind: D(T) <= 0), otherwise ``undecided``. If it does,

    - ``ahead``: proven ahead somewhere, proven behind nowhere;
    - ``never``: proven behind somewhere, proven ahead nowhere;
    - ``crosses``: both, and the last proven t is ahead;
    - ``falls back``: both, and the last proven t is behind.

    Also ``undecided``: nothing proven anywhere, max(Q) never at 5 %, or fewer than 10 problems (a
    bootstrap of a few problems that agree has no width and would prove anything). ``ahead`` and
    ``crosses`` thus imply a finite crossover; where the proof starts and ends is ``proven_span``.
    """
    ahead, behind = np.flatnonzero(band.low > EPSILON), np.flatnonzero(band.high < -EPSILON)
    if n_problems < LEAST_PROBLEMS or len(ahead) + len(behind) == 0:
        return "undecided"
    ahead_last = len(behind) == 0 or (len(ahead) > 0 and ahead[-1] > behind[-1])
    if ahead_last != bool(band.difference[-1] > EPSILON):
        return "undecided"
    if ahead_last:
        return "crosses" if len(behind) else "ahead"
    return "falls back" if len(ahead) else "never"


def proven_span(comparison: Comparison, ahead: bool = True) -> tuple[float, float] | None:
    """First and last second at which the student is proven ahead (or behind); None for nowhere."""
    band = comparison.band
    at = np.flatnonzero(band.low > EPSILON if ahead else band.high < -EPSILON)
    return (float(comparison.judged_s[at[0]]), float(comparison.judged_s[at[-1]])) if len(at) else None


def crossover_times(student: FloatArray, teacher: FloatArray, grid_s: FloatArray) -> FloatArray:
    """(...,) ``t_x = inf{t >= t0 : D(u) > 0 for all u in [t, T]}``, +inf for never; curves (..., G).

    t0 = first t with max(Q) >= 5 %; a curve pair that never gets there never crosses.
    """
    leads = student - teacher > EPSILON
    leads_to_the_end = np.logical_and.accumulate(leads[..., ::-1], axis=-1)[..., ::-1]
    t0 = _first_index(np.maximum(student, teacher), JUDGED_FROM)
    return _at(grid_s, np.where(leads[..., -1], np.maximum(leads_to_the_end.argmax(axis=-1), t0), len(grid_s)))


def speedups(student: FloatArray, teacher: FloatArray, grid_s: FloatArray) -> FloatArray:
    """(..., 9) ``S(q) = t_teacher(q) / t_student(q)`` at 10 ... 90 % of the teacher's final value; curves (..., G)."""
    final = teacher[..., -1]
    columns = []
    for share in SHARES:
        ratio = time_to(teacher, share * final, grid_s) / time_to(student, share * final, grid_s)
        columns.append(np.where(final > EPSILON, ratio, np.nan))
    return np.stack(columns, axis=-1)


def time_to(curve: FloatArray, level: FloatArray | float, grid_s: FloatArray) -> FloatArray:
    """(...,) ``t(q) = inf{t : Q(t) >= q}``, +inf for never; ``curve`` (..., G), ``level`` (...,)."""
    return _at(grid_s, _first_index(curve, level))


def _first_index(curve: FloatArray, level: FloatArray | float) -> FloatArray:
    reached = curve >= np.asarray(level)[..., None] - EPSILON
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), curve.shape[-1])


def _at(grid_s: FloatArray, index: FloatArray | int) -> FloatArray:
    return np.append(grid_s, np.inf)[index]


def _defined_quantile(values: FloatArray, q: float) -> FloatArray:
    """(9,) quantile over the draws in which S is defined; NaN where it is in none."""
    out = np.full(values.shape[1], np.nan)
    for column in range(values.shape[1]):
        defined = values[:, column][~np.isnan(values[:, column])]
        if len(defined):
            out[column] = np.quantile(defined, q, method="inverted_cdf")
    return out
