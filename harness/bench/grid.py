"""``harness throughput``: all cells of models x batches x lengths, kept after each, with predicted crossovers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from harness.bench.ceilings import measure_ceilings
from harness.bench.roofline import Ceilings, Workload, crossover_batch, crossover_tokens
from harness.bench.throughput import Bench, Cell
from harness.engine.engines import check_engine
from harness.models.config import DecoderConfig
from harness.models.resolve import fingerprint, load_model
from harness.records import InputError
from harness.report.style import save
from harness.report.throughput import (
    Measurement,
    Row,
    read_rows,
    split_table,
    throughput_plot,
    throughput_tables,
    write_rows,
)
from harness.runs.manifest import device_facts

BATCHES = tuple(1 << i for i in range(13))  # in which a crossover is looked for


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    models: tuple[str, ...]
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    prompt: int
    rows_per_prompt: int
    ignore_eos: bool
    csv_path: Path | None
    go_on: bool
    plot_path: Path | None
    device: torch.device
    dtype: torch.dtype
    engine: str = "eager"
    state_dtype: torch.dtype = torch.float32
    against: str | None = None

    def __post_init__(self) -> None:
        if self.engine == "vllm":
            raise InputError("--engine vllm: is a rival here; use --against vllm beside one of ours")
        check_engine(self.engine, self.device, self.dtype, self.state_dtype)
        if self.against == "vllm":
            check_engine("vllm", self.device, self.dtype, self.state_dtype)
        if self.go_on and self.csv_path is None:
            raise InputError("--go-on: which file? name it with --csv")

    def cells(self) -> list[Cell]:
        return [Cell(b, self.prompt, n, self.rows_per_prompt) for n in self.lengths for b in self.batches]


def run_grid(grid: Grid, console: Console) -> None:
    """Measure what is missing; the CSV is written after each cell, so that nothing measured is lost."""
    cells = grid.cells()  # a senseless cell is answered before anything is loaded
    kept = read_rows(grid.csv_path) if grid.go_on and grid.csv_path and grid.csv_path.exists() else []
    name = device_facts(grid.device)["name"]
    ceilings = measure_ceilings(grid.device, grid.dtype)
    measured: list[Measurement] = []
    configs: dict[str, DecoderConfig] = {}
    product_lines: list[str] = []
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("throughput", total=len(grid.models) * len(cells))
        for model_name in grid.models:
            model = load_model(model_name, grid.dtype, grid.device)
            configs[model.name] = model.config
            bench = Bench(model, name, ceilings, grid.ignore_eos, grid.engine, grid.state_dtype)
            for cell in cells:
                bar.update(task, description=f"{model.name}, {cell.batch} x {cell.new_tokens}")
                if not _has(kept, model.name, cell, grid):
                    measured.append(bench.measure(cell))
                    if grid.csv_path is not None:
                        write_rows(grid.csv_path, [*kept, *(m.row for m in measured)])
                bar.advance(task)
            product_lines += [
                f", {model.name}'s at {batch} rows {rate / 1e12:.3g}" for batch, rate in bench.product_ceilings.items()
            ]
            del model, bench
            if grid.against == "vllm":
                measured += _rivals(grid, model_name, cells, ceilings, kept, console)
                if grid.csv_path is not None:
                    write_rows(grid.csv_path, [*kept, *(m.row for m in measured)])
    for table in (*throughput_tables(measured), *(split_table(m) for m in measured if m.split)):
        console.print(table)
    console.print(
        f"{name}: copy {ceilings.bytes_per_s / 1e9:,.0f} GB/s, large products {ceilings.flop_per_s / 1e12:.3g} TFLOP/s"
        f"{''.join(product_lines)} (measured now; roofline: copy and a model's own products; crossover: large ones)",
        highlight=False,
    )
    for line in _crossovers(grid, configs, ceilings, [*kept, *(m.row for m in measured)]):
        console.print(line, highlight=False, markup=False)
    if grid.plot_path is not None:
        save(throughput_plot([*kept, *(m.row for m in measured)]), grid.plot_path)


def _rivals(
    grid: Grid, model: str, cells: list[Cell], ceilings: Ceilings, kept: list[Row], console: Console
) -> list[Measurement]:
    from harness.bench.vllm_rival import Circumstances, measure_rival

    if grid.device.type == "cuda":
        torch.cuda.empty_cache()
    name = device_facts(grid.device)["name"]
    given = Circumstances(grid.device, name, grid.dtype, grid.state_dtype, ceilings, grid.ignore_eos)
    missing = [cell for cell in cells if not _has(kept, fingerprint(model).name, cell, grid, "vllm")]
    return measure_rival(model, missing, given, lambda line: console.print(line, highlight=False, markup=False))


def _has(rows: list[Row], model: str, cell: Cell, grid: Grid, engine: str | None = None) -> bool:
    kinds = (_name(grid.dtype), _name(grid.state_dtype))
    return (model, engine or grid.engine, *kinds, cell.batch, cell.prompt, cell.new_tokens) in {r.cell for r in rows}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _crossovers(grid: Grid, configs: dict[str, DecoderConfig], ceilings: Ceilings, rows: list[Row]) -> list[str]:
    """For each student and the first all-attention model: where it overtakes, by the roofline and by the rows."""
    teacher = next((n for n, c in configs.items() if set(c.layers) == {"attention"}), None)
    mean = Workload(
        1, grid.prompt, 1, grid.rows_per_prompt, grid.dtype.itemsize, grid.state_dtype.itemsize, grid.engine == "native"
    )
    rows = [r for r in rows if r.engine == grid.engine]
    lines = []
    for student, config in configs.items():
        if teacher is None or student == teacher or set(config.layers) == {"attention"}:
            continue
        for batch in grid.batches:
            work = dataclasses.replace(mean, batch=batch)
            turn = crossover_tokens(configs[teacher], config, work, ceilings)
            seen = _first(rows, student, teacher, "new_tokens", ("batch", batch))
            lines.append(f"{student} past {teacher} at batch {batch}: predicted from {_say(turn)} new tokens, {seen}")
        for length in grid.lengths:
            work = dataclasses.replace(mean, new_tokens=length)
            turn = crossover_batch(configs[teacher], config, work, ceilings, BATCHES)
            seen = _first(rows, student, teacher, "batch", ("new_tokens", length))
            lines.append(f"{student} past {teacher} at {length} new tokens: predicted from batch {_say(turn)}, {seen}")
    return lines


def _first(rows: list[Row], student: str, teacher: str, along: str, at: tuple[str, int]) -> str:
    """The smallest measured value of ``along`` from which on the student is the faster one."""
    rates: dict[int, dict[str, float]] = {}
    for row in rows:
        if getattr(row, at[0]) == at[1]:
            rates.setdefault(getattr(row, along), {})[row.model] = row.tokens_per_s
    both = {v: r[student] > r[teacher] for v, r in sorted(rates.items()) if student in r and teacher in r}
    first = math.inf
    for value, ahead in reversed(both.items()):
        if not ahead:
            break
        first = value
    return f"measured from {first:,}" if first < math.inf else f"measured: not by {max(both, default=0):,}"


def _say(value: int | None) -> str:
    return "never" if value is None else f"{value:,}"
