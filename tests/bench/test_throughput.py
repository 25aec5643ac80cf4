"""The throughput job on the CPU: what it counts, what it keeps, what it refuses. Nothing here asserts a speed."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from rich.console import Console

from harness.bench.fit import Fit
from harness.bench.grid import Grid, _Book, run_grid
from harness.bench.regress_workload import tiny_hybrid
from harness.bench.roofline import Ceilings, Workload, products_flop, step_seconds
from harness.bench.throughput import Bench, Cell
from harness.engine.memory import largest_batch
from harness.models.resolve import load_model
from harness.records import InputError
from harness.report.throughput import (
    KernelTime,
    Measurement,
    Row,
    read_rows,
    split_table,
    throughput_tables,
    write_rows,
)
from harness.report.throughput_plot import throughput_plot
from harness.runs.manifest import device_facts

CPU = torch.device("cpu")
HERE = device_facts(CPU)["name"]
CEILINGS = Ceilings(1e10, 1e11)


def row(model: str = "random:tiny-mamba", batch: int = 4, new_tokens: int = 8, rate: float = 100.0) -> Row:
    return Row(
        model, "eager", HERE, "float32", "float32", batch, 16, new_tokens, rate, 1.5, 0.25, None, 0.5, None, 1.25
    )


def grid(tmp_path: Path, **changes: object) -> Grid:
    given = Grid(
        ("random:tiny-teacher", "random:tiny-mamba"), (2, 3), (16,), 8, 1, True, tmp_path / "rows.csv", False,
        tmp_path / "rows.png", CPU, torch.float32,
    )  # fmt: skip
    return dataclasses.replace(given, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows_per_prompt", [1, 3])
def test_every_row_decodes_every_token(rows_per_prompt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[float] = []
    decode = Bench._decode

    def spy(self: Bench, *given: object) -> object:
        windows = decode(self, *given)  # type: ignore[arg-type]
        counted.append(windows[:, 0].sum())
        return windows

    monkeypatch.setattr(Bench, "_decode", spy)
    bench = Bench(load_model("random:tiny-hybrid", torch.float32, CPU), "a CPU", CEILINGS, ignore_eos=True)
    measured = bench.measure(Cell(5, 7, 19, rows_per_prompt))
    assert counted == [5 * 19] * 4  # a warm-up, then three repeats
    assert measured.slowest <= measured.row.tokens_per_s <= measured.fastest
    assert measured.row.ms_per_step > 0 and measured.prefill_s > 0
    assert measured.row.peak_gib is None and measured.row.joules_per_ktok is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the native engine's kernels on the CPU, interpreted")
def test_the_native_engine_is_held_to_the_deferred_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.bench.throughput.product_flop_per_s", lambda config, rows, dtype, device: rows * 1e9)
    model, cell = tiny_hybrid(), Cell(2, 3, 2)
    bench = Bench(model, "a CPU", CEILINGS, True, "native", torch.float16)
    measured = bench.measure(cell)
    ceilings = dataclasses.replace(CEILINGS, product_flop_per_s=2e9)
    work = Workload(2, 3, 2, dtype_bytes=4, state_bytes=2, deferred=True)
    limit_ms = 1000 * step_seconds(model.config, work, ceilings)
    assert measured.row.roofline_share == pytest.approx(limit_ms / measured.row.ms_per_step)
    assert limit_ms != pytest.approx(
        1000 * step_seconds(model.config, dataclasses.replace(work, deferred=False), ceilings)
    )
    assert measured.split == ()  # a CPU has no trace of its kernels


@pytest.mark.parametrize(
    ("us", "launches", "held_to"),
    [
        pytest.param(10.0, 33.0, "split", id="faster in the step"),
        pytest.param(1e9, 33.0, "alone", id="faster by themselves"),
        pytest.param(10.0, 32.0, "alone", id="a trace that lacks one"),
    ],
)
def test_products_are_held_to_the_faster_of_their_split_and_themselves(
    us: float, launches: float, held_to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 33: four in each of eight layers, and the head."""
    monkeypatch.setattr("harness.bench.throughput.product_flop_per_s", lambda config, rows, dtype, device: 1e9)
    split = (KernelTime("matrix products", launches, us, 1.0), KernelTime("rmsnorm.rmsnorm_kernel", 9, 5.0, 1.0))
    monkeypatch.setattr(Bench, "_split", lambda self, backend, cell: split)
    model = load_model("random:tiny-mamba", torch.float32, CPU)
    found = Bench(model, "a CPU", CEILINGS, ignore_eos=True).measure(Cell(2, 3, 4))
    flop = products_flop(model.config, 2)
    products = {"split": 1e6 * flop / us, "alone": 1e9}[held_to]
    work = Workload(2, 3, 4, dtype_bytes=4, state_bytes=4, deferred=False)
    limit_s = step_seconds(model.config, work, dataclasses.replace(CEILINGS, product_flop_per_s=products))
    assert found.row.roofline_share == pytest.approx(1000 * limit_s / found.row.ms_per_step)
    assert found.products_us == pytest.approx(1e6 * flop / 1e9) and found.split == split


def test_tables_of_a_gpu_are_whole_at_80_columns() -> None:
    wide = dataclasses.replace(
        row("random:llamba-1b", 1024, 4096, 123456.7), engine="mamba_ssm", prompt=1024, ms_per_step=12.34,
        roofline_share=0.812, sampling_share=0.0512, host_gap_share=0.0123, peak_gib=71.25, joules_per_ktok=12.34,
    )  # fmt: skip
    console = Console(record=True, width=80)
    for table in throughput_tables([Measurement(wide, 120456.7, 125456.7, 12.345, (), 123456)]):
        console.print(table)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "model engine batch prompt new tok/s spread ms/step roof" in lines
    assert any(line.endswith("mamba_ssm 1024 1024 4096 123,457 120,457-125,457 12.3 81.2 %") for line in lines)
    assert "model engine batch new draw gap prefill GiB largest J/ktok" in lines
    assert any(line.endswith("mamba_ssm 1024 4096 5.1 % 1.2 % 12.35 71.2 123456 12.34") for line in lines)


def test_split_table_shows_shares_of_a_step() -> None:
    split = (KernelTime("matrix products", 9, 75.0, 2500.0), KernelTime("rmsnorm.rmsnorm_kernel", 3, 25.0, 1250.5))
    console = Console(record=True, width=80)
    console.print(split_table(Measurement(row(), 90.0, 110.0, 0.5, split, products_us=1322.04)))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "matrix products 9 75.0 75.0 % 2,500" in lines and "rmsnorm.rmsnorm_kernel 3 25.0 25.0 % 1,250" in lines
    assert "products by themselves: 1,322.0 us; the roofline has the faster" in " ".join(lines)
    assert split_table(Measurement(row(), split=split)).caption is None


def test_a_cell_beyond_the_context_is_refused_before_it_runs() -> None:
    bench = Bench(load_model("random:tiny-mamba", torch.float32, CPU), "a CPU", CEILINGS, ignore_eos=True)
    with pytest.raises(InputError, match=r"prompt \+ new_tokens = 1281: .* context of 1280"):
        bench.measure(Cell(1, 281, 1000))


def test_grid_writes_rows_table_and_plot(tmp_path: Path) -> None:
    console = Console(record=True, width=80)
    run_grid(grid(tmp_path), console)
    rows = read_rows(tmp_path / "rows.csv")
    assert [(r.model, r.batch) for r in rows] == [
        (model, batch) for model in ("random:tiny-teacher", "random:tiny-mamba") for batch in (2, 3)
    ]
    assert (tmp_path / "rows.png").stat().st_size > 10_000
    text = console.export_text()
    folded = " ".join(text.split())
    assert "student teacher at ahead from predicted own products measured" in folded
    assert "batch 2" in folded and "16 new" in folded and "prompts not shared" in folded


def test_a_crossover_is_measured_where_the_student_stays_ahead(tmp_path: Path) -> None:
    student, teacher, lengths = "random:tiny-mamba", "random:tiny-teacher", (8, 16, 32, 64, 128)
    rows = [row(student, 2, n, r) for n, r in zip(lengths, (90.0, 110.0, 95.0, 120.0, 120.0), strict=True)]
    rows += [row(teacher, 2, n, 100.0) for n in lengths]
    rows += [row(student, 4, 8, 50.0), row(teacher, 4, 8, 60.0)]
    rows.append(dataclasses.replace(row(student, 2, 32, 500.0), engine="vllm"))  # of another engine: no say
    write_rows(tmp_path / "rows.csv", rows)
    console = Console(record=True, width=200)
    pairs = (*(f"2x{n}" for n in lengths), "4x8")
    run_grid(grid(tmp_path, go_on=True, plot_path=None, pairs=pairs, models=(teacher, student), prompt=16), console)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    for at, ending in (("batch 2 new tokens", " 64"), ("batch 4 new tokens", "not by 8"), ("8 new batch", "not by 4")):
        assert any(line.startswith(f"{student} {teacher} {at}") and line.endswith(ending) for line in lines), at
    assert read_rows(tmp_path / "rows.csv") == rows  # nothing was measured
    assert any(line.startswith(f"{teacher} eager 2 16 8 100 – 1.5 25.0 %") for line in lines)


@pytest.mark.parametrize("engine", ["eager", "native"])
@pytest.mark.parametrize("rows_per_prompt", [1, 3])
def test_the_largest_batch_is_the_last_that_fits(engine: str, rows_per_prompt: int) -> None:
    model, cell = tiny_hybrid(), Cell(2, 5, 40, rows_per_prompt)
    fit = Fit("tiny", model.config, torch.float32, engine, torch.float32, 20_000_000)
    largest = fit.largest(cell)

    def fits(rows: int) -> bool:
        prompts = [cell.prompt] * -(-rows // rows_per_prompt)
        return largest_batch(model.decoder, prompts, cell.new_tokens, engine, torch.float32, 20_000_000) >= rows

    assert largest > cell.batch and fits(largest) and not fits(largest + 1)
    fit.check(dataclasses.replace(cell, batch=largest))
    with pytest.raises(InputError, match=rf"batch = {largest + 1}: .* GiB free .*; use at most {largest}$"):
        fit.check(dataclasses.replace(cell, batch=largest + 1))


def test_of_two_measurements_of_a_cell_the_faster_stands(tmp_path: Path) -> None:
    book = _Book(tmp_path / "rows.csv", [row(rate=100.0), row(batch=8)])
    book.add(Measurement(row(rate=90.0)))
    assert not (tmp_path / "rows.csv").exists() and not book.measured
    book.add(Measurement(row(rate=110.0)))
    assert read_rows(tmp_path / "rows.csv") == [row(rate=110.0), row(batch=8)]


def test_cells_may_be_named_one_by_one(tmp_path: Path) -> None:
    assert grid(tmp_path, pairs=("2x16", "5x4")).cells() == [Cell(2, 8, 16), Cell(5, 8, 4)]
    for wrong in ("256", "x16", "2 x 16", "2x16x4", "twox16"):
        with pytest.raises(InputError, match=f"--cell '{wrong}': must be BATCHxTOKENS"):
            grid(tmp_path, pairs=(wrong,)).cells()


def test_go_on_measures_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [row(batch=2, new_tokens=16), row("random:tiny-teacher", batch=3, new_tokens=16)]
    kept = [dataclasses.replace(r, prompt=8) for r in kept]
    write_rows(tmp_path / "rows.csv", kept)
    seen: list[tuple[str, int]] = []
    measure = Bench.measure

    def spy(self: Bench, cell: Cell) -> object:
        seen.append((self.model.name, cell.batch))
        return measure(self, cell)

    monkeypatch.setattr(Bench, "measure", spy)
    run_grid(grid(tmp_path, go_on=True, plot_path=None), Console(quiet=True))
    assert seen == [("random:tiny-teacher", 2), ("random:tiny-mamba", 3)]
    rows = read_rows(tmp_path / "rows.csv")
    assert rows[:2] == kept and len(rows) == 4


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    rows = [row(), row("random:tiny-teacher", 8, 16, 12345.6)]
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv") == rows


def test_a_csv_of_something_else_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("model,engine\ntiny,eager\n")
    with pytest.raises(InputError, match=r"rows.csv, line 1: not the columns model,engine,device"):
        read_rows(tmp_path / "rows.csv")
    write_rows(tmp_path / "rows.csv", [row()])
    text = (tmp_path / "rows.csv").read_text().replace("100", "fast")
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match="line 2"):
        read_rows(tmp_path / "rows.csv")


def test_plot_draws_each_line_and_its_roofline() -> None:
    rows = [row(m, b, n) for m in ("a", "b") for b in (2, 4) for n in (8, 16)]
    figure = throughput_plot(rows)
    for ax in figure.axes:
        assert len(ax.lines) == 2 * 2 * 2
    rivals = [dataclasses.replace(row(chr(97 + i), 2, 8), engine=e) for i in range(8) for e in ("vllm", "mamba_ssm")]
    for ax in throughput_plot(rivals).axes:
        drawn = {(line.get_color(), line.get_marker(), line.get_fillstyle()) for line in ax.lines}
        assert len(drawn) == len(ax.lines) == 16
    kinds = [dataclasses.replace(row("a", 2, 8), dtype="bfloat16", state_dtype=s) for s in ("float16", "float32")]
    figure = throughput_plot(kinds)
    assert [text.get_text() for text in figure.legends[0].texts] == ["a, eager", "a, eager, fp32 states"]
    assert {len(ax.lines) for ax in figure.axes} == {4} and {
        line.get_alpha() for line in figure.axes[0].lines[::2]
    } == {
        0.45,
        1.0,
    }
    with pytest.raises(InputError, match="no throughput rows"):
        throughput_plot([])


def test_what_a_roofline_depends_on_is_said_beside_it(tmp_path: Path) -> None:
    """No column says it: with a CSV there is one way alone."""
    assert grid(tmp_path).circumstances == "prompts not shared"
    shared = grid(tmp_path, csv_path=None, rows_per_prompt=4, ignore_eos=False)
    assert shared.circumstances == "4 rows share a prompt, rows may end early"
    for given, said in (((), "prompt 16 tokens, prompts not shared"), (("4 rows share a prompt",), "4 rows share")):
        captions = [" ".join(text.get_text().split()) for text in throughput_plot([row()], *given).texts]
        assert any(said in caption for caption in captions)


def test_float64_weights_have_float64_states(tmp_path: Path) -> None:
    given = grid(tmp_path, dtype=torch.float64, models=("random:tiny-mamba",), batches=(2,), plot_path=None)
    console = Console(record=True, width=200)
    run_grid(given, console)
    (written,) = read_rows(tmp_path / "rows.csv")
    assert written.cell == given.key("random:tiny-mamba", Cell(2, 8, 16), "eager")
    lines = [line.split() for line in console.export_text().splitlines()]
    printed = next(words[5] for words in lines if words[:2] == ["random:tiny-mamba", "eager"])
    assert abs(int(printed.replace(",", "")) - written.tokens_per_s) < 0.51  # the CSV has six digits, rounded too


def test_plot_labels_and_ticks_leave_each_other_room() -> None:
    figure = throughput_plot([row(chr(97 + i), batch, 8) for i in range(5) for batch in (256, 260, 263, 512)])
    figure.canvas.draw()
    batch, length = figure.axes
    assert [tick.get_text() for tick in batch.get_xticklabels()] == ["256", "512"]
    for ax in (batch, length):
        boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
        assert boxes and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        frame = ax.get_window_extent()
        assert all(frame.x0 < box.x0 and box.x1 < frame.x1 for box in boxes)


def test_plot_is_drawn_though_its_labels_are_longer_than_itself() -> None:
    crowd = [row(chr(97 + i), 2, 8 + n) for i in range(6) for n in range(32)]
    assert all(len(label.get_text()) > 100 for label in throughput_plot(crowd).axes[0].texts)


def test_senseless_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch = 0"):
        Cell(0, 8, 8)
    with pytest.raises(InputError, match="--go-on"):
        Grid(("tiny-teacher",), (1,), (1,), 1, 1, True, None, True, None, CPU, torch.float32)
    for changes, message in (
        ({"engine": "fast"}, "--engine 'fast': must be auto, eager, native"),
        ({"engine": "native"}, "--engine native: its kernels run on a GPU"),
        ({"vllm_settings": "in-process"}, "--vllm-settings: needs --against vllm"),
        ({"state_dtype": torch.float16}, "--state-dtype: 16-bit states need the native engine"),
    ):
        with pytest.raises(InputError, match=message):
            grid(tmp_path, **changes)
