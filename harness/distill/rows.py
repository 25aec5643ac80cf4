"""Training rows from the built-in generator: prompt and solution as tokens, made by worker processes.

Row i is a pure function of the generator's item i, so a step's rows depend on the recipe alone.
Imports no torch: a worker starts fast.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
from tokenizers import Tokenizer

from harness.distill.recipe import Recipe
from harness.tasks.builtin.splits import train_item
from harness.tasks.builtin.tokenizer import load_tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """``tokens`` int16 of bos, prompt, solution, eos; targets begin at ``prompt`` (the solution's first token)."""

    tokens: np.ndarray
    prompt: int


@functools.cache
def _tokenizer() -> Tokenizer:
    return load_tokenizer()


def row(index: int) -> Row:
    tokenizer = _tokenizer()
    item = train_item(index)
    prompt = [tokenizer.token_to_id("<|bos|>"), *tokenizer.encode(item.prompt + "\n").ids]
    tokens = [*prompt, *tokenizer.encode(item.solution).ids, tokenizer.token_to_id("<|eos|>")]
    return Row(np.array(tokens, dtype=np.int16), len(prompt))


def _rows(first: int, count: int) -> list[Row]:
    return [row(i) for i in range(first, first + count)]


def steps(recipe: Recipe, start: int, workers: int) -> Generator[list[Row], None, None]:
    """The rows of each step from ``start`` on; ``workers`` 0 makes them in this process."""
    wanted = ((recipe.first_item(s), recipe.rows_at(s)) for s in range(start, recipe.steps))
    if workers == 0:
        yield from (_rows(*w) for w in wanted)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        ahead: deque[Future[list[Row]]] = deque()
        for first, count in wanted:
            ahead.append(pool.submit(_rows, first, count))
            if len(ahead) >= 3 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
