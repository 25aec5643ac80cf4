"""Teacher forcing: tokens of our choice through an engine's own decode step, its logits held to a whole forward's.

An engine needs no hook for it: before each step a row's logits are read and then replaced by ones whose greedy draw
is the token to force. Draw, end tests, counters, state and (on a GPU) the captured graph are those of a benchmark.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch

from harness.engine.engines import AnyBackend
from harness.models.decoder import Decoder
from harness.records import Budget

# Chains by number, the tokens forced into each so far, and the logits [chains, vocab] of what follows.
Look: TypeAlias = Callable[[Sequence[int], Sequence[int], torch.Tensor], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Chain:
    """``tokens`` forced behind a prompt as its trajectory ``sample``, in ``slot`` from step ``start`` on.

    Behind its last token the slot is free: for a later chain, or as padding.
    """

    prompt: int
    sample: int
    slot: int
    tokens: tuple[int, ...]
    start: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


def forcing_budget(chains: Sequence[Chain], slots: int) -> Budget:
    """What a backend that ``force`` drives must be made with: greedy, and no chain reaches its length.

    Prompts count as shared where chains share one, which decides how the native engine's attention reads them.
    """
    return Budget(
        seconds=(1.0,), clock="task", samples_per_problem=max(Counter(c.prompt for c in chains).values()),
        temperature=0.0, top_p=1.0, top_k=0, seed=0, max_new_tokens=1 + max(len(c.tokens) for c in chains), batch=slots,
    )  # fmt: skip


def force(backend: AnyBackend, chains: Sequence[Chain], look: Look) -> None:
    """Run ``chains`` to their ends; ``look`` sees the logits behind each prompt and behind each forced token.

    ``backend`` is made with ``forcing_budget`` and ``ignore_eos``; prompts are prefilled as they are first needed.
    RuntimeError where the engine drew another token or stepped another row than told.
    """
    prefilled: set[int] = set()
    for step in range(max(c.end for c in chains) + 1):
        seated = [i for i, c in enumerate(chains) if c.start <= step <= c.end]
        entering = [chains[i] for i in seated if chains[i].start == step]
        leaving = [i for i in seated if chains[i].end == step]
        # The old owner's last logits are read before the slot's next chain brings its own.
        if leaving:
            _show(backend, chains, leaving, step, look)
        for i in leaving:
            backend.release(chains[i].slot)
        needed = {c.prompt for c in entering} - prefilled
        backend.prefill(sorted(needed))
        prefilled |= needed
        if entering:
            backend.fork([c.prompt for c in entering], [c.sample for c in entering], [c.slot for c in entering])
        if live := [i for i in seated if i not in leaving]:
            _show(backend, chains, live, step, look)
            _step(backend, [chains[i] for i in live], step)


def _show(backend: AnyBackend, chains: Sequence[Chain], which: Sequence[int], step: int, look: Look) -> None:
    slots = torch.tensor([chains[i].slot for i in which], device=backend.logits.device)
    look(which, [step - chains[i].start for i in which], backend.logits[slots])


@torch.inference_mode()
def _step(backend: AnyBackend, live: Sequence[Chain], step: int) -> None:
    slots, tokens = [c.slot for c in live], [c.tokens[step - c.start] for c in live]
    index = torch.tensor([slots, tokens], device=backend.logits.device)
    backend.logits.index_fill_(0, index[0], 0)
    backend.logits[index[0], index[1]] = 1
    window = backend.window(max(slots) + 1, 1)
    ran = np.flatnonzero(window.count).tolist()
    drawn = window.tokens[0, slots].tolist()
    if ran != sorted(slots) or drawn != tokens:
        raise RuntimeError(f"step {step}: slots {ran} drew {drawn}; told were {slots} and {tokens}")


@torch.inference_mode()
def reference(decoder: Decoder, prompt: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    """Logits [1 + tokens, vocab] of one whole forward: behind the prompt and behind each of ``tokens``."""
    return decoder(torch.tensor([[*prompt, *tokens]], device=decoder.device))[0, len(prompt) - 1 :]


class Agreement:
    """A ``Look`` that compares with ``references``, one [1 + tokens, vocab] a chain.

    Vectors with an entry for each chain and step looked at, behind prompts too: ``chain``, ``consumed`` (forced
    tokens), ``error`` = max|a - b| / max|b|, ``divergence`` = KL(reference || engine) in nats, ``same`` top token.
    """

    def __init__(self, references: Sequence[torch.Tensor]) -> None:
        self.references = references
        self._places: list[tuple[int, int]] = []
        self._parts: list[torch.Tensor] = []

    @torch.inference_mode()
    def __call__(self, chains: Sequence[int], consumed: Sequence[int], logits: torch.Tensor) -> None:
        want = torch.stack([self.references[c][n] for c, n in zip(chains, consumed, strict=True)]).double()
        self._places += zip(chains, consumed, strict=True)
        self._parts.append(compare(logits.double(), want))

    def _column(self, number: int) -> np.ndarray:
        return torch.cat(self._parts, dim=1)[number].cpu().numpy()

    @property
    def chain(self) -> np.ndarray:
        return np.array([c for c, _ in self._places])

    @property
    def consumed(self) -> np.ndarray:
        return np.array([n for _, n in self._places])

    @property
    def error(self) -> np.ndarray:
        return self._column(0)

    @property
    def divergence(self) -> np.ndarray:
        return self._column(1)

    @property
    def same(self) -> np.ndarray:
        return self._column(2) == 1


def compare(logits: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """[3, rows] of logits [rows, vocab] in float64: error, divergence and 1 where the top tokens are equal."""
    error = (logits - want).abs().amax(1) / want.abs().amax(1)
    ours, theirs = logits.log_softmax(1), want.log_softmax(1)
    divergence = (theirs.exp() * (theirs - ours)).sum(1)
    return torch.stack((error, divergence, (logits.argmax(1) == want.argmax(1)).double()))
