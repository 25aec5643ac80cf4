"""One cell of a throughput grid, and the budget that a backend decodes it with."""

from __future__ import annotations

import dataclasses

from harness.records import Budget, InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One measurement to make; ``rows_per_prompt`` rows share each prompt."""

    batch: int
    prompt: int
    new_tokens: int
    rows_per_prompt: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise InputError(f"{field.name} = {getattr(self, field.name)}: must be at least 1")


def budget_of(cell: Cell, seed: int) -> Budget:
    """Temperature 0.8 without filters, no stop but the length."""
    return Budget(
        seconds=(1.0,), clock="task", samples_per_problem=cell.rows_per_prompt, max_new_tokens=cell.new_tokens,
        temperature=0.8, top_p=1.0, top_k=0, seed=seed, batch=cell.batch,
    )  # fmt: skip
