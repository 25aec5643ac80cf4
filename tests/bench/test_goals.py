"""results/h100/goals.py and goal_lines.py: which rival counts, and when a goal is met."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.report.throughput import Row, read_rows, write_rows

FOLDER = Path(__file__).parents[2] / "results" / "h100"
LLAMA, LLAMBA, MAMBA2 = "random:llama-3.2-1b", "random:llamba-1b", "random:mamba2-1.3b"


@pytest.fixture(scope="module")
def goals(h100_script: Callable[[str], Any]) -> Any:
    return h100_script("goals")


def of_file(goals: Any, name: str, path: Path, *rows: dict[str, object]) -> list[Any]:
    """The lines that ``goals.FILES`` makes of these rows in a CSV; of no rows at all there is no file."""
    if rows:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return list(goals.FILES[name][1](path))


def row(model: str, engine: str, batch: int, new_tokens: int, rate: float, **changes: Any) -> Row:
    given = Row(
        model, engine, "a GPU", "bfloat16", "float16", batch, 128, new_tokens, rate, 1.0, 0.5, 0.01, 0.02, None, None
    )
    return dataclasses.replace(given, **changes)


def lines(goals: Any, ran: list[Row], quoted: list[Row]) -> dict[str, Any]:
    return {line.what: line for line in goals.Rows(ran, quoted).lines()}


def test_the_higher_of_run_and_quoted_counts(goals: Any) -> None:
    ours = row(LLAMA, "native", 256, 1024, 60.0)
    for run, quoted, ratio, said, met in ((40.0, 50.0, 1.2, "50 quoted", "no"), (40.0, 30.0, 1.5, "40", "yes")):
        rivals = [row(LLAMA, "vllm", 256, 1024, run)], [row(LLAMA, "vllm", 256, 1024, quoted)]
        line = lines(goals, [ours, *rivals[0]], rivals[1])["llama-3.2-1b 256 x 1024 over vllm"]
        assert line.figure == pytest.approx(ratio) and (line.rival, line.met) == (said, met)


def test_states_in_fp32_and_other_engines_answer_no_goal(goals: Any) -> None:
    ran = [
        row(LLAMBA, "native", 256, 1024, 90.0, state_dtype="float32", roofline_share=0.99),
        row(LLAMBA, "eager", 256, 1024, 90.0, roofline_share=0.99),
    ]
    line = lines(goals, ran, [])["llamba-1b 256 x 1024, of its roofline"]
    assert line.figure is None and line.met == "–" and line.cells()[1] == "–"
    ran += [row(LLAMBA, "native", 256, 1024, 80.0, roofline_share=0.7)]
    line = lines(goals, ran, [])[line.what]
    assert line.met == "yes" and line.cells()[3:] == ("70.0%", "68.0%", "yes")
    exact = lines(goals, ran, [])["llamba-1b 256 x 1024, fp32 states, of its roofline"]
    assert (exact.measured, exact.figure, exact.met) == ("90", 0.99, "–")


def test_mamba_ssm_may_be_quoted_at_another_length(goals: Any) -> None:
    ran = [row(LLAMBA, "native", 256, 1024, 110.0)]
    quoted = [row(LLAMBA, "mamba_ssm", 256, 512, 55.0), row(LLAMBA, "mamba_ssm", 512, 512, 99.0)]
    line = lines(goals, ran, quoted)["llamba-1b 256 x 1024 over mamba_ssm"]
    assert line.figure == pytest.approx(2.0) and line.rival == "55 quoted, 512 new"


def test_shares_of_a_step_are_the_worst_of_their_batch(goals: Any) -> None:
    ran = [
        row(LLAMA, "native", 512, 2048, 1.0, sampling_share=0.03),
        row(LLAMBA, "native", 512, 1024, 1.0, sampling_share=0.07),
        row(LLAMBA, "native", 64, 512, 1.0, sampling_share=0.5, host_gap_share=0.03),
    ]
    found = lines(goals, ran, [])
    assert (found["sampling, of a step, batch 512"].figure, found["sampling, of a step, batch 512"].met) == (0.07, "no")
    assert found["host gap, batch 64"].met == "yes"


def test_a_student_stands_beside_its_native_teacher_without_a_goal(goals: Any) -> None:
    ran = [row(LLAMBA, "native", 256, 1024, 110.0), row(LLAMA, "native", 256, 1024, 55.0)]
    line = lines(goals, ran, [])["llamba-1b 256 x 1024 over native llama-3.2-1b"]
    assert line.figure == pytest.approx(2.0) and line.met == "–"


def test_kernel_times_are_held_to_limits_and_to_the_faster_rival(goals: Any, tmp_path: Path) -> None:
    path = tmp_path / "step.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "rows", "state", "k", "what", "launch", "us", "share"))
        for state, what, us in (
            ("float16", "inner", 62.0), ("float16", "inner", 70.0), ("float32", "inner", 125.0),
            ("bfloat16", "inner", 80.0),
            ("float16", "step", 100.0), ("float16", "step", 90.0), ("float16", "selective_state_update", 130.0),
            ("float32", "selective_state_update", 90.0), ("float16", "causal_conv1d_update", 40.0),
            ("float16", "step and norm", ""),
        ):  # fmt: skip
            writer.writerow(("llamba-1b", 512, state, 8, what, "", us, ""))
    every = of_file(goals, "step", path)
    found = [line for line in every if "llamba" in line.what]
    assert [line.met for line in found] == ["yes", "if quoted", "no", "no", "no", "no"]
    whole = (124.0 + 40.0) / 100.0
    assert [line.figure for line in found] == pytest.approx([62.0, 124 / 62, 80.0, 124 / 80, 124 / 125, whole])
    assert found[1].rival == "124.0 us quoted" and found[5].rival == "124.0 us quoted + 40.0 us"
    assert all(line.met == "–" for line in every if "mamba2" in line.what and "llamba" not in line.what)


def test_others_rings_stand_beside_ours_each_at_its_best(goals: Any, tmp_path: Path) -> None:
    path = tmp_path / "ring.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "rows", "state", "k", "what", "launch", "us", "share"))
        for state, k, what, us in (
            ("bfloat16", 8, "inner", 62.0), ("bfloat16", 8, "inner, one phase", 50.0), ("bfloat16", 16, "inner", 70.0),
            ("bfloat16", 8, "replayssm", 99.0), ("bfloat16", 16, "replayssm, best of 6", 93.0),
            ("bfloat16", 16, "replayssm, one phase", 55.0), ("float16", 8, "checkpointing_ssu", 80.0),
        ):  # fmt: skip
            writer.writerow(("llamba-1b", 512, state, k, what, "", us, ""))
    (beside,) = of_file(goals, "ring", path)
    assert (beside.figure, beside.measured, beside.rival) == (1.5, "62.0 us, K = 8", "93.0 us, K = 16")


def test_attention_is_read_from_its_cell(goals: Any, tmp_path: Path) -> None:
    path = tmp_path / "attention.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("cell", "kernel", "own", "tiles", "us", "share"))
        for cell, kernel, us, share in (
            ("llama-3.2-1b 256 x (128 + 1024)", "attention_decode", 90.0, 0.7),  # of an earlier run, without the rival
            ("llama-3.2-1b 256 x (128 + 1024)", "attention_decode", 110.0, 0.9),
            ("llama-3.2-1b 256 x (128 + 1024)", "flash_attention_3", 100.0, 0.95),
            ("llama-3.2-1b 256 x (128 + 1024, 64 share)", "attention_decode", 10.0, 0.1),
        ):
            writer.writerow((cell, kernel, "", "", us, share))
    share, ratio = of_file(goals, "attention", path)
    assert (share.figure, share.met) == (0.9, "yes")
    assert ratio.figure == pytest.approx(100 / 110) and ratio.met == "no"


def test_products_are_summed_as_the_engine_has_them(goals: Any, tmp_path: Path) -> None:
    times = {
        "qkv": {"cublas": 10.0, "cublas, turned": 8.0, "triton": 1.0},  # kept as stored
        "gate, up": {"cublas": 30.0, "cublas, turned": 20.0, "cublaslt": 18.0},  # turned
    }
    cell = {"model": "llama-3.2-1b", "rows": 256}
    rows = [cell | {"product": p, "how": how, "us": us} for p, of in times.items() for how, us in of.items()]
    first, *others = of_file(goals, "products", tmp_path / "products.csv", *rows)
    assert first.what.startswith("a layer's products, llama-3.2-1b, 256 rows")
    assert (first.measured, first.rival, first.met) == ("30.0 us", "26.0 us", "no")
    assert first.figure == pytest.approx(30 / 26) and {line.met for line in others} == {"–"}


def test_the_embedded_models_count_by_the_slowest(goals: Any, tmp_path: Path) -> None:
    ratios = {"tiny-teacher": 140.0, "tiny-mamba": 29.0, "on the cpu": ""}
    rows = [{"model": m, "second": 6.0, "tokens_per_s": 290.0, "over_cpu": r} for m, r in ratios.items()]
    (line,) = of_file(goals, "embedded_speed", tmp_path / "embedded_speed.csv", *rows)
    assert (line.measured, line.rival, line.figure, line.met) == ("290, tiny-mamba by 6 s", "10", 29.0, "no")


def test_the_embedded_models_say_their_dtypes_where_the_file_does(goals: Any, tmp_path: Path) -> None:
    fast = {"model": "tiny", "dtype": "bfloat16", "second": 6.0, "tokens_per_s": 300.0, "least": 290.0, "most": 301.0}
    rows = [fast | {"over_cpu": 30.0}, fast | {"dtype": "float32", "tokens_per_s": 10.0, "over_cpu": ""}]
    (line,) = of_file(goals, "embedded_speed", tmp_path / "embedded_speed.csv", *rows)
    assert line.what == "embedded models, bench (bfloat16) on the GPU over its CPU's (float32)"
    assert (line.measured, line.rival, line.met) == ("300 (290 to 301), tiny by 6 s", "10", "yes")


def test_fixed_rows_cost_what_they_cost_at_the_full_batch(goals: Any, tmp_path: Path) -> None:
    rows = [
        {"model": LLAMA, "fixed_rows": fixed, "batch": batch, "differing_share": differing, "tokens_per_s": rate}
        for fixed, batch, differing, rate in ((0, 8, 1.0, 40.0), (0, 64, 0.0, 98.1), (64, 8, 0.0, 4.0), (64, 64, 0, 90))
    ]
    cost, differing = of_file(goals, "gate_draws", tmp_path / "gate_draws.csv", *rows)
    assert cost.cells()[1:] == ("90", "98", "+9.0%", "at most +10.0%", "yes")
    assert (differing.figure, differing.met) == (0.0, "yes")
    rows[2]["differing_share"] = 0.125
    assert of_file(goals, "gate_draws", tmp_path / "gate_draws.csv", *rows)[1].met == "no"


def test_the_gate_of_fp16_states_is_the_worst_case_of_exact_weights(goals: Any, tmp_path: Path) -> None:
    kinds = [("native", "float32", "float16"), ("native", "bfloat16", "float16"), ("eager", "float32", "float32")]
    rows = [
        {"model": LLAMBA, "engine": e, "weights": w, "state_dtype": s, "top1": top, "kl": kl}
        for (e, w, s), top, kl in zip([kinds[0], *kinds], (0.997, 0.994, 0.7, 0.1), (9e-5, 1e-5, 1.0, 1.0), strict=True)
    ]
    top, kl = of_file(goals, "gate", tmp_path / "gate.csv", *rows)
    assert (top.what, top.figure, top.met) == ("fp16 states, equal top token, llamba-1b", 0.994, "no")
    assert (kl.figure, kl.met) == (9e-5, "yes")


def test_a_file_that_is_not_there_is_a_dash_for_each_of_its_goals(goals: Any, tmp_path: Path) -> None:
    for name in goals.FILES:
        found = of_file(goals, name, tmp_path / "none.csv")
        assert bool(found) == (name != "ring"), name  # which is reported alone
        assert all(line.met == line.cells()[3] == "–" != line.cells()[4] for line in found), name


def test_the_command_reads_the_committed_files(
    goals: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["goals.py"])
    goals.main()
    out = capsys.readouterr().out
    assert "a layer's products" in out and "fixed rows" in out and "equal top" in out and "embedded models" in out


def test_the_quoted_rows_can_be_read_and_say_their_source(goals: Any, tmp_path: Path) -> None:
    quoted = read_rows(FOLDER / "quoted.csv")
    assert {r.engine for r in quoted} == {"vllm", "mamba_ssm"}
    assert all(r.ms_per_step == pytest.approx(1000 * r.batch / r.tokens_per_s, rel=1e-4) for r in quoted)
    with (FOLDER / "quoted.csv").open(newline="", encoding="utf-8") as file:
        assert all(line["source"] for line in csv.DictReader(file))
    write_rows(tmp_path / "rows.csv", [row(LLAMA, "native", 256, 1024, 92236.0)])
    found = lines(goals, read_rows(tmp_path / "rows.csv"), quoted)
    assert found["llama-3.2-1b 256 x 1024 over vllm"].figure == pytest.approx(2.0)
    assert found["mamba2-1.3b 256 x 512 over mamba_ssm"].rival == "14,201 quoted"


def test_captured_launches_are_held_to_the_plan_of_their_cell(goals: Any, tmp_path: Path) -> None:
    steps = json.loads((FOLDER.parent / "plan.json").read_text())["steps"]
    kernels = steps["llamba-1b, 256 x (128 + 1024)"]["kernels"]
    cell = {"model": LLAMBA, "state_dtype": "float16", "batch": 256, "prompt": 128}
    rows = [
        cell | {"new_tokens": new, "kernel": kernel, "launches": count}
        for new in (1024, 77)  # of the second there is no plan
        for kernel, count in (
            ("matrix products", sum(n for name, (n, _) in kernels.items() if name.startswith("mm ["))),
            *((name, n) for name, (n, _) in kernels.items() if "." in name),
            ("copies, fills, additions", 4.75),
        )
    ]
    (line,) = of_file(goals, "throughput.split", tmp_path / "split.csv", *rows)
    assert (line.figure, line.met) == (0, "yes") and "256 x (128 + 1024)" in line.what
    rows[1]["launches"] += 1
    (line,) = of_file(goals, "throughput.split", tmp_path / "split.csv", *rows)
    assert (line.figure, line.met) == (1, "no")
