"""What `harness throughput`, `sample`, `bench` and `regress --write` refuse, before anything is measured or loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.bench import grid, mamba_rival, regress_plan, rival
from harness.bench.cell import Cell
from harness.bench.fit import Fit
from harness.bench.rival import Circumstances
from harness.bench.roofline import Ceilings
from harness.engine.device_state import planned_bytes
from harness.engine.memory import needed_bytes, room
from harness.models import resolve, weights
from harness.models.shapes import SHAPES
from harness.models.state import prompt_bytes
from harness.models.weights import check_weights, parameters
from harness.records import InputError
from harness.report.throughput import Row, read_rows, write_rows
from harness.runs.manifest import device_facts

CPU = torch.device("cpu")
HERE = device_facts(CPU)["name"]
ROW = Row("random:tiny-mamba", "eager", HERE, "float32", "float32", 2, 8, 8, 9.0, 1.0, 0.2, None, None, None, None)
CELL = ("throughput", "--model", "random:tiny-mamba", "--cell", "2x8", "--prompt", "8", "--device", "cpu")


@pytest.fixture
def refused(
    harness: Callable[..., tuple[Any, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Call ``harness``, expect one line and exit code 2; whatever measures, loads or fills memory fails the test."""

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("refused too late")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # `regress --write` sets it: for this test alone
    monkeypatch.setattr(grid, "measure_ceilings", reached)
    monkeypatch.setattr(grid, "load_model", reached)
    monkeypatch.setattr(resolve, "_random", reached)
    monkeypatch.setattr(regress_plan, "current_figures", reached)

    def call(*arguments: object) -> str:
        code, out, err = harness(*arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("harness: ") and err.count("\n") == 1, err
        return err.removeprefix("harness: ").strip()

    return call


@pytest.mark.parametrize("command", ["throughput", "sample", "bench"])
def test_a_model_that_does_not_fit_is_named_with_its_numbers(
    command: str, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = parameters(SHAPES["tiny-mamba"])
    monkeypatch.setattr(weights, "available_bytes", lambda device: 8 * count - 1)
    said = refused(command, "--model", "random:tiny-mamba", "--dtype", "float64", "--device", "cpu")
    gib = count / 2**30
    assert said == (
        f"--model random:tiny-mamba: {count:,} parameters in float64 take {8 * gib:.2f} GiB, the cpu has"
        f" {8 * gib:.2f} GiB free; take a smaller model or --dtype bfloat16 ({2 * gib:.2f} GiB)"
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_that_just_fit_are_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SHAPES["llama-3.2-3b"]
    free = [2 * parameters(config)]
    monkeypatch.setattr(weights, "available_bytes", lambda device: free[0])
    check_weights("a", config, torch.bfloat16, CPU)
    free[0] -= 1
    with pytest.raises(InputError, match=r"GiB free; take a smaller model$"):
        check_weights("a", config, torch.bfloat16, CPU)
    with pytest.raises(InputError, match=r"^--model tiny-teacher: .* in float32"):
        free[0] = 1000
        resolve.load_model("tiny-teacher", torch.float32, CPU)


@pytest.mark.parametrize("engine", ["eager", "native"])
@pytest.mark.parametrize("name", SHAPES)
def test_no_engine_plans_less_than_the_bound_that_spares_a_plan(name: str, engine: str) -> None:
    for dtype, state in ((torch.bfloat16, torch.float16), (torch.float32, torch.float32)):
        planned = needed_bytes(SHAPES[name], dtype, [], 100, 64, engine, state)
        assert 64 * prompt_bytes(SHAPES[name], 100, dtype, state) <= planned


def test_what_an_h100_is_known_to_hold_still_fits() -> None:
    """280 rows of 2,048 tokens in 78.6 GiB beside the 3B teacher's weights; 6 GiB of them stay free."""
    config = SHAPES["llama-3.2-3b"]
    free = int(78.6 * 2**30) - 2 * parameters(config)
    fit = Fit("a", config, torch.bfloat16, "native", torch.float16, free)
    cell = Cell(280, 128, 2048)
    fit.check(cell)
    largest = fit.largest(cell)
    assert 280 <= largest < 300
    held = planned_bytes(config, [128] * largest, 2048, largest, torch.bfloat16, torch.float16)
    assert held <= room(free, "native")


@pytest.mark.parametrize("rows_per_prompt", [1, 7])
@pytest.mark.parametrize("batch", [3_000_000, 999_999_999])
def test_a_batch_that_does_not_fit_is_named_with_its_numbers(
    batch: int, rows_per_prompt: int, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "available_bytes", lambda device: 2**30)
    options = ("--cell", f"{batch}x8", "--rows-per-prompt", rows_per_prompt)
    said = refused(*CELL, *options)  # and the first cell, which fits, is not measured
    head, _, most = said.partition("; use at most ")
    assert head.startswith(f"batch = {batch}: rows of 8 + 8 tokens of random:tiny-mamba take ")
    assert " of the 0.98 GiB free beside its weights" in head
    free = 2**30 - 4 * parameters(SHAPES["tiny-mamba"])
    fit = Fit("a", SHAPES["tiny-mamba"], torch.float32, "eager", torch.float32, free)
    fit.check(Cell(int(most), 8, 8, rows_per_prompt))
    with pytest.raises(InputError):
        fit.check(Cell(int(most) + 1, 8, 8, rows_per_prompt))


def test_not_one_row_fits() -> None:
    for engine in ("eager", "native"):
        fit = Fit("a", SHAPES["tiny-teacher"], torch.float32, engine, torch.float32, 10_000)
        with pytest.raises(InputError, match=r"; lower --prompt or --new-tokens, or take a smaller model$"):
            fit.check(Cell(1, 8, 8))


def test_a_rivals_products_are_not_measured_beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Circumstances(CPU, "a CPU", torch.float32, torch.float32, Ceilings(1e10, 1e11), True)
    monkeypatch.setattr(rival, "available_bytes", lambda device: 2**30)
    monkeypatch.setattr(rival, "product_flop_per_s", lambda config, rows, dtype, device: float(rows))
    assert rival.product_ceilings(SHAPES["tiny-mamba"], [Cell(4, 8, 8)], given) == {4: 4.0}
    with pytest.raises(InputError, match=r"^batch = 9000000: measuring a matrix product .* 1.00 GiB are free"):
        rival.product_ceilings(SHAPES["tiny-mamba"], [Cell(4, 8, 8), Cell(9_000_000, 8, 8)], given)


def test_a_product_is_asked_both_layouts_of_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a 3B, 256 rows: its weight twice, the rows before it and the logits."""
    config = SHAPES["llama-3.2-3b"]
    free = 2 * (2 * 3072 * 128256 + 256 * (3072 + 128256))
    given = Circumstances(CPU, "a CPU", torch.bfloat16, torch.float16, Ceilings(1e10, 1e11), True)
    monkeypatch.setattr(rival, "available_bytes", lambda device: free)
    rival.check_products(config, 256, given)
    with pytest.raises(InputError, match=r"^batch = 257: measuring a matrix product of a step takes 1.53 GiB,"):
        rival.check_products(config, 257, given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "nobody"), "--model 'nobody': no such model; "),
        (("--model", "random:tiny-mamba"), "--model: two are called 'random:tiny-mamba'; "),
        (("--cell", "2x2000"), "prompt + new_tokens = 2008: random:tiny-mamba has a context of 1280; "),
        (("--against", "mamba-ssm"), "--against mamba-ssm: its kernels run on a GPU"),
        (("--csv", "rows.csv"), "--csv: no column says that rows ended early; add --ignore-eos"),
        (
            ("--csv", "rows.csv", "--ignore-eos", "--rows-per-prompt", "4"),
            "--rows-per-prompt 4: no column of --csv says that prompts are shared; ",
        ),
        (("--plot", "rows.foo"), "--plot rows.foo: ends in none of "),
    ],
)
def test_wrong_options(options: tuple[str, ...], message: str, refused: Callable[..., str], tmp_path: Path) -> None:
    assert refused(*CELL, *options).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_mamba_ssm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_rival, "_NEEDS", {"no_such_module": "such-a-package"})
    with pytest.raises(InputError, match=r"^--against mamba-ssm: pip install --no-deps such-a-package$"):
        mamba_rival.check_installed(torch.device("cuda"))


@pytest.mark.parametrize("option", ["--csv", "--plot", "--baseline"])
@pytest.mark.parametrize("place", ["a file", "a folder", "no permission"])
def test_a_file_that_cannot_be_written_is_named(
    option: str, place: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    name = {"--csv": "x.csv", "--plot": "x.png", "--baseline": "x.json"}[option]
    path = {"a file": tmp_path / "f" / name, "a folder": tmp_path / name, "no permission": Path("/proc") / name}[place]
    (tmp_path / "f").write_text("dear")
    (tmp_path / name).mkdir()
    command = ("regress", "--write") if option == "--baseline" else (*CELL, "--ignore-eos")
    said = refused(*command, option, path)
    assert said.startswith(f"{option} {path}: {'is no file' if place == 'a folder' else 'cannot be written ('}")
    assert (tmp_path / "f").read_text() == "dear" and list((tmp_path / name).iterdir()) == []


def test_a_file_that_can_be_written_stays_as_it_is(refused: Callable[..., str], tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.png"):
        (tmp_path / name).write_text("dear")
    refused(*CELL, "--ignore-eos", "--csv", "rows.csv", "--plot", "rows.png", "--model", "nobody")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"rows.csv": "dear", "rows.png": "dear"}


@pytest.mark.parametrize("folder", ["new", "a/b/c", "there/a/b", "new/../b"])
def test_folders_are_not_made_by_a_call_that_is_refused(
    folder: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    files = ("--csv", f"{folder}/x.csv", "--plot", f"{folder}/x.png")
    assert refused(*CELL, "--ignore-eos", *files, "--model", "nobody").startswith("--model 'nobody'")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize("place", ["f/a/b", "link/a", "/proc/a/b"])
def test_a_folder_that_cannot_be_made_is_refused(place: str, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "f").write_text("dear")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    said = refused(*CELL, "--ignore-eos", "--csv", f"{place}/x.csv")
    assert said.startswith(f"--csv {place}/x.csv: cannot be written (")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "link"]
    assert (tmp_path / "f").read_text() == "dear" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("text", ["a,b\n", "model,engine\nx,y\n", "dear diary\n"])
@pytest.mark.parametrize("file", ["rows.csv", "rows.split.csv"])
def test_another_file_is_not_gone_on_with(file: str, text: str, refused: Callable[..., str], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [ROW])
    (tmp_path / file).write_text(text)
    said = refused(*CELL, "--ignore-eos", "--csv", "rows.csv", "--go-on")
    assert said.startswith(f"{file}, line 1: not ") and "columns model,engine," in said
    assert (tmp_path / file).read_text() == text


def test_columns_that_writing_would_lose_are_not_gone_on_with(refused: Callable[..., str], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [ROW])
    text = "".join(f"{line},more\n" for line in (tmp_path / "rows.csv").read_text().splitlines())
    (tmp_path / "rows.csv").write_text(text)
    assert read_rows(tmp_path / "rows.csv") == [ROW]
    assert refused(*CELL, "--ignore-eos", "--csv", "rows.csv", "--go-on").startswith("rows.csv, line 1: not ")
    assert (tmp_path / "rows.csv").read_text() == text


def test_devices_are_not_mixed(refused: Callable[..., str], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [ROW, dataclasses.replace(ROW, device="NVIDIA H200", batch=4)])
    text = (tmp_path / "rows.csv").read_text()
    said = refused(*CELL, "--ignore-eos", "--csv", "rows.csv", "--go-on")
    assert said == f"--csv rows.csv: has rows of NVIDIA H200, this is {HERE}; name another file"
    assert (tmp_path / "rows.csv").read_text() == text
