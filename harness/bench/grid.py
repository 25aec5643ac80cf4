"""``harness throughput``: all cells of models x batches x lengths, kept after each, with predicted crossovers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from harness.bench.ceilings import measure_ceilings
from harness.bench.cell import Cell
from harness.bench.rival import Circumstances
from harness.bench.roofline import Ceilings, Workload, crossover_batch, crossover_tokens
from harness.bench.throughput import Bench
from harness.engine.engines import check_engine
from harness.models.config import DecoderConfig
from harness.models.resolve import describe, fingerprint, load_model
from harness.records import InputError
from harness.report.style import save
from harness.report.throughput import (
    Crossover,
    Key,
    Measurement,
    Row,
    crossover_table,
    read_rows,
    split_table,
    throughput_tables,
    write_rows,
)
from harness.report.throughput_plot import throughput_plot
from harness.runs.manifest import device_facts

BATCHES = tuple(1 << i for i in range(13))  # in which a crossover is looked for
RIVALS = {"vllm": "vllm", "mamba-ssm": "mamba_ssm"}  # as an option and as a row's engine


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """Models x ``batches`` x ``lengths`` (new tokens), or x ``pairs`` of them ("256x1024") where there are any."""

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
    against: tuple[str, ...] = ()
    vllm_settings: str | None = None
    pairs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.engine == "vllm":
            raise InputError("--engine vllm: is a rival here; use --against vllm beside one of ours")
        check_engine(self.engine, self.device, self.dtype, self.state_dtype)
        if "vllm" in self.against:
            from harness.bench.vllm_rival import chosen_settings

            check_engine("vllm", self.device, self.dtype, self.state_dtype)
            chosen_settings(self.vllm_settings)
        elif self.vllm_settings is not None:
            raise InputError("--vllm-settings: needs --against vllm")
        if self.go_on and self.csv_path is None:
            raise InputError("--go-on: which file? name it with --csv")

    def cells(self) -> list[Cell]:
        pairs = [_pair(text) for text in self.pairs] or [(b, n) for n in self.lengths for b in self.batches]
        return [Cell(batch, self.prompt, length, self.rows_per_prompt) for batch, length in pairs]

    def key(self, model: str, cell: Cell, engine: str) -> Key:
        """Of a cell's row; mamba_ssm's states are of the weights' dtype."""
        state_dtype = self.dtype if engine == "mamba_ssm" else self.state_dtype
        return (model, engine, _name(self.dtype), _name(state_dtype), cell.batch, cell.prompt, cell.new_tokens)


def _pair(text: str) -> tuple[int, int]:
    if (found := re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)) is None:
        raise InputError(f"--cell {text!r}: must be BATCHxTOKENS, e.g. 256x1024")
    return int(found[1]), int(found[2])


class _Book:
    """Rows by cell, written to the CSV with each that comes; of two of one cell the faster stands."""

    def __init__(self, path: Path | None, kept: list[Row]) -> None:
        self.path, self.rows = path, {row.cell: row for row in kept}
        self.measured: dict[Key, Measurement] = {}

    def add(self, found: Measurement) -> None:
        key = found.row.cell
        if key in self.rows and self.rows[key].tokens_per_s >= found.row.tokens_per_s:
            return
        self.rows[key], self.measured[key] = found.row, found
        if self.path is not None:
            write_rows(self.path, list(self.rows.values()))


def run_grid(grid: Grid, console: Console) -> None:
    """Measure what is missing; the CSV is written after each cell, so that nothing measured is lost."""
    cells = grid.cells()  # a senseless cell is answered before anything is loaded
    kept = read_rows(grid.csv_path) if grid.go_on and grid.csv_path and grid.csv_path.exists() else []
    book = _Book(grid.csv_path, kept)
    name = device_facts(grid.device)["name"]
    ceilings = measure_ceilings(grid.device, grid.dtype)
    given = Circumstances(grid.device, name, grid.dtype, grid.state_dtype, ceilings, grid.ignore_eos)
    configs: dict[str, DecoderConfig] = {}
    product_lines: list[str] = []
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("throughput", total=len(grid.models) * len(cells))
        for model_name in grid.models:
            own = fingerprint(model_name).name
            missing = [cell for cell in cells if grid.key(own, cell, grid.engine) not in book.rows]
            bar.advance(task, len(cells) - len(missing))
            if missing:
                model = load_model(model_name, grid.dtype, grid.device)
                configs[own] = model.config
                bench = Bench(model, name, ceilings, grid.ignore_eos, grid.engine, grid.state_dtype)
                for cell in missing:
                    bar.update(task, description=f"{own}, {cell.batch} x {cell.new_tokens}")
                    book.add(bench.measure(cell))
                    bar.advance(task)
                product_lines += [f", {own}'s at {b} rows {r / 1e12:.3g}" for b, r in bench.product_ceilings.items()]
                del model, bench
            else:
                configs[own] = describe(model_name)[1]
            for found in _rivals(grid, model_name, cells, given, book, console):
                book.add(found)
    asked = [grid.key(m, cell, e) for m in configs for cell in cells for e in (grid.engine, *_engines(grid))]
    shown = [book.measured.get(key) or Measurement(book.rows[key]) for key in asked if key in book.rows]
    for table in (*throughput_tables(shown), *(split_table(m) for m in shown if m.split)):
        console.print(table)
    console.print(
        f"{name}: copy {ceilings.bytes_per_s / 1e9:,.0f} GB/s, large products {ceilings.flop_per_s / 1e12:.3g} TFLOP/s"
        f"{''.join(product_lines)} (measured now; roofline: copy and a model's own products; crossover: large ones)",
        highlight=False,
    )
    if crossovers := list(_crossovers(grid, configs, ceilings, cells, list(book.rows.values()))):
        console.print(crossover_table(crossovers))
    if grid.plot_path is not None:
        save(throughput_plot([row for row in book.rows.values() if row.model in configs]), grid.plot_path)


def _engines(grid: Grid) -> list[str]:
    return [RIVALS[rival] for rival in grid.against]


def _rivals(
    grid: Grid, model: str, cells: list[Cell], given: Circumstances, book: _Book, console: Console
) -> Iterator[Measurement]:
    """Cells that have a row are left out; of vLLM only where its settings were not named, since they may be others."""
    name = fingerprint(model).name

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    def missing(engine: str) -> list[Cell]:
        return [cell for cell in cells if grid.key(name, cell, engine) not in book.rows]

    if "mamba-ssm" in grid.against:
        from harness.bench import mamba_rival

        yield from mamba_rival.measure_rival(model, missing("mamba_ssm"), given, tell)
    if "vllm" in grid.against:
        from harness.bench import vllm_rival

        wanted = missing("vllm") if grid.vllm_settings is None else cells
        settings = vllm_rival.chosen_settings(grid.vllm_settings)
        yield from vllm_rival.measure_rival(model, wanted, given, tell, settings)


def _crossovers(
    grid: Grid, configs: dict[str, DecoderConfig], ceilings: Ceilings, cells: list[Cell], rows: list[Row]
) -> Iterator[Crossover]:
    """For each student and the first all-attention model: where it overtakes, by the roofline and by the rows."""
    teacher = next((n for n, c in configs.items() if set(c.layers) == {"attention"}), None)
    mean = Workload(
        1, grid.prompt, 1, grid.rows_per_prompt, grid.dtype.itemsize, grid.state_dtype.itemsize, grid.engine == "native"
    )
    kinds = (grid.engine, _name(grid.dtype), _name(grid.state_dtype), grid.prompt)
    rows = [r for r in rows if (r.engine, r.dtype, r.state_dtype, r.prompt) == kinds]
    for student, config in configs.items():
        if teacher is None or student == teacher or set(config.layers) == {"attention"}:
            continue
        for batch in dict.fromkeys(cell.batch for cell in cells):
            work = dataclasses.replace(mean, batch=batch)
            turn = crossover_tokens(configs[teacher], config, work, ceilings)
            seen = _ahead(rows, student, teacher, "new_tokens", ("batch", batch))
            yield Crossover(student, teacher, f"batch {batch}", "new tokens", turn, _first(seen), tuple(seen))
        for length in dict.fromkeys(cell.new_tokens for cell in cells):
            work = dataclasses.replace(mean, new_tokens=length)
            turn = crossover_batch(configs[teacher], config, work, ceilings, BATCHES)
            seen = _ahead(rows, student, teacher, "batch", ("new_tokens", length))
            yield Crossover(student, teacher, f"{length} new", "batch", turn, _first(seen), tuple(seen))


def _ahead(rows: list[Row], student: str, teacher: str, along: str, at: tuple[str, int]) -> dict[int, bool]:
    """Of each value of ``along``, ascending, that both have a row of: is the student the faster one?"""
    rates: dict[int, dict[str, float]] = {}
    for row in rows:
        if getattr(row, at[0]) == at[1]:
            rates.setdefault(getattr(row, along), {})[row.model] = row.tokens_per_s
    return {v: r[student] > r[teacher] for v, r in sorted(rates.items()) if student in r and teacher in r}


def _first(ahead: dict[int, bool]) -> int | None:
    """The smallest value from which on the student is the faster one."""
    first = None
    for value, is_ahead in reversed(ahead.items()):
        if not is_ahead:
            break
        first = value
    return first


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
