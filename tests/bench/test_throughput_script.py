"""results/h100/throughput.sh: what each part asks of ``harness throughput``; nothing is measured."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from harness.bench.cell import Cell
from harness.bench.grid import RIVALS, _pair
from harness.cli import cli
from harness.cli.speed import throughput_command
from harness.models.resolve import describe
from harness.report.throughput import read_rows

SCRIPT = Path(__file__).parents[2] / "results" / "h100" / "throughput.sh"


def called(*arguments: str, **environment: str) -> tuple[int, list[list[str]], str]:
    """Exit status, the command line of each call, and what the script says of errors."""
    given = os.environ | {"HARNESS": "echo"} | environment
    done = subprocess.run(["bash", str(SCRIPT), *arguments], env=given, capture_output=True, text=True, timeout=60)
    calls = [line.split() for line in done.stdout.splitlines() if line.startswith("throughput ")]
    return done.returncode, calls, done.stderr


def parsed(call: list[str]) -> dict[str, object]:
    with click.Context(throughput_command) as context:
        throughput_command.parse_args(context, call[1:])
        return context.params


def test_every_part_asks_for_cells_that_can_be(tmp_path: Path) -> None:
    status, calls, _ = called(str(tmp_path / "rows.csv"))
    assert status == 0 and len(calls) >= 11
    for call in calls:
        given = parsed(call)
        assert (given["engine"], given["ignore_eos"], given["go_on"]) == ("native", True, True)
        assert given["csv_path"] == tmp_path / "rows.csv" and given["vllm_settings"] is None
        for name in given["models"]:  # type: ignore[attr-defined]
            for pair in given["pairs"]:  # type: ignore[attr-defined]
                cell = Cell(*_pair(pair)[:1], 128, _pair(pair)[1])
                assert cell.prompt + cell.new_tokens <= describe(name)[1].context


def asked(*parts: str) -> set[tuple[object, ...]]:
    """Of the rows that a call writes into an empty file: model, engine, state dtype, batch, prompt, new tokens."""
    found = set()
    for given in map(parsed, called("rows.csv", *parts)[1]):
        engines = ("native", *(RIVALS[rival] for rival in given["against"]))  # type: ignore[attr-defined]
        for model, pair, engine in itertools.product(given["models"], given["pairs"], engines):  # type: ignore[call-overload]
            state = "bfloat16" if engine == "mamba_ssm" else str(given["state_dtype"])
            found.add((model, engine, state, _pair(pair)[0], 128, _pair(pair)[1]))
    return found


def test_one_bare_call_asks_for_the_committed_rows_and_no_others() -> None:
    rows = read_rows(SCRIPT.with_name("throughput.csv"))
    assert {(r.model, r.engine, r.state_dtype, r.batch, r.prompt, r.new_tokens) for r in rows} == asked()


def test_states_are_in_fp16_in_every_part_but_fp32() -> None:
    _, calls, _ = called("rows.csv", "fp32", "llamba", "vllm-llama")
    assert [parsed(call)["state_dtype"] for call in calls] == ["float32", "float16", "float16"]
    assert {key[2] for key in asked()} == {"float16", "float32", "bfloat16"}
    assert {key[:2] for key in asked() if key[2] == "float32"} == {("random:llamba-1b", "native")}


def test_a_part_takes_cells_and_settings_from_the_environment(tmp_path: Path) -> None:
    _, calls, _ = called("rows.csv", "vllm-llama", CELLS="2x4 8x16", VLLM_SETTINGS="in-process,asynchronous")
    (given,) = map(parsed, calls)
    assert given["pairs"] == ("2x4", "8x16") and given["vllm_settings"] == "in-process,asynchronous"
    assert given["against"] == ("vllm",) and given["csv_path"] == Path.cwd() / "rows.csv"
    _, calls, _ = called("rows.csv", "3b", LARGEST="77")
    assert [parsed(call)["pairs"] for call in calls] == [("128x2048", "77x2048")] * 2


@pytest.mark.parametrize(
    ("arguments", "status", "said"), [((), 1, "throughput.sh CSV [PART...]"), (("a.csv", "llame"), 2, "no part llame")]
)
def test_a_wrong_call_is_answered(arguments: tuple[str, ...], status: int, said: str) -> None:
    found, calls, errors = called(*arguments)
    assert (found, calls) == (status, []) and said in errors


def test_a_failed_call_does_not_stop_the_parts_behind_it() -> None:
    given = os.environ | {"HARNESS": "false"}
    done = subprocess.run(
        ["bash", str(SCRIPT), "a.csv", "llama", "mamba1"], env=given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "part llama:" in done.stdout and "part mamba1:" in done.stdout


def test_the_command_takes_cells_and_rivals(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    options = ["--model", "random:tiny-mamba", "--cell", "2x4", "--prompt", "4", "--ignore-eos", "--device", "cpu"]
    refused = CliRunner().invoke(cli, ["throughput", *options, "--against", "mamba-ssm", "--csv", str(path)])
    assert "--against mamba-ssm: its kernels run on a GPU" in str(refused.exception) and not path.exists()
    done = CliRunner().invoke(cli, ["throughput", *options, "--csv", str(path)])
    assert done.exit_code == 0, done.output
    assert [(r.batch, r.new_tokens) for r in read_rows(path)] == [(2, 4)]
