"""The teacher-forced gate at real shapes, and how often a batch's size changes what is sampled.

    python results/h100/gate.py --csv results/h100/gate             (one GPU; writes gate.csv and gate_draws.csv)
    python results/h100/gate.py --models random:mamba-in-llama-1b   (others than the six; --all: every case)
    python results/h100/gate.py --small                             (shrunk shapes, no evidence; without a GPU too)

First each model draws the same chains (problem, sample, 256 tokens, temperature 0.8) at several batch sizes: same
weights, same counters, so where two differ, only rounding did it; with ``fixed_rows`` none may. Then chains of the
largest batch are forced through each engine's own step, and logits are compared with whole forwards of the plain
decoder over the same tokens:
``error`` (max|a - b| / max|b| of a step, largest over rows; at steps 1, 64, 256 and anywhere) with one in the weights'
dtype, divergence and equal top tokens with one in fp32. ``kl_plain`` and ``top1_plain`` are what the plain forward in
the weights' dtype has of them itself. Verdicts: fp32 weights are held to ``deferred_commit.md`` (with fp32 states also
to error 1e-4), bf16 weights to twice ``kl_plain`` plus what the state dtype is allowed: two computations in bf16
differ by their roundings, however near both are to fp32. bf16 states are reported, and bf16 weights without a GPU:
Triton's interpreter cuts bits off, never rounds.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import triton
from gate_models import build

from harness.bench.ceilings import wait_for
from harness.bench.forced import Agreement, Chain, compare, force, forcing_budget, reference
from harness.engine.engines import STATE_DTYPES, check_model, make_backend
from harness.models.config import DecoderConfig
from harness.models.resolve import TRIO, LoadedModel
from harness.records import Budget, InputError
from harness.tasks.loader import load_task, render

MODELS = ("random:llama-3.2-1b", "random:llamba-1b", "random:mamba2-1.3b", *TRIO)
SEED, TEMPERATURE = 7, 0.8
KL = {"float32": 1e-5, "float16": 1e-4, "bfloat16": float("inf")}
TOP1 = {"float32": 0.999, "float16": 0.995, "bfloat16": 0.0}


@dataclasses.dataclass(frozen=True)
class Scale:
    """Problems, steps of a chain, tokens of a random prompt, batch -> chains drawn at it (all at the last)."""

    problems: int
    steps: int
    prompt: int
    batches: dict[int, int]

    @property
    def chains(self) -> int:
        return max(self.batches.values())

    @property
    def depths(self) -> tuple[int, int, int]:
        return 1, max(2, self.steps // 4), self.steps


REAL = Scale(8, 256, 64, {1: 8, 7: 28, 64: 64, 256: 256})
SMALL = Scale(2, 3, 5, {1: 2, 3: 3, 4: 4})


@dataclasses.dataclass(frozen=True)
class Gated:
    """One run of one case; ``error_first``, ``_quarter`` and ``_last`` at ``Scale.depths``."""

    model: str
    weights: str
    engine: str
    state_dtype: str
    case: str
    rows: int
    error_first: float
    error_quarter: float
    error_last: float
    error_max: float
    top1: float
    top1_plain: float
    kl: float
    kl_plain: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Chains at one batch size against the same chains at the largest; first difference in tokens from 0.

    ``fixed_rows`` 0: not fixed. ``tokens_per_s`` of decoding; the largest batch has a row for it alone.
    """

    model: str
    weights: str
    state_dtype: str
    fixed_rows: int
    batch: int
    against: int
    chains: int
    steps: int
    differing_share: float
    first_earliest: int | None
    first_median: float | None
    tokens_per_s: float


class Subject:
    """A model with its prompts; ``wide`` is the same (rounded) weights in fp32."""

    def __init__(self, name: str, scale: Scale, device: torch.device, small: bool) -> None:
        self.name, self.scale = name, scale
        self.loaded = build(name, device, small)
        self.wide = dataclasses.replace(self.loaded, decoder=copy.deepcopy(self.loaded.decoder).float())
        task = load_task("builtin", limit=scale.problems)
        self.ids = [p.id for p in task.problems]
        vocab = self.loaded.config.vocab_size
        if self.loaded.random:
            shape = (scale.problems, scale.prompt)
            self.prompts = np.random.default_rng(SEED).integers(0, vocab, shape).tolist()
        else:
            self.prompts = [self.loaded.codec.encode_prompt(render(task, p)) for p in task.problems]
        self.references: dict[tuple[str, int, int], torch.Tensor] = {}

    def of(self, weights: str) -> LoadedModel:
        return self.wide if weights == "float32" else self.loaded

    def backend(
        self, weights: str, engine: str, budget: Budget, slots: int, state: str, fixed_rows: int | None = None
    ) -> Any:
        gc.collect()  # the last backend's pools and graphs
        model = self.of(weights)
        return make_backend(engine, model, budget, self.prompts, self.ids, slots, True, STATE_DTYPES[state], fixed_rows)

    def logits(self, weights: str, chain: Chain) -> torch.Tensor:
        """Of a whole forward over prompt and chain, made once for each trajectory and cut to this chain's length."""
        key = weights, chain.prompt, chain.sample
        if key not in self.references or len(self.references[key]) <= len(chain.tokens):
            self.references[key] = reference(self.of(weights).decoder, self.prompts[chain.prompt], chain.tokens)
        return self.references[key][: len(chain.tokens) + 1]


def draw(subject: Subject, weights: str, batch: int, chains: int, fixed_rows: int | None) -> tuple[np.ndarray, float]:
    """Tokens [chains, steps] of chain i = sample i // problems of problem i % problems, ``batch`` at a time, and how
    many came in a second.
    """
    problems, steps = subject.scale.problems, subject.scale.steps
    budget = Budget((1.0,), "task", 2, steps, TEMPERATURE, 1.0, 0, SEED, batch)
    backend = subject.backend(weights, "native", budget, batch, "float32", fixed_rows)
    backend.prefill(range(problems))
    tokens, seconds = np.empty((chains, steps), dtype=np.int64), 0.0
    for start in range(0, chains, batch):
        numbers = range(start, min(start + batch, chains))
        slots = range(len(numbers))
        backend.fork([n % problems for n in numbers], [n // problems for n in numbers], slots)
        wait_for(backend.device)
        began = time.perf_counter()
        for at in range(0, steps, 32):
            window = backend.window(len(slots), min(32, steps - at))
            tokens[numbers.start : numbers.stop, at : at + 32] = window.tokens.T
        seconds += time.perf_counter() - began
        for slot in slots:
            backend.release(slot)
    return tokens, tokens.size / seconds


def draws(subject: Subject, weights: str) -> tuple[np.ndarray, list[Drawn]]:
    """Tokens at the largest batch, and how the other batches' differ, rows fixed and not."""
    sizes = subject.scale.batches
    most = max(sizes)
    rows, tokens = [], {}
    for fixed in (None, most):
        tokens[fixed], rate = draw(subject, weights, most, sizes[most], fixed)
        for batch, chains in sizes.items():
            found, own_rate = (tokens[fixed], rate) if batch == most else draw(subject, weights, batch, chains, fixed)
            differs = found != tokens[fixed][:chains]
            first = differs.argmax(1)[differs.any(1)]
            rows.append(
                Drawn(
                    subject.name, weights, "float32", fixed or 0, batch, most, chains, subject.scale.steps,
                    len(first) / chains, int(first.min()) if len(first) else None,
                    float(np.median(first)) if len(first) else None, own_rate,
                )
            )  # fmt: skip
    return tokens[None], rows


def cases(tokens: np.ndarray, scale: Scale) -> dict[str, tuple[int, list[Chain]]]:
    """Slots of the engine, and the chains in them."""
    problems, steps = scale.problems, scale.steps

    def chain(number: int, slot: int, length: int = steps, start: int = 0) -> Chain:
        return Chain(number % problems, number // problems, slot, tuple(tokens[number, :length].tolist()), start)

    odd = min(7, scale.chains - 1)
    places = (0, 2, 3, 6, 8)[:problems]
    forks = range(0, scale.chains, problems)[:16]
    refilled = [chain(slot, slot) for slot in range(problems // 2)]
    for slot in range(problems // 2, problems):
        # Given up at four different phases, and taken by another problem's chain until the end.
        cut = min(slot * steps // problems + slot, steps - 1)
        other = problems + (slot + 1) % problems
        refilled += [chain(slot, slot, cut), chain(other, slot, steps - cut, cut)]
    return {
        "single": (1, [chain(0, 0)]),
        "odd": (odd, [chain(n, n) for n in range(odd)]),
        "padded": (2 * places[-1], [chain(n, place) for n, place in enumerate(places)]),
        "forked": (len(forks), [chain(number, slot) for slot, number in enumerate(forks)]),
        "refilled": (problems, refilled),
    }


def gate(
    subject: Subject, weights: str, engine: str, state: str, case: str, slots: int, chains: Sequence[Chain]
) -> Gated:
    backend = subject.backend(weights, engine, forcing_budget(chains, slots), slots, state)
    plain, exact = (Agreement([subject.logits(w, c) for c in chains]) for w in (weights, "float32"))

    def look(which: Sequence[int], consumed: Sequence[int], logits: torch.Tensor) -> None:
        plain(which, consumed, logits)
        exact(which, consumed, logits)

    force(backend, chains, look)
    floor = torch.cat(
        [compare(a.double(), b.double()) for a, b in zip(plain.references, exact.references, strict=True)], 1
    )
    at = [float(plain.error[plain.consumed == depth].max(initial=0)) for depth in subject.scale.depths]
    result = Gated(
        subject.name, weights, engine, state, case, len(chains), *at, float(plain.error.max()),
        float(exact.same.mean()), float(floor[2].mean()), float(exact.divergence.mean()), float(floor[1].mean()), "",
    )  # fmt: skip
    return dataclasses.replace(result, verdict=verdict(result))


def verdict(row: Gated) -> str:
    if row.state_dtype == "bfloat16" or (row.weights == "bfloat16" and not torch.cuda.is_available()):
        return "reported"
    kl = KL[row.state_dtype]
    if row.weights == "bfloat16":
        kept = row.kl <= 2 * row.kl_plain + kl
    else:
        kept = row.kl <= kl and row.top1 >= TOP1[row.state_dtype]
        kept &= row.state_dtype != "float32" or row.error_max <= 1e-4
    return "ok" if kept else "missed"


def plan(config: DecoderConfig, every: bool) -> Iterator[tuple[str, str, str, str]]:
    """(weights, engine, state dtype, case): all cases at bf16 weights and fp32 states, the hardest at the others."""
    all_cases = ("single", "odd", "padded", "forked", "refilled")
    states = [s for s in STATE_DTYPES if s == "float32" or set(config.layers) != {"attention"}]
    for weights in ("bfloat16", "float32"):
        for case in all_cases if every else ("single", "refilled") if weights == "bfloat16" else ("refilled",):
            yield weights, "eager", "float32", case
        for state in states:
            whole = every or (weights, state) == ("bfloat16", "float32")
            for case in all_cases if whole else ("forked", "refilled") if weights == "bfloat16" else ("refilled",):
                yield weights, "native", state, case


def table(rows: Sequence[Any]) -> str:
    """Columns of equal width under the fields' names."""
    cells = [[f.name for f in dataclasses.fields(rows[0])]]
    cells += [[_text(value) for value in dataclasses.astuple(row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.1 else f"{value:.4g}"
    return "" if value is None else str(value)


def write(path: str, rows: Sequence[Any]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f.name for f in dataclasses.fields(rows[0])])
        writer.writerows(dataclasses.astuple(row) for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument(
        "--all", action="store_true", help="every case at every weights' and state dtype (minutes more)"
    )
    parser.add_argument(
        "--draws", nargs="*", default=["bfloat16"], choices=["bfloat16", "float32"], help="weights drawn with"
    )
    parser.add_argument("--small", action="store_true", help="shrunk shapes; what it prints is no evidence")
    parser.add_argument("--csv", metavar="STEM", help="write STEM.csv and STEM_draws.csv")
    args = parser.parse_args()
    scale, began = (SMALL if args.small else REAL), time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}; torch {torch.__version__}, triton {triton.__version__}; errors at steps {scale.depths}", flush=True)
    gated: list[Gated] = []
    drawn: list[Drawn] = []
    for model in args.models:
        subject = Subject(model, scale, device, args.small)
        try:
            check_model("native", subject.loaded.config)
        except InputError as error:
            print(f"{model}: left out; {error}")
            continue
        tokens = None
        for weights in args.draws or ["bfloat16"]:
            found, rows = draws(subject, weights)
            tokens = found if tokens is None else tokens
            drawn += rows
        assert tokens is not None
        given = cases(tokens, scale)
        for weights, engine, state, case in plan(subject.loaded.config, args.all):
            gated.append(gate(subject, weights, engine, state, case, *given[case]))
        print(f"{model}: {time.monotonic() - began:.0f} s so far", flush=True)
        if args.csv:
            write(f"{args.csv}.csv", gated)
            write(f"{args.csv}_draws.csv", drawn)
        del subject
    print(table(gated), table(drawn), sep="\n\n")
    missed = sum(row.verdict == "missed" for row in gated)
    print(f"\n{len(gated)} runs, {missed} missed the gate")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
