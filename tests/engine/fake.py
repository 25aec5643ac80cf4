"""A backend whose chains are scripts, so that every time and token of a run can be said beforehand.

``script(prompt, sample)`` is the text of a chain, a byte a token; a ``$`` at its end stands for EOS, and
without one the chain goes on with dots. What the scheduler must not count is junk of value -99: tokens
behind a chain's end, and whole windows of free slots. A token's log-probability tells what its prompt was packed with
in its prefill, as its last bits would with a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from harness.bench.session import Prompt, rounds
from harness.engine.backend import Window
from harness.engine.clock import FakeClock
from harness.engine.sampler import RoundLabel, Sampler
from harness.records import Budget, Look, Problem, Progress, Trajectory

EOS = 256
TOKEN_BYTES = [*(bytes([b]) for b in range(256)), b""]
LOGPROB = -0.25  # sums of it are exact
PRICE = {"prefill": 1.0, "step": 1.0}
LOOK_EVERY = 4

Script = Callable[[int, int], str]


def budget(**changes) -> Budget:
    base = Budget((1000.0,), "task", 2, 100, 1.0, 1.0, 0, 7, 2)
    return dataclasses.replace(base, **changes)


@dataclasses.dataclass
class Chain:
    prompt: int
    sample: int
    tokens: list[int]
    position: int = 0
    ended: bool = False


class FakeBackend:
    """``calls`` holds everything that was asked of it, in order; rows stepped must be the rows that live."""

    def __init__(
        self,
        slots: int,
        script: Script,
        max_new_tokens: int,
        logprob=lambda prompt, sample, i: LOGPROB,
        depth: int = 1,
        pass_tokens: int = 1,
    ):
        self.depth, self.pass_tokens = depth, pass_tokens
        self.slots, self.script, self.max_new_tokens, self.logprob = slots, script, max_new_tokens, logprob
        self.chains: dict[int, Chain] = {}
        self.calls: list[tuple] = []
        self.prefilled: dict[int, float] = {}

    def prefill(self, prompts: Sequence[int]) -> None:
        self.calls.append(("prefill", *prompts))
        for prompt in prompts:
            self.prefilled[prompt] = sum(2.0 ** -(8 + p) for p in prompts if p != prompt)

    def fork(self, prompts: Sequence[int], samples: Sequence[int], slots: Sequence[int]) -> None:
        for prompt, sample, slot in zip(prompts, samples, slots, strict=True):
            assert prompt in self.prefilled and slot not in self.chains and 0 <= slot < self.slots
            text = self.script(prompt, sample)
            tokens = [EOS if c == "$" else ord(c) for c in text]
            self.chains[slot] = Chain(prompt, sample, tokens)
            self.calls.append(("fork", prompt, sample, slot))

    def release(self, slot: int) -> None:
        del self.chains[slot]
        self.calls.append(("release", slot))

    def move(self, source: int, target: int) -> None:
        assert target not in self.chains
        self.chains[target] = self.chains.pop(source)
        self.calls.append(("move", source, target))

    def window(self, rows: int, steps: int) -> Window:
        return self.collect(self.launch(rows, steps))

    def collect(self, launched: Window) -> Window:
        return launched

    def launch(self, rows: int, steps: int) -> Window:
        self.calls.append(("window", rows, steps))
        assert set(self.chains) == set(range(rows)), "rows stepped are not the rows that live"
        tokens = np.full((steps, self.slots), ord("#"), dtype=np.int64)
        logprobs = np.full((steps, self.slots), -99.0)
        count = np.full(self.slots, steps, dtype=np.int64)
        for slot, chain in self.chains.items():
            count[slot] = 0
            for i in range(steps):
                if chain.ended:
                    break
                at = chain.position
                tokens[i, slot] = chain.tokens[at] if at < len(chain.tokens) else ord(".")
                logprobs[i, slot] = self.logprob(chain.prompt, chain.sample, at) + self.prefilled[chain.prompt]
                chain.position += 1
                count[slot] += 1
                chain.ended = tokens[i, slot] == EOS or chain.position == self.max_new_tokens
        return Window(tokens, logprobs, count)

    def asked(self, kind: str) -> list[tuple]:
        return [call[1:] for call in self.calls if call[0] == kind]


class MemorySink:
    def __init__(self) -> None:
        self.commits: list[tuple[tuple[Trajectory, ...], Look]] = []

    def commit(self, finished: Sequence[Trajectory], look: Look) -> None:
        self.commits.append((tuple(finished), look))

    @property
    def trajectories(self) -> list[Trajectory]:
        return [t for finished, _ in self.commits for t in finished]

    @property
    def looks(self) -> list[Look]:
        return [look for _, look in self.commits]

    def row(self, problem_id: str, sample: int) -> Trajectory:
        (found,) = [t for t in self.trajectories if (t.problem_id, t.sample) == (problem_id, sample)]
        return found


def play(
    budget: Budget,
    script: Script,
    prompt_tokens: Sequence[int],
    sink=None,
    done: dict[int, Progress] | None = None,
    price=PRICE,
    look_every: int = LOOK_EVERY,
    logprob=lambda prompt, sample, i: LOGPROB,
    on_look=None,
    clock=None,
    depth: int = 1,
    pass_tokens: int = 1,
):
    """Run all rounds of a budget as ``Session`` would; problem i is called ``p<i>``. Returns sink and backend.

    With one token a pass each prompt is prefilled by itself.
    """
    sink = MemorySink() if sink is None else sink
    backend = FakeBackend(int(budget.batch), script, budget.max_new_tokens, logprob, depth, pass_tokens)
    clock = FakeClock(price) if clock is None else clock
    sampler = Sampler(backend, TOKEN_BYTES, (EOS,), prompt_tokens, budget, clock, sink, look_every, on_look)
    prompts = [Prompt(Problem(f"p{i}", "?", "1"), (0,) * n) for i, n in enumerate(prompt_tokens)]
    for number, jobs in enumerate(rounds(budget, prompts)):
        sampler.run(RoundLabel("m", "t", backend.slots, number), jobs, (done or {}).get(number))
    return sink, backend
