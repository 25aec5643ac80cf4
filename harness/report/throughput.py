"""Throughput rows: the CSV they are kept in, and the tables a terminal shows."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from rich import box
from rich.table import Table

from harness.records import InputError
from harness.report.target import beside

BLANK = "–"

# Model, engine, dtype, state dtype, batch, prompt, new tokens.
Key: TypeAlias = tuple[str, str, str, str, int, int, int]


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
    def cell(self) -> Key:
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
    """A row with what the tables say beside it: slowest and fastest tokens/s seen, seconds of prefill, the split of a
    step by kernel where a trace has one, the rows of these lengths that memory holds, and the microseconds that a
    step's matrix products take by themselves. A row that an earlier call measured has none of it.
    """

    row: Row
    slowest: float | None = None
    fastest: float | None = None
    prefill_s: float | None = None
    split: tuple[KernelTime, ...] = ()
    largest_batch: int | None = None
    products_us: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Crossover:
    """Where ``student`` overtakes ``teacher``: ``along`` (new tokens or batch) at a fixed value of the other.

    ``predicted``: by the roofline, None for never; ``own``: the same with each model's own products, where this call
    measured them (``own_known``). ``measured``: the smallest value from which on its rows are the faster ones, None
    where they are not at the largest of ``seen``, the values that both have rows of.
    """

    student: str
    teacher: str
    at: str
    along: str
    predicted: int | None
    measured: int | None
    seen: tuple[int, ...]
    own: int | None = None
    own_known: bool = False


def read_rows(path: Path, alone: bool = False) -> list[Row]:
    """The rows of a CSV that ``write_rows`` made; InputError naming the line for any other.

    Columns beside its own are left unread, unless its own must stand there ``alone``: writing would lose the others.
    """
    rows, names = [], [f.name for f in dataclasses.fields(Row)]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            found = names if reader.fieldnames is None else list(reader.fieldnames)  # None: an empty file
            if found != names and (alone or not set(names) <= set(found)):
                raise InputError(f"{path}, line 1: not the columns {','.join(names)}; name another file")
            for number, line in enumerate(reader, 2):
                try:
                    values = [_read(line[f.name], str(f.type)) for f in dataclasses.fields(Row)]
                except (KeyError, ValueError, TypeError) as error:
                    raise InputError(f"{path}, line {number}: not a throughput row ({error}); write it anew") from None
                rows.append(Row(*values))  # type: ignore[arg-type]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a CSV of `harness throughput --csv`") from None
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Whole or not at all, since a call may be cut off at any moment."""
    write_csv(path, [f.name for f in dataclasses.fields(Row)], map(_written, rows))


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Iterable[str]]) -> None:
    """As ``write_rows``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
    beside(path).replace(path)


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
    """Speed and cost, each whole at 80 columns.

    ``spread``: slowest to fastest repeat, or stretch of a long run; ``roof``: share of the roofline; ``draw`` and
    ``gap``: of a step, sampling and the host's gap; ``prefill``: seconds; ``largest``: rows that memory holds.
    """
    speed = _table("model", "engine", "batch", "prompt", "new", "tok/s", "spread", "ms/step", "roof")
    cost = _table("model", "engine", "batch", "new", "draw", "gap", "prefill", "GiB", "largest", "J/ktok")
    for m in measurements:
        r = m.row
        spread = BLANK if m.slowest is None else f"{m.slowest:,.0f}-{m.fastest:,.0f}"
        speed.add_row(
            r.model, r.engine, str(r.batch), str(r.prompt), str(r.new_tokens), f"{r.tokens_per_s:,.0f}", spread,
            f"{r.ms_per_step:.3g}", _percent(r.roofline_share),
        )  # fmt: skip
        cost.add_row(
            r.model, r.engine, str(r.batch), str(r.new_tokens), _percent(r.sampling_share), _percent(r.host_gap_share),
            _figure(m.prefill_s, 2), _figure(r.peak_gib, 1), BLANK if m.largest_batch is None else str(m.largest_batch),
            _figure(r.joules_per_ktok, 2),
        )  # fmt: skip
    return [speed, cost]


def crossover_table(crossovers: Sequence[Crossover]) -> Table:
    """What the roofline says beside what the rows say."""
    table = _table("student", "teacher", "at", "ahead from", "predicted", "predicted,\nown products", "measured")
    for c in crossovers:
        predicted, own = ("never" if n is None else f"{n:,}" for n in (c.predicted, c.own))
        measured = BLANK if not c.seen else f"not by {max(c.seen):,}" if c.measured is None else f"{c.measured:,}"
        table.add_row(c.student, c.teacher, c.at, c.along, predicted, own if c.own_known else BLANK, measured)
    return table


def split_table(measurement: Measurement) -> Table:
    """A step in the middle of a cell's chains, kernel by kernel; below it, what its products take by themselves."""
    r = measurement.row
    table = _table("kernel", "launches", "us/step", "share", "GB/s")
    table.title = f"{r.model}, {r.batch} x {r.new_tokens}"
    if measurement.products_us is not None:
        table.caption = f"products by themselves: {measurement.products_us:,.1f} us; the roofline has the faster"
    table.columns[1].justify = "right"
    whole = sum(part.us for part in measurement.split)
    for part in measurement.split:
        table.add_row(
            part.name, f"{part.launches:g}", f"{part.us:,.1f}", _percent(part.us / whole), f"{part.gb_per_s:,.0f}"
        )
    return table


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for i, header in enumerate(headers):
        fold = header in ("model", "teacher") or i == 0  # a long model name folds, nothing else gives way
        table.add_column(
            header,
            justify="left" if i < 2 else "right",
            no_wrap=not fold,
            overflow="fold",
            min_width=10 if fold else None,
        )
    return table


def _figure(value: float | None, digits: int) -> str:
    return BLANK if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return BLANK if share is None else f"{100 * share:.1f} %"
