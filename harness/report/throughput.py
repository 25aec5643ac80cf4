"""Throughput rows: the CSV they are kept in, the table a terminal shows, the plot against batch and length."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from rich import box
from rich.table import Table

from harness.records import InputError
from harness.report import style

BLANK = "–"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the CSV; None where this engine or device gives no such figure.

    ``roofline_share`` is of what ``harness.bench.roofline`` allows for the algorithm in use; ``host_gap_share`` and
    ``sampling_share`` are shares of a step; ``peak_gib`` is the device's own memory.
    """

    model: str
    engine: str
    device: str
    dtype: str
    state_dtype: str
    batch: int
    prompt: int
    new_tokens: int
    tokens_per_s: float
    ms_per_step: float
    roofline_share: float | None
    host_gap_share: float | None
    sampling_share: float | None
    peak_gib: float | None
    joules_per_ktok: float | None

    @property
    def cell(self) -> tuple[str, str, str, str, int, int, int]:
        """What two rows of one file may not both have."""
        return (self.model, self.engine, self.dtype, self.state_dtype, self.batch, self.prompt, self.new_tokens)


@dataclasses.dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel's part of a step: launches, microseconds, and the bytes planned for it over its time in GB/s."""

    name: str
    launches: float
    us: float
    gb_per_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """A row with what the tables say beside it: slowest and fastest tokens/s seen, seconds of prefill, and the split
    of a step by kernel where a trace has one."""

    row: Row
    slowest: float
    fastest: float
    prefill_s: float
    split: tuple[KernelTime, ...] = ()


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV that ``write_rows`` made; InputError naming the line for any other."""
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, line in enumerate(csv.DictReader(file), 2):
                try:
                    values = [_read(line[f.name], str(f.type)) for f in dataclasses.fields(Row)]
                except (KeyError, ValueError, TypeError) as error:
                    raise InputError(f"{path}, line {number}: not a throughput row ({error}); write it anew") from None
                rows.append(Row(*values))  # type: ignore[arg-type]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a CSV of `harness throughput --csv`") from None
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(f.name for f in dataclasses.fields(Row))
        writer.writerows(_written(row) for row in rows)


def _written(row: Row) -> Iterator[str]:
    for value in dataclasses.astuple(row):
        yield "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _read(text: str, kind: str) -> str | int | float | None:
    if kind == "str":
        return text
    if kind == "int":
        return int(text)
    return None if text == "" and "None" in kind else float(text)


def throughput_tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Speed and cost, each whole at 80 columns; ``spread``: slowest to fastest repeat, or stretch of a long run."""
    speed = _table("model", "engine", "batch", "prompt", "new", "tok/s", "spread", "ms/step", "roofline")
    cost = _table("model", "engine", "batch", "new", "sampling", "host gap", "prefill s", "GiB", "J/ktok")
    for m in measurements:
        r = m.row
        speed.add_row(
            r.model, r.engine, str(r.batch), str(r.prompt), str(r.new_tokens), f"{r.tokens_per_s:,.0f}",
            f"{m.slowest:,.0f}-{m.fastest:,.0f}", f"{r.ms_per_step:.3g}", _percent(r.roofline_share),
        )  # fmt: skip
        cost.add_row(
            r.model, r.engine, str(r.batch), str(r.new_tokens), _percent(r.sampling_share), _percent(r.host_gap_share),
            f"{m.prefill_s:.2g}", _figure(r.peak_gib, 1), _figure(r.joules_per_ktok, 2),
        )  # fmt: skip
    return [speed, cost]


def split_table(measurement: Measurement) -> Table:
    """A step in the middle of a cell's chains, kernel by kernel."""
    r = measurement.row
    table = _table("kernel", "launches", "us/step", "share", "GB/s")
    table.title = f"{r.model}, {r.batch} x {r.new_tokens}"
    table.columns[1].justify = "right"
    whole = sum(part.us for part in measurement.split)
    for part in measurement.split:
        table.add_row(
            part.name, f"{part.launches:g}", f"{part.us:,.1f}", _percent(part.us / whole), f"{part.gb_per_s:,.0f}"
        )
    return table


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, header in enumerate(headers):
        fold = i == 0  # a long model name folds, nothing else gives way
        table.add_column(
            header,
            justify="left" if i < 2 else "right",
            no_wrap=not fold,
            overflow="fold",
            min_width=12 if fold else None,
        )
    return table


def _figure(value: float | None, digits: int) -> str:
    return BLANK if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return BLANK if share is None else f"{100 * share:.1f} %"


def throughput_plot(rows: Sequence[Row]) -> Figure:
    """Tokens/s against batch (a line for each length) and against new tokens (one for each batch)."""
    if not rows:
        raise InputError("no throughput rows to draw; measure a cell first")
    names = list(dict.fromkeys((r.model, r.engine) for r in rows))
    looks = {name: style.look(i) for i, name in enumerate(names)}
    devices, dtypes = (" / ".join(sorted({getattr(r, f) for r in rows})) for f in ("device", "dtype"))
    fig, axes = style.figure(
        12.0, 6.0, "Tokens per second, sampling included", [],
        f"{devices} · {dtypes} · prompt {' / '.join(str(p) for p in sorted({r.prompt for r in rows}))} tokens"
        " · dashed: roofline of the algorithm in use, ceilings measured in the same run · numbers at the lines:"
        " new tokens (left), batch (right)",
        n_axes=2, legend=[style.handle(f"{model}, {engine}", looks[model, engine]) for model, engine in names],
        left_in=0.95,
    )  # fmt: skip
    for ax, along, fixed in zip(axes, ("batch", "new_tokens"), ("new_tokens", "batch"), strict=True):
        for name in names:
            mine = [r for r in rows if (r.model, r.engine) == name]
            for value in sorted({getattr(r, fixed) for r in mine}):
                line = sorted((r for r in mine if getattr(r, fixed) == value), key=lambda r: getattr(r, along))
                x = [getattr(r, along) for r in line]
                look = looks[name]
                ax.plot(x, [r.tokens_per_s for r in line], color=look.color, linestyle=look.line, marker=look.marker)
                ax.annotate(
                    f"{value:,}", (x[-1], line[-1].tokens_per_s), xytext=(7, 0), textcoords="offset points",
                    va="center", fontsize=9, color=look.color,
                )  # fmt: skip
                limits = [
                    (a, r.tokens_per_s / r.roofline_share) for a, r in zip(x, line, strict=True) if r.roofline_share
                ]
                ax.plot(
                    [a for a, _ in limits], [rate for _, rate in limits], "--", color=look.color, linewidth=0.9,
                    marker=look.marker, markerfacecolor="white", markersize=5,
                )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ticks = sorted({getattr(r, along) for r in rows})
        ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
        ax.set_xlabel({"batch": "batch (rows)", "new_tokens": "new tokens"}[along])
    axes[0].set_ylabel("tokens/s")
    return fig
