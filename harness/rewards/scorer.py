"""What every reward model can do: turn a problem and a solution into tokens, and batches of those into scores.

Tokens come first, apart from the model, so that a run can be put in order by length before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from harness.models.checkpoints import native
from harness.records import InputError

Ids = NDArray[np.int32]
Kind = Literal["prm", "classifier"]
Aggregate = Literal["last", "min", "product"]
Value = Literal["probability", "logit"]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One solution as the model reads it; ``read_at``: positions of the answers whose probability is a step's score.

    ``types`` are the segment ids of models that tell a pair's two texts apart by them. Not ``readable``: longer than
    the model can read; it is not scored.
    """

    tokens: Ids
    read_at: tuple[int, ...] = ()
    types: Ids | None = None
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of one solution, and those of its steps where the model has them."""

    score: float
    steps: tuple[float, ...] = ()


class Scorer(Protocol):
    """``context``: the most tokens it reads, None for no limit. ``score`` gives one result for each of the batch.

    ``score`` is given readable ones alone.
    """

    name: str
    sha256: str
    context: int | None

    def encode(self, question: str, solution: str) -> Encoded: ...

    def score(self, batch: Sequence[Encoded]) -> list[Scored]: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for; ``aggregate`` is for a process reward model, ``value`` and ``label`` for a classifier."""

    reward: str
    kind: Kind
    dtype: torch.dtype
    device: torch.device
    aggregate: Aggregate | None = None
    value: Value | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "prm" and (self.value is not None or self.label is not None):
            raise InputError(
                "--value, --label: a process reward model has none; leave them out or use --kind classifier"
            )
        if self.kind == "classifier" and self.aggregate is not None:
            raise InputError(f"--aggregate {self.aggregate}: a classifier has no steps; leave it out or use --kind prm")
        if self.reward.startswith("random:"):
            raise InputError(f"--reward {self.reward}: random weights judge nothing; give a trained reward model")
        if not Path(self.reward).exists():
            raise InputError(
                f"--reward {self.reward}: no such folder; give one with config.json, weights and tokenizer"
            )


def load_scorer(settings: Settings) -> Scorer:
    """The reward model in evaluation mode. InputError for what is not one of that kind."""
    if settings.kind == "prm":
        from harness.rewards.prm import ProcessReward

        return ProcessReward.load(settings.reward, settings.aggregate or "last", settings.dtype, settings.device)
    from harness.rewards.classifier import Classifier

    value = settings.value or "probability"
    return Classifier.load(Path(settings.reward), value, settings.label, settings.dtype, settings.device)


def right_padded(rows: Sequence[Ids], pad: int, device: torch.device) -> torch.Tensor:
    """int64 [rows, longest]; ``pad`` lies on the right, where a causal row never looks."""
    tokens = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.from_numpy(ids)
    return tokens.to(device)


def digest(files: Sequence[Path]) -> str:
    """sha256 of one file's bytes, or of several files' hex digests in the order of their names."""
    import hashlib

    hexes = [native.sha256(path) for path in sorted(files)]
    return hexes[0] if len(hexes) == 1 else hashlib.sha256("".join(hexes).encode()).hexdigest()
