"""A process reward model in RLHFlow's layout (Llama3.1-8B-PRM-Mistral-Data and -Deepseek-Data), through our decoder.

A solution is split at blank lines into steps. Each step is a user turn, the first behind the problem and a space; the
assistant answers every one with "+". A step's score is the probability of "+" against "-" where its "+" stands, so one
forward over the whole dialogue gives all of them: position p of an answer is predicted at p - 1, and nothing right of
it is seen. After RLHF-Reward-Modeling/math-rm/prm_evaluate.py, which runs one forward a step and averages; last, min
and product are search-and-learn's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from harness.models.resolve import LoadedModel, load_model
from harness.records import InputError
from harness.rewards.dialogue import DialogueEncoder, Mark
from harness.rewards.scorer import Aggregate, Encoded, Scored, right_padded

GOOD, BAD = "+", "-"
MAX_STEPS = 1000
"""A solution of more steps is not scored: nobody's is, and its dialogue may be more than a template may write."""


class ProcessReward:
    """Scores in [0, 1]. ``model`` may be of any layer kind: padding lies on the right, and every layer is causal."""

    def __init__(self, model: LoadedModel, aggregate: Aggregate) -> None:
        self.name, self.sha256 = model.name, model.sha256
        self.context: int | None = model.config.context
        self.aggregate = aggregate
        self._decoder = model.decoder
        template = model.codec.template
        if template is None:
            raise InputError(f"{model.name}: no chat template; a process reward model is asked in its chat format")
        self._dialogue = DialogueEncoder(model.codec.tokenizer, template, model.codec.special, model.name)
        self._good, self._bad = self._dialogue.single(GOOD), self._dialogue.single(BAD)

    @classmethod
    def load(cls, reward: str, aggregate: Aggregate, dtype: torch.dtype, device: torch.device) -> ProcessReward:
        return cls(load_model(reward, dtype, device), aggregate)

    def encode(self, question: str, solution: str) -> Encoded:
        first, *rest = split_steps(solution)
        if len(rest) >= MAX_STEPS:
            return Encoded(np.array([], dtype=np.int32), readable=False)
        turns: list[tuple[str, str | Mark]] = []
        for text in (f"{question.strip()} {first}".strip(), *rest):
            turns += [("user", text), ("assistant", self._good)]
        tokens, at = self._dialogue.encode(turns)
        fits = self.context is None or len(tokens) <= self.context
        return Encoded(np.array(tokens, dtype=np.int32), tuple(at), readable=fits)

    @torch.inference_mode()
    def score(self, batch: Sequence[Encoded]) -> list[Scored]:
        decoder = self._decoder
        tokens = right_padded([e.tokens for e in batch], 0, decoder.device)
        x = decoder.embedding(tokens)
        cos, sin = (t[: tokens.shape[1], None] for t in decoder.rope_tables(x))
        for block in decoder.blocks:
            x = block(x, (cos, sin))
        # Only where an answer is due: logits of all positions would be a hundred times the rest.
        rows = [row for row, encoded in enumerate(batch) for _ in encoded.read_at]
        before = [p - 1 for encoded in batch for p in encoded.read_at]
        logits = decoder.logits(x[rows, before])[:, [self._good.token, self._bad.token]]
        good = iter(logits.double().softmax(dim=-1)[:, 0].tolist())
        steps = [tuple(next(good) for _ in encoded.read_at) for encoded in batch]
        return [Scored(aggregated(s, self.aggregate), s) for s in steps]


def split_steps(solution: str) -> list[str]:
    """The steps of a solution, at least one: parts between blank lines, stripped, those with nothing in them left out.

    An empty solution is one empty step. RLHFlow's code gives an empty part a turn of its own; a solution that ends in
    blank lines would then be judged by what is not there.
    """
    steps = [part.strip() for part in solution.split("\n\n")]
    return [step for step in steps if step] or [""]


def aggregated(steps: Sequence[float], aggregate: Aggregate) -> float:
    """One score of the steps': the last one, the least, or their product."""
    if aggregate == "last":
        return steps[-1]
    return min(steps) if aggregate == "min" else math.prod(steps)
