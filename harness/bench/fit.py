"""Which cells of a model fit, in its context and in the memory beside its weights; known from its config alone."""

from __future__ import annotations

import dataclasses

import torch

from harness.bench.cell import Cell
from harness.engine.memory import most_that_fit, needed_bytes, room
from harness.models.config import DecoderConfig
from harness.models.state import prompt_bytes
from harness.models.weights import GIB
from harness.records import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """One model in one engine; ``free_bytes`` are those that the device has beside the weights."""

    name: str
    config: DecoderConfig
    dtype: torch.dtype
    engine: str
    state_dtype: torch.dtype
    free_bytes: int

    def check(self, cell: Cell) -> None:
        """InputError with the numbers where the context or the memory is too small for the cell."""
        tokens = cell.prompt + cell.new_tokens
        if tokens > self.config.context:
            raise InputError(
                f"prompt + new_tokens = {tokens}: {self.name} has a context of {self.config.context}; ask for less"
            )
        most, needed = room(self.free_bytes, self.engine), self._bytes(cell, cell.batch)
        if needed <= most:
            return
        fits = most_that_fit(lambda rows: self._bytes(cell, rows), most) if self._bytes(cell, 1) <= most else 0
        cure = f"use at most {fits}" if fits else "lower --prompt or --new-tokens, or take a smaller model"
        raise InputError(
            f"batch = {cell.batch}: rows of {cell.prompt} + {cell.new_tokens} tokens of {self.name} take"
            f" {needed / GIB:.2f} GiB or more, {most / GIB:.2f} of the {self.free_bytes / GIB:.2f} GiB free beside"
            f" its weights can be had; {cure}"
        )

    def largest(self, cell: Cell) -> int:
        """The most rows of the cell's lengths that fit beside their prompts; ``cell.batch`` of them are known to."""
        return most_that_fit(lambda rows: self._bytes(cell, rows), room(self.free_bytes, self.engine), cell.batch)

    def _bytes(self, cell: Cell, rows: int) -> int:
        # Less than any engine plans for them; where it is too much, a plan of each row's pages need not be made.
        least = rows * prompt_bytes(self.config, cell.new_tokens, self.dtype, self.state_dtype)
        if least > self.free_bytes:
            return least
        prompts = [cell.prompt] * -(-rows // cell.rows_per_prompt)
        return needed_bytes(self.config, self.dtype, prompts, cell.new_tokens, rows, self.engine, self.state_dtype)
