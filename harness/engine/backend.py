"""What the scheduler drives: slots that prompts are forked into and windows of decode steps.

``EagerBackend`` runs our decoder eagerly, sampling included; everything inside a window stays on
the device, the host sees tokens once a window. Rows that ended go on as padding until the look.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from harness.kernels.random_words import problem_hash, row_words
from harness.kernels.sample import sample
from harness.models.decoder import Decoder, HoldsLayers
from harness.models.resolve import LoadedModel
from harness.models.state import StatePlan, put
from harness.records import Budget

# Prompt tokens that run at once. Products are as fast as they get from some 2,000 rows on; what more would hold back is
# the clock, which is asked between passes, and memory: 8,192 rows of a 3B model's MLP take 0.5 GiB.
PASS_TOKENS = 8192


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """What rows [0, n) produced: ``tokens`` int64 and ``logprobs`` [steps, n]; the first ``count[row]`` count.

    ``logprobs`` is None from an engine that does not say them.
    """

    tokens: np.ndarray
    logprobs: np.ndarray | None
    count: np.ndarray


class Backend(Protocol):
    """``depth`` windows may be queued before the first of them is collected; work happens in the order of the calls.

    ``pass_tokens``: prompt tokens that it runs at once.
    """

    slots: int
    depth: int
    pass_tokens: int

    def prefill(self, prompts: Sequence[int]) -> None:
        """Run prompts once, in passes of ``pass_tokens``; they stay for the round."""

    def fork(self, prompts: Sequence[int], samples: Sequence[int], slots: Sequence[int]) -> None:
        """Hand prefilled prompts to free slots."""

    def release(self, slot: int) -> None: ...

    def move(self, source: int, target: int) -> None:
        """Give a free slot another row's place."""

    def launch(self, rows: int, steps: int) -> Any:
        """Queue ``steps`` steps of rows [0, rows); what it gives is for ``collect``."""

    def collect(self, launched: Any) -> Window:
        """Wait for a window, the oldest first."""

    def window(self, rows: int, steps: int) -> Window:
        """One window, waited for."""


def pass_length(tokens: Sequence[int], most: int) -> int:
    """How many of the prompts that wait, of ``tokens`` tokens each, make up the next pass: ``most`` tokens, or one."""
    total = 0
    for count, n in enumerate(tokens):
        total += n
        if count and total > most:
            return count
    return len(tokens)


def prefill_into(
    logits: torch.Tensor,
    decoder: Decoder,
    state: HoldsLayers,
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[int],
    most: int,
) -> None:
    """Prefill ``chosen`` of all ``prompts``, ``most`` tokens a pass, into ``state``; what follows into ``logits``."""
    tokens, done = [len(prompts[p]) for p in chosen], 0
    while done < len(chosen):
        now = chosen[done : done + pass_length(tokens[done:], most)]
        logits[put(np.array(now), logits.device)] = decoder.prefill([prompts[p] for p in now], state, now)
        done += len(now)


class EagerBackend:
    """Our decoder on one device. ``prompts`` are the token ids of all prompts, ``ids`` their problem ids.

    ``ignore_eos`` lets every row run to the budget's ``max_new_tokens``: for measuring speed only.
    """

    depth = 1
    pass_tokens = PASS_TOKENS

    def __init__(
        self,
        model: LoadedModel,
        budget: Budget,
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        slots: int,
        ignore_eos: bool = False,
    ) -> None:
        self.model, self.budget, self.prompts, self.slots = model, budget, prompts, slots
        decoder = model.decoder
        self.state = decoder.new_state(StatePlan(slots, budget.max_new_tokens, tuple(map(len, prompts))))
        device, dtype = decoder.device, decoder.embedding.weight.dtype
        vocab = decoder.config.vocab_size
        self.prompt_logits = torch.zeros(len(prompts), vocab, dtype=dtype, device=device)
        self.logits = torch.zeros(slots, vocab, dtype=dtype, device=device)
        hashes = np.array([problem_hash(i) for i in ids], dtype=np.uint64).view(np.int64)
        self.prompt_hash = torch.as_tensor(hashes, device=device)
        self.hash, self.sample_index, self.generated = (
            torch.zeros(slots, dtype=torch.int64, device=device) for _ in range(3)
        )
        self.ended = torch.ones(slots, dtype=torch.bool, device=device)
        self.eos = torch.tensor(() if ignore_eos else model.codec.eos, dtype=torch.int64, device=device)
        self.busy_s: float | None = None  # seconds that the device worked in windows; not known here
        self.held = np.zeros(slots, dtype=np.int64)  # the host's copy of ``generated``, as of the last look

    def prefill(self, prompts: Sequence[int]) -> None:
        prefill_into(self.prompt_logits, self.model.decoder, self.state, self.prompts, prompts, self.pass_tokens)

    def fork(self, prompts: Sequence[int], samples: Sequence[int], slots: Sequence[int]) -> None:
        self.state.fork(list(prompts), list(slots))
        device = self.logits.device
        prompt, slot = (torch.tensor(list(t), device=device) for t in (prompts, slots))
        self.logits[slot] = self.prompt_logits[prompt]
        self.hash[slot] = self.prompt_hash[prompt]
        self.sample_index[slot] = torch.tensor(list(samples), device=device)
        self.generated[slot] = 0
        self.ended[slot] = False
        self.held[list(slots)] = 0

    def release(self, slot: int) -> None:
        self.state.release(slot)
        self.ended[slot] = True

    def move(self, source: int, target: int) -> None:
        self.state.move(source, target)
        for tensor in (self.logits, self.hash, self.sample_index, self.generated, self.ended):
            tensor[target] = tensor[source]
        self.ended[source] = True
        self.held[target] = self.held[source]

    def draw_all(self) -> None:
        """One draw of every row that counts for nothing: what sampling costs can be timed by it."""
        words = torch.zeros(self.slots, 4, dtype=torch.int64, device=self.logits.device)
        sample(self.logits, words, self.budget.temperature, self.budget.top_k, self.budget.top_p)

    def window(self, rows: int, steps: int) -> Window:
        return self.collect(self.launch(rows, steps))

    def collect(self, launched: Window) -> Window:
        return launched

    @torch.inference_mode()
    def launch(self, rows: int, steps: int) -> Window:
        b = self.budget
        self.state.plan_window(rows, self.held, steps)
        generated, ended = self.generated[:rows], self.ended[:rows]
        before = generated.clone()
        tokens, logprobs = [], []
        # A row that runs draws at generated, generated + 1, ...: all words of the window at once.
        ahead = generated[:, None] + torch.arange(steps, device=generated.device)
        words = row_words(b.seed, ahead, self.sample_index[:rows, None], self.hash[:rows, None])
        for i in range(steps):
            token, logprob = sample(self.logits[:rows], words[:, i], b.temperature, b.top_k, b.top_p)
            tokens.append(token)
            logprobs.append(logprob)
            position = generated.clone()
            generated += ~ended
            ended |= torch.isin(token, self.eos) | (generated >= b.max_new_tokens)
            index = self.state.step_index(position, ~ended)
            self.logits[:rows] = self.model.decoder.step(token, self.state, index)
        count = generated - before
        result = Window(*(t.cpu().numpy() for t in (torch.stack(tokens), torch.stack(logprobs), count)))
        self.held[:rows] += result.count
        return result
