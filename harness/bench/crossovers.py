"""Where a student overtakes its teacher: by the roofline, and by the rows of a grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from harness.bench.cell import Cell
from harness.bench.roofline import Ceilings, Workload, crossover_batch, crossover_tokens
from harness.models.config import DecoderConfig
from harness.report.throughput import Crossover, Row

BATCHES = tuple(1 << i for i in range(13))  # in which a crossover is looked for


def find_crossovers(
    configs: Mapping[str, DecoderConfig],
    mean: Workload,
    cells: Sequence[Cell],
    ceilings: Ceilings,
    products: Mapping[str, Mapping[int, float]],
    rows: Sequence[Row],
) -> Iterator[Crossover]:
    """For each student and the first all-attention model of ``configs``.

    ``mean``: a workload but for its batch and length; ``products``: FLOP/s of a model's own products by batch, where
    they were measured; ``rows``: those that may be compared, of one engine, prompt and dtypes.
    """
    teacher = next((n for n, c in configs.items() if set(c.layers) == {"attention"}), None)
    for student, config in configs.items():
        if teacher is None or student == teacher or set(config.layers) == {"attention"}:
            continue
        for batch in dict.fromkeys(cell.batch for cell in cells):
            work = dataclasses.replace(mean, batch=batch)
            turn = crossover_tokens(configs[teacher], config, work, ceilings)
            seen = _ahead(rows, student, teacher, "new_tokens", ("batch", batch))
            found = Crossover(student, teacher, f"batch {batch}", "new tokens", turn, _first(seen), tuple(seen))
            if all(batch in products.get(model, {}) for model in (teacher, student)):
                of_teacher, of_student = (
                    dataclasses.replace(ceilings, product_flop_per_s=products[model][batch])
                    for model in (teacher, student)
                )
                turn = crossover_tokens(configs[teacher], config, work, of_teacher, of_student)
                found = dataclasses.replace(found, own=turn, own_known=True)
            yield found
        for length in dict.fromkeys(cell.new_tokens for cell in cells):
            work = dataclasses.replace(mean, new_tokens=length)
            turn = crossover_batch(configs[teacher], config, work, ceilings, BATCHES)
            seen = _ahead(rows, student, teacher, "batch", ("new_tokens", length))
            yield Crossover(student, teacher, f"{length} new", "batch", turn, _first(seen), tuple(seen))


def _ahead(rows: Sequence[Row], student: str, teacher: str, along: str, at: tuple[str, int]) -> dict[int, bool]:
    """Of each value of ``along``, ascending, that both have a row of: is the student the faster one?"""
    rates: dict[int, dict[str, float]] = {}
    for row in rows:
        if getattr(row, at[0]) == at[1]:
            rates.setdefault(getattr(row, along), {})[row.model] = row.tokens_per_s
    return {v: r[student] > r[teacher] for v, r in sorted(rates.items()) if student in r and teacher in r}


def _first(ahead: dict[int, bool]) -> int | None:
    """The smallest value from which on the student is the faster one."""
    first = None
    for value, is_ahead in reversed(ahead.items()):
        if not is_ahead:
            break
        first = value
    return first
