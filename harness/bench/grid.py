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
from harness.bench.crossovers import find_crossovers
from harness.bench.fit import Fit
from harness.bench.rival import Circumstances
from harness.bench.roofline import Workload
from harness.bench.throughput import Bench
from harness.engine.engines import check_engine, check_model
from harness.models.config import DecoderConfig
from harness.models.resolve import config_that_fits, fingerprint, load_model
from harness.models.weights import available_bytes, parameters
from harness.records import InputError
from harness.report.style import check_plot, save
from harness.report.target import check_writable
from harness.report.throughput import (
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
from harness.report.throughput_split import Splits, read_splits, set_split, split_path, write_splits
from harness.runs.manifest import device_facts

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
        if "mamba-ssm" in self.against:
            from harness.bench import mamba_rival

            mamba_rival.check_installed(self.device)
        if self.go_on and self.csv_path is None:
            raise InputError("--go-on: which file? name it with --csv")
        if self.csv_path is not None and self.rows_per_prompt > 1:
            raise InputError(
                f"--rows-per-prompt {self.rows_per_prompt}: no column of --csv says that prompts are shared; leave one"
                " of the two out"
            )
        if self.csv_path is not None and not self.ignore_eos:
            raise InputError("--csv: no column says that rows ended early; add --ignore-eos, so that none does")

    @property
    def circumstances(self) -> str:
        """What a roofline depends on and no column says."""
        shared = f"{self.rows_per_prompt} rows share a prompt" if self.rows_per_prompt > 1 else "prompts not shared"
        return shared if self.ignore_eos else f"{shared}, rows may end early"

    def cells(self) -> list[Cell]:
        pairs = [_pair(text) for text in self.pairs] or [(b, n) for n in self.lengths for b in self.batches]
        return [Cell(batch, self.prompt, length, self.rows_per_prompt) for batch, length in pairs]

    def key(self, model: str, cell: Cell, engine: str) -> Key:
        """Of a cell's row; mamba_ssm's states are of the weights' dtype, and so are those of float64 weights."""
        own = engine == "mamba_ssm" or self.dtype == torch.float64
        state_dtype = self.dtype if own else self.state_dtype
        return (model, engine, _name(self.dtype), _name(state_dtype), cell.batch, cell.prompt, cell.new_tokens)


def _pair(text: str) -> tuple[int, int]:
    if (found := re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)) is None:
        raise InputError(f"--cell {text!r}: must be BATCHxTOKENS, e.g. 256x1024")
    return int(found[1]), int(found[2])


class _Book:
    """Rows by cell, written to the CSV with each that comes; of two of one cell the faster stands."""

    def __init__(self, path: Path | None, kept: list[Row], splits: Splits | None = None) -> None:
        self.path, self.rows, self.splits = path, {row.cell: row for row in kept}, splits or {}
        self.measured: dict[Key, Measurement] = {}

    def add(self, found: Measurement) -> None:
        key = found.row.cell
        if key in self.rows and self.rows[key].tokens_per_s >= found.row.tokens_per_s:
            return
        self.rows[key], self.measured[key] = found.row, found
        if self.path is not None:
            write_rows(self.path, list(self.rows.values()))
            set_split(self.splits, found.row, found.split)
            if self.splits or split_path(self.path).exists():
                write_splits(split_path(self.path), self.splits)


def run_grid(grid: Grid, console: Console) -> None:
    """Measure what is missing; the CSV is written after each cell, so that nothing measured is lost.

    What cannot be run, held or written is an InputError before anything is measured or loaded.
    """
    name = device_facts(grid.device)["name"]
    cells = grid.cells()
    book = _open_book(grid, name)
    configs = _check_models(grid, cells, book)
    ceilings = measure_ceilings(grid.device, grid.dtype)
    given = Circumstances(grid.device, name, grid.dtype, grid.state_dtype, ceilings, grid.ignore_eos)
    products: dict[str, dict[int, float]] = {}  # FLOP/s by model and batch
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("throughput", total=len(grid.models) * len(cells))
        for model_name, own in zip(grid.models, configs, strict=True):
            missing = _missing(grid, own, cells, book)
            bar.advance(task, len(cells) - len(missing))
            if missing:
                model = load_model(model_name, grid.dtype, grid.device)
                bench = Bench(model, name, ceilings, grid.ignore_eos, grid.engine, grid.state_dtype)
                for cell in missing:
                    bar.update(task, description=f"{own}, {cell.batch} x {cell.new_tokens}")
                    book.add(bench.measure(cell))
                    bar.advance(task)
                products[own] = bench.product_ceilings
                del model, bench
            for found in _rivals(grid, model_name, cells, given, book, console):
                book.add(found)
    asked = [grid.key(m, cell, e) for m in configs for cell in cells for e in (grid.engine, *_engines(grid))]
    shown = [book.measured.get(key) or Measurement(book.rows[key]) for key in asked if key in book.rows]
    for table in (*throughput_tables(shown), *(split_table(m) for m in shown if m.split)):
        console.print(table)
    of_models = [f", {own}'s at {b} rows {r / 1e12:.3g}" for own, rates in products.items() for b, r in rates.items()]
    console.print(
        f"{name}: copy {ceilings.bytes_per_s / 1e9:,.0f} GB/s, large products {ceilings.flop_per_s / 1e12:.3g} TFLOP/s"
        f"{''.join(of_models)} (measured now; roofline: copy and a model's own products; crossover: large ones, or its"
        f" own where measured; {grid.circumstances})",
        highlight=False,
    )
    mean = Workload(
        1, grid.prompt, 1, grid.rows_per_prompt, grid.dtype.itemsize, grid.state_dtype.itemsize, grid.engine == "native"
    )
    kinds = {grid.key("", cell, grid.engine)[1:4] for cell in cells}
    comparable = [r for r in book.rows.values() if r.prompt == grid.prompt and r.cell[1:4] in kinds]
    if crossovers := list(find_crossovers(configs, mean, cells, ceilings, products, comparable)):
        console.print(crossover_table(crossovers))
    if grid.plot_path is not None:
        rows = [row for row in book.rows.values() if row.model in configs]
        save(throughput_plot(rows, grid.circumstances), grid.plot_path)


def _open_book(grid: Grid, device_name: str) -> _Book:
    """With what is kept of the CSV; InputError where that is no such CSV, of another device or cannot be written."""
    if grid.plot_path is not None:
        check_plot(grid.plot_path, "--plot")
    if (path := grid.csv_path) is None:
        return _Book(None, [])
    for file in (path, split_path(path)):
        check_writable(file, "--csv")
    if not grid.go_on or not path.exists():
        return _Book(path, [])
    kept = read_rows(path, alone=True)
    if others := sorted({row.device for row in kept} - {device_name}):
        raise InputError(f"--csv {path}: has rows of {others[0]}, this is {device_name}; name another file")
    return _Book(path, kept, read_splits(split_path(path)))


def _check_models(grid: Grid, cells: list[Cell], book: _Book) -> dict[str, DecoderConfig]:
    """Configs by a row's model; InputError for a wrong name, and for what memory or context cannot hold."""
    configs: dict[str, DecoderConfig] = {}
    for name in grid.models:
        own, config = fingerprint(name).name, config_that_fits(name, grid.dtype, grid.device)
        if own in configs:
            raise InputError(f"--model: two are called {own!r}; name each once, or rename a folder")
        check_model(grid.engine, config)
        free_bytes = available_bytes(grid.device) - parameters(config) * grid.dtype.itemsize
        fit = Fit(own, config, grid.dtype, grid.engine, grid.state_dtype, free_bytes)
        for cell in _missing(grid, own, cells, book):
            fit.check(cell)
        configs[own] = config
    return configs


def _missing(grid: Grid, model: str, cells: list[Cell], book: _Book) -> list[Cell]:
    return [cell for cell in cells if grid.key(model, cell, grid.engine) not in book.rows]


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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
