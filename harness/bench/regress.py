"""``harness regress``: two states of the code in turn on one device, and a word on each figure.

Rounds alternate which side goes first, behind a warm-up that is thrown away; a baseline CSV of the same device may
stand for the first side. Figures of a cell are its tokens/s and, where the device has them, its peak memory and joules.
"""

from __future__ import annotations

import csv
import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from harness.bench.regress_trees import Tree, commit_of, repository, unpack, working_tree
from harness.bench.regress_verdict import Verdict, decide
from harness.records import InputError
from harness.runs.manifest import device_facts


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    label: str
    higher_is_better: bool


FIGURES = {
    "tokens_per_s": Figure("tok/s", True),
    "peak_gib": Figure("GiB", False),
    "joules_per_ktok": Figure("J/ktok", False),
}
_CELL = ("model", "engine", "dtype", "state_dtype", "batch", "prompt", "new_tokens")

Key = tuple[str, ...]  # a cell and a figure's name
Samples = dict[Key, list[float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Race:
    """What to measure; by default the tiny teacher and student on a CPU, two exact shapes on a GPU."""

    device: torch.device
    models: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    prompt: int = 128
    dtype: str = "auto"
    engine: str | None = None
    state_dtype: str = "float32"
    rounds: int = 5
    min_effect: float = 0.03
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"--rounds {self.rounds}: must be at least 1; 5 or more give a spread")
        decide([1.0], [1.0], self.min_effect)

    def options(self, path: Path) -> list[str]:
        """For ``harness throughput``."""
        gpu = self.device.type == "cuda"
        models = self.models or (("random:llama-3.2-1b", "random:llamba-1b") if gpu else ("tiny-teacher", "tiny-mamba"))
        options = ["--ignore-eos", "--csv", str(path), "--device", self.device.type, "--prompt", str(self.prompt)]
        options += ["--dtype", self.dtype, "--engine", self.engine or ("native" if gpu else "eager")]
        options += ["--state-dtype", self.state_dtype]
        for name, values in (
            ("--model", models),
            ("--batch", self.batches or ((256,) if gpu else (16,))),
            ("--new-tokens", self.lengths or ((512,) if gpu else (64,))),
        ):
            for value in values:
                options += [name, str(value)]
        return options


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    key: Key
    base: float
    head: float
    verdict: Verdict


def race(base: str, head: str | None, given: Race, console: Console) -> list[Line]:
    """``base`` a commit or a CSV, ``head`` a commit or None for the working tree; the lines are printed too."""
    root = repository()
    stored = _baseline(Path(base), given.device) if base.endswith(".csv") else None
    if stored is None:
        commit_of(root, base)
    if head is not None:
        commit_of(root, head)
    with tempfile.TemporaryDirectory(prefix="harness-regress-") as name:
        folder = Path(name)
        trees = [working_tree(root, folder / "head") if head is None else unpack(root, head, folder / "head")]
        if stored is None:
            trees.insert(0, unpack(root, base, folder / "base"))
        for tree in trees:
            tree.check()
        measured = _rounds(trees, given, folder, console)
    before = stored if stored is not None else measured[0]
    lines = compare(before, measured[-1], given.min_effect)
    if not lines:
        raise InputError(f"{base}: has no cell that was measured; give its --model, --batch, --new-tokens and --prompt")
    console.print(_table(base if stored is not None else trees[0].label, trees[-1].label, lines))
    return lines


def print_cpu_ratio(base: str, console: Console) -> None:
    """Tokens/s of the working tree over those of a commit, on the CPU: a machine that others share gates nothing."""
    commit_of(repository(), base)
    given = Race(torch.device("cpu"), batches=(16,), lengths=(16,), prompt=16, rounds=2, threads=1)
    try:
        lines = race(base, None, given, Console(quiet=True))
    except InputError as error:
        console.print(f"CPU, not gated: not measured ({error})", highlight=False, markup=False)
        return
    for line in (line for line in lines if line.key[-1] == "tokens_per_s"):
        console.print(
            f"CPU, not gated: {line.key[0]} at {line.head / line.base:.2f} x the tokens/s of {base}", highlight=False
        )


def compare(base: Samples, head: Samples, min_effect: float) -> list[Line]:
    """A verdict for each figure that both sides have."""
    lines = []
    for key, values in head.items():
        if key in base:
            verdict = decide(base[key], values, min_effect, FIGURES[key[-1]].higher_is_better)
            lines.append(Line(key, statistics.median(base[key]), statistics.median(values), verdict))
    return lines


def _rounds(trees: Sequence[Tree], given: Race, folder: Path, console: Console) -> list[Samples]:
    """Each tree's figures over the rounds."""
    samples: list[Samples] = [{} for _ in trees]
    trees[0].throughput(given.options(folder / "warm-up.csv"), given.threads)
    for number in range(given.rounds):
        console.print(f"round {number + 1} of {given.rounds}", highlight=False)
        order = range(len(trees)) if number % 2 == 0 else reversed(range(len(trees)))
        for side in order:
            path = folder / f"{number}-{side}.csv"
            trees[side].throughput(given.options(path), given.threads)
            for key, values in read_samples(path).items():
                samples[side].setdefault(key, []).extend(values)
    return samples


def _baseline(path: Path, device: torch.device) -> Samples:
    """InputError unless all of it was measured on this device."""
    name = device_facts(device)["name"]
    if others := sorted({row["device"] for row in _rows(path)} - {name}):
        raise InputError(f"{path}: measured on {others[0]}, this is {name}; take a CSV of this device, or a commit")
    return read_samples(path)


def read_samples(path: Path) -> Samples:
    """Figures by cell of a CSV of ``harness throughput``, of this or another commit; a cell may stand there twice."""
    samples: Samples = {}
    for row in _rows(path):
        for figure in FIGURES:
            if row.get(figure):
                samples.setdefault((*(row[field] for field in _CELL), figure), []).append(float(row[figure]))
    return samples


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            if any(row.get(field) is None for field in (*_CELL, "device")):
                raise ValueError(f"a row lacks one of {', '.join(_CELL)}, device")
            [float(row[figure]) for figure in FIGURES if row.get(figure)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: no CSV of `harness throughput` ({error}); give one, or a commit") from None
    if not rows:
        raise InputError(f"{path}: holds no rows; measure a cell first")
    return rows


def _table(base: str, head: str, lines: Sequence[Line]) -> Table:
    """Medians, the change between them and the range that both spreads leave to it; whole at 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=f"base: {base}, head: {head}")
    table.add_column("cell", overflow="fold", min_width=12)
    for name in ("figure", "base", "head", "change", "range", "verdict"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("base", "head", "change", "range") else "left")
    for line in lines:
        model, engine, dtype, _, batch, prompt, new_tokens, figure = line.key
        v = line.verdict
        table.add_row(
            f"{model}, {engine}, {dtype}, {batch} x ({prompt} + {new_tokens})", FIGURES[figure].label,
            f"{line.base:,.4g}", f"{line.head:,.4g}", f"{100 * v.change:+.1f} %",
            "once" if v.worst is None or v.best is None else f"{100 * v.worst:+.1f} to {100 * v.best:+.1f}", v.word,
        )  # fmt: skip
    return table
