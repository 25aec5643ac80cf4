"""The part of the regression gate that no clock decides: plans of steps, pool bytes, and a fixed workload's counts.

``results/plan.json`` holds the figures of the committed tree. Whatever grows past it fails the gate: launches and bytes
of a planned step in all, pool bytes, steps, prefills, calls that wait for the device. Kernels are listed to say where
a total went.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from harness.bench.cell import Cell
from harness.bench.plan import plan_step
from harness.bench.regress_workload import workload_counts
from harness.engine.device_state import planned_bytes
from harness.models.checkpoints.tokenizer import load_codec
from harness.models.resolve import TOKENIZER
from harness.models.shapes import SHAPES
from harness.records import InputError
from harness.report.target import check_writable

BASELINE = Path("results/plan.json")
PLANNED = (
    "llama-3.2-1b", "llama-3.2-3b", "llamba-1b", "llamba-3b", "mamba-in-llama-1b", "mamba-in-llama-3b", "mamba2-1.3b",
)  # fmt: skip
# One row, a usual batch of prompts of their own, a large one of shared prompts.
CELLS = (Cell(1, 128, 1024), Cell(256, 128, 1024), Cell(512, 128, 4096, 64))
WEIGHTS, STATE = torch.bfloat16, torch.float16
KERNELS = "kernels"

Figures = dict[str, dict[str, dict[str, Any]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A figure that differs; None where one side does not have it."""

    section: str
    figure: str
    before: int | None
    after: int | None

    @property
    def fails(self) -> bool:
        return self.before is None or self.after is None or self.after > self.before

    def __str__(self) -> str:
        return f"{self.section}: {self.figure} {_say(self.before)} -> {_say(self.after)}"


def check_plan(path: Path, write: bool, console: Console) -> bool:
    """Print what changed against the figures in ``path``, or write them there; whether the gate holds."""
    if write:
        check_writable(path, "--baseline")
    before = None if write else read_figures(path)
    torch.set_num_threads(1)  # small tensors
    after = current_figures()
    if before is None:
        write_figures(path, after)
        console.print(f"written: {path}", highlight=False)
        return True
    changes = compare(before, after)
    for section in dict.fromkeys(change.section for change in changes):
        for change in (c for c in changes if c.section == section):
            console.print(f"{'GREW ' if change.fails else 'fell '} {change}", highlight=False, soft_wrap=True)
        for line in kernels_changed(before, after, section):
            console.print(f"       {line}", highlight=False, markup=False, soft_wrap=True)
    failing = sum(change.fails for change in changes)
    if failing:
        console.print(f"plan: {failing} figures grew; make them fall, or say why and run `harness regress --write`")
    elif changes:
        console.print(f"plan: {len(changes)} figures fell; keep that with `harness regress --write`")
    else:
        console.print(f"plan: as in {path}", highlight=False)
    return not failing


def current_figures() -> Figures:
    """The figures of this tree; wants Triton's interpreter (TRITON_INTERPRET=1)."""
    steps = {f"{shape}, {_name(cell)}": _step(shape, cell) for shape in PLANNED for cell in CELLS}
    return {"steps": steps, "workload": {engine: workload_counts(engine) for engine in ("eager", "native")}}


def _name(cell: Cell) -> str:
    shared = f", {cell.rows_per_prompt} a prompt" if cell.rows_per_prompt > 1 else ""
    return f"{cell.batch} x ({cell.prompt} + {cell.new_tokens}){shared}"


def _step(shape: str, cell: Cell) -> dict[str, Any]:
    config = SHAPES[shape]
    plan = plan_step(config, load_codec(TOKENIZER, config), cell, WEIGHTS, STATE)
    prompts = [cell.prompt] * -(-cell.batch // cell.rows_per_prompt)
    return {
        "launches": sum(part.launches for part in plan),
        "bytes": sum(part.read + part.written for part in plan),
        "pool bytes": planned_bytes(config, prompts, cell.new_tokens, cell.batch, WEIGHTS, STATE),
        KERNELS: {part.name: [part.launches, part.read + part.written] for part in plan},
    }


def read_figures(path: Path) -> Figures:
    """InputError for a file that ``write_figures`` did not make."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        compare(figures, figures)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it with `harness regress --write`") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{path}: not a plan's figures ({error!r}); make it with `harness regress --write`") from None
    return figures  # type: ignore[no-any-return]


def write_figures(path: Path, figures: Figures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A kernel a line, so that a difference reads well.
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    for section in figures["steps"].values():
        for pair in section[KERNELS].values():
            text = text.replace(json.dumps(pair, indent=1).replace("\n", "\n" + " " * 4), json.dumps(pair))
    path.write_text(text + "\n", encoding="utf-8")


def compare(before: Figures, after: Figures) -> list[Change]:
    """Totals that differ, in the order of ``after`` and then what it lacks."""
    old, new = _flat(before), _flat(after)
    names = [*new, *(name for name in old if name not in new)]
    return [Change(*name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _flat(figures: Figures) -> dict[tuple[str, str], int]:
    return {
        (section, figure): int(value)
        for part in ("steps", "workload")
        for section, values in figures[part].items()
        for figure, value in values.items()
        if figure != KERNELS
    }


def kernels_changed(before: Figures, after: Figures, section: str) -> list[str]:
    """One line for each kernel of a step whose launches or bytes differ."""
    old, new = (figures["steps"].get(section, {}).get(KERNELS, {}) for figures in (before, after))
    return [
        f"{name}: launches {_say(a[0])} -> {_say(b[0])}, bytes {_say(a[1])} -> {_say(b[1])}"
        for name in [*new, *(n for n in old if n not in new)]
        if (a := old.get(name, [None, None])) != (b := new.get(name, [None, None]))
    ]


def _say(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"
