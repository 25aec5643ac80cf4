"""Two states of the code in turn: order, warm-up, what is compared; nothing here asserts a speed."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from harness.bench import regress
from harness.bench.regress import Race, compare, print_cpu_ratio, race, read_samples
from harness.bench.regress_trees import Tree, repository, unpack, working_tree
from harness.cli import cli
from harness.records import InputError
from harness.report.throughput import Row, write_rows
from harness.runs.manifest import device_facts

CPU = torch.device("cpu")
HERE = device_facts(CPU)["name"]
ROW = Row("tiny", "eager", HERE, "float32", "float32", 4, 16, 8, 100.0, 1.5, 0.25, None, 0.5, None, None)
KEY = ("tiny", "eager", "float32", "float32", "4", "16", "8")

in_a_clone = pytest.mark.skipif(
    subprocess.run(["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True).returncode != 0,
    reason="no git clone here: regress is not tested on real commits",
)


@dataclasses.dataclass
class FakeTree:
    """A state whose runs give the rates of a list, one after the other."""

    label: str
    rates: list[float]
    log: list[str]

    def check(self) -> None:
        self.log.append(f"check {self.label}")

    def throughput(self, options: Sequence[str], threads: int | None = None) -> None:
        self.log.append(f"run {self.label}")
        path = Path(options[options.index("--csv") + 1])
        rate = 1.0 if path.stem == "warm-up" else self.rates.pop(0)
        write_rows(path, [dataclasses.replace(ROW, tokens_per_s=rate, peak_gib=2.0)])


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    log: list[str] = []
    base = FakeTree("main (123)", [100, 101, 99], log)
    head = FakeTree("working tree", [90, 91, 89], log)
    monkeypatch.setattr(regress, "repository", Path)
    monkeypatch.setattr(regress, "commit_of", lambda root, name: name)
    monkeypatch.setattr(regress, "unpack", lambda root, name, folder: base)
    monkeypatch.setattr(regress, "working_tree", lambda root, folder: head)
    return log


def test_sides_alternate_behind_a_warm_up_and_each_figure_gets_a_word(fakes: list[str]) -> None:
    console = Console(record=True, width=80)
    lines = race("main", None, Race(CPU, rounds=3), console)
    main, tree = "run main (123)", "run working tree"
    assert fakes == [
        "check main (123)", "check working tree", main,
        main, tree, tree, main, main, tree,
    ]  # fmt: skip
    assert [(line.key[-1], line.verdict.word) for line in lines] == [("tokens_per_s", "regressed"), ("peak_gib", "ok")]
    assert (lines[0].base, lines[0].head) == (100, 90)
    text = console.export_text()
    assert "regressed" in text and "-10.0 %" in text and "base: main (123), head: working tree" in text


def test_a_csv_stands_for_the_first_side(fakes: list[str], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [ROW, dataclasses.replace(ROW, batch=8)])
    lines = race(str(tmp_path / "rows.csv"), None, Race(CPU, rounds=3), Console(quiet=True))
    assert set(fakes) == {"check working tree", "run working tree"} and len(fakes) == 5
    assert [(line.key, line.verdict.word) for line in lines] == [((*KEY, "tokens_per_s"), "regressed")]


def test_a_csv_without_the_cells_that_were_measured_is_named(fakes: list[str], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [dataclasses.replace(ROW, batch=8)])
    with pytest.raises(InputError, match=r"rows.csv: has no cell that was measured"):
        race(str(tmp_path / "rows.csv"), None, Race(CPU, rounds=1), Console(quiet=True))


def test_a_csv_of_another_device_is_refused_before_anything_runs(fakes: list[str], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [dataclasses.replace(ROW, device="NVIDIA H100")])
    with pytest.raises(InputError, match=r"rows.csv: measured on NVIDIA H100, this is .*; take a CSV of this device"):
        race(str(tmp_path / "rows.csv"), None, Race(CPU), Console(quiet=True))
    assert fakes == []


@pytest.mark.parametrize("text", ["model,engine\ntiny,eager\n", "", "\x00", "model\n"])
def test_a_csv_of_something_else_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match=r"rows.csv: (no CSV of|holds no rows)"):
        read_samples(tmp_path / "rows.csv")


def test_columns_that_another_commit_adds_or_lacks_do_no_harm(tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = [field.name for field in dataclasses.fields(Row)][:9]
        writer.writerow([*names, "novel"])
        for rate in (100.0, 110.0):
            writer.writerow([*KEY[:2], HERE, *KEY[2:], rate, "x"])
    assert read_samples(tmp_path / "rows.csv") == {(*KEY, "tokens_per_s"): [100.0, 110.0]}


def test_the_cpus_ratio_is_printed_and_gates_nothing(fakes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=200)
    print_cpu_ratio("main", console)

    def broken(self: FakeTree, options: Sequence[str], threads: int | None = None) -> None:
        raise InputError(f"{self.label}: it broke")

    monkeypatch.setattr(FakeTree, "throughput", broken)
    print_cpu_ratio("main", console)
    assert console.export_text().splitlines() == [
        "CPU, not gated: tiny at 0.90 x the tokens/s of main", "CPU, not gated: not measured (main (123): it broke)",
    ]  # fmt: skip


def test_a_gpu_is_asked_for_the_native_engine_and_exact_shapes() -> None:
    options = Race(torch.device("cuda"), state_dtype="float16").options(Path("rows.csv"))
    given = {name: options[i + 1] for i, name in enumerate(options) if name.startswith("--") and name != "--model"}
    assert (given["--engine"], given["--state-dtype"], given["--batch"]) == ("native", "float16", "256")
    assert [options[i + 1] for i, name in enumerate(options) if name == "--model"] == [
        "random:llama-3.2-1b", "random:llamba-1b",
    ]  # fmt: skip


def test_less_memory_is_better() -> None:
    base, more = ({(*KEY, "peak_gib"): [gib] * 3} for gib in (2.0, 2.5))
    assert [line.verdict.word for line in compare(base, more, 0.03)] == ["regressed"]
    assert [line.verdict.word for line in compare(more, base, 0.03)] == ["ok"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "BASE is missing"),
        (["HEAD", "--rounds", "0"], "--rounds 0: must be at least 1"),
        (["HEAD", "--min-effect", "3"], "--min-effect 3: must lie between 0 and 1"),
        (["nowhere.csv"], "nowhere.csv: no CSV of `harness throughput`"),
        (["no-such-branch", "--device", "cpu"], "'no-such-branch': no such commit, branch or CSV file"),
        (["HEAD", "--nope", "--device", "cpu"], "No such option"),
    ],
)
@in_a_clone
def test_what_a_user_gets_wrong_is_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    result = CliRunner().invoke(cli, ["regress", *arguments])
    said = (
        result.output if result.exception is None or isinstance(result.exception, SystemExit) else str(result.exception)
    )
    assert message in said and result.exit_code != 0


def test_outside_a_clone_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(InputError, match="regress: no git repository here"):
        repository()


@in_a_clone
def test_each_state_runs_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    for tree in (unpack(repository(), "HEAD", tmp_path / "base"), working_tree(repository(), tmp_path / "head")):
        ran = tree._python("-c", "import harness.cli as a, harness.kernels as b, harness.tasks as c; print(a, b, c)")
        assert ran.stdout.count(str(tree.site)) == 3, ran.stderr
        with pytest.raises(InputError, match=r"^[^\n]*: --device 'abacus': must be auto, cpu or cuda$"):
            tree.throughput(["--model", "nobody", "--device", "abacus"])


def test_code_that_lies_elsewhere_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    with pytest.raises(InputError, match=r"empty: its code cannot be run from"):
        Tree("empty", tmp_path / "site").check()


@in_a_clone
def test_a_commit_is_measured_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    cell = dataclasses.replace(ROW, model="random:tiny-mamba", batch=2, prompt=4, new_tokens=4, tokens_per_s=1e-3)
    write_rows(tmp_path / "rows.csv", [cell])
    given = Race(CPU, ("random:tiny-mamba",), (2,), (4,), prompt=4, rounds=1, threads=1)
    (line,) = race(str(tmp_path / "rows.csv"), "HEAD", given, Console(quiet=True))
    assert line.key[:2] == ("random:tiny-mamba", "eager") and line.head > line.base == 1e-3
    assert line.verdict.word == "not measurable"  # once a side
