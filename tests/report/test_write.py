import dataclasses
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from harness.records import InputError
from harness.report import plots
from harness.report.files import AT_K_COLUMNS, CURVE_COLUMNS, as_plain
from harness.report.numbers import compute
from harness.report.terminal import print_report
from harness.report.write import write_report
from harness.scoring.cost import Decomposition


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for item in value for n in numbers_in(item)]
    return [value] if isinstance(value, float) else []


@pytest.fixture(scope="module")
def written(tmp_path_factory, simulate_once):
    out = tmp_path_factory.mktemp("report")
    return write_report(simulate_once, out), out


def test_every_file_is_there(written):
    names = {str(p.relative_to(written[1])) for p in written[1].rglob("*") if p.is_file()}
    plot_names = {"coverage_by_second", "majority_by_second", "coverage_by_k", "majority_by_k", "accuracy_by_level"}
    assert names == {"curves.csv", "pass_at_k.csv", "report.json", "report.txt", "headline.png"} | {
        f"plots/{n}.png" for n in plot_names | {"throughput"}
    }


def test_curves_have_the_agreed_columns_and_hold_every_budget(written):
    numbers, out = written
    curves = pd.read_csv(out / "curves.csv")
    assert tuple(curves.columns) == CURVE_COLUMNS
    assert set(curves["model"]) == {"llama-1b", "mamba2-1b", "hybrid-1b"}
    for name, part in curves.groupby("model"):
        assert {2.0, 5.0, 10.0, 30.0} <= set(part["clock_s"]) and 60 <= len(part) <= 64
        for rising in ("clock_s", "coverage", "samples", "tokens", "finished_median", "unscored"):
            assert part[rising].is_monotonic_increasing
        assert (part["coverage_lo"] <= part["coverage"]).all() and (part["coverage"] <= part["coverage_hi"]).all()
        trajectories, verdicts = numbers.run.models[name]
        done = [t for t in trajectories if not t.late and t.t_finish <= 5.0]
        row = part[part["clock_s"] == 5.0].iloc[0]
        assert (row["samples"], row["tokens"]) == (len(done), sum(t.new_tokens for t in done))
        correct = {v.key for v in verdicts if v.correct}
        solved = {t.problem_id for t in done if t.key in correct}
        assert row["coverage"] == pytest.approx(len(solved) / len(numbers.run.problems), rel=1e-5)


def test_pass_at_k_of_a_drained_run_is_a_point(written):
    rows = pd.read_csv(written[1] / "pass_at_k.csv")
    assert tuple(rows.columns) == AT_K_COLUMNS and set(rows["kind"]) == {"point"}
    assert (rows["pass_lo"] <= rows["pass_at_k"]).all() and (rows["guess"] < rows["pass_at_k"]).all()


def test_json_is_strict_and_sums(written):
    text = (written[1] / "report.json").read_text()
    report = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in report.json"))
    assert all(math.isfinite(n) for n in numbers_in(report))
    assert set(report["comparisons"]) == {"mamba2-1b", "hybrid-1b"}
    for part in [m["accuracy"]["decomposition"] for m in report["models"].values()] + list(
        report["decomposition_difference"].values()
    ):
        total = part["log_seconds_per_token"] + part["log_tokens_per_attempt"] - part["log_successes_per_attempt"]
        assert part["log_seconds_per_success"] == pytest.approx(total, abs=1e-4)
    assert len(report["budgets"]) == 12
    verdicts = {c["verdict"] for pair in report["comparisons"].values() for c in pair.values()}
    assert verdicts <= {"ahead", "crosses", "falls back", "never", "undecided"}


def test_the_terminal_table_says_what_was_asked(written):
    text = (written[1] / "report.txt").read_text()
    for word in (
        "coverage %",
        "> guess",
        "majority %",
        "tok/s",
        "length",
        "S cov",
        "verdict",
        "s/success",
        "log over",
    ):
        assert word in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_report_is_whole(written, width):
    out = io.StringIO()
    print_report(written[0], Console(file=out, width=width, color_system=None))
    text = out.getvalue()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and "…" not in text
    assert lines[0] == "simulated: 60 problems, clock task, batch 64 / 256 / 128, simulated device"
    for headers in (
        "model s coverage % > guess majority % proven",
        "model s batch done none % tok/s length S cov S maj",
        "student metric verdict ahead from, s P(by T) proven ahead, s",
        "student metric S(10 %) S(50 %) S(90 %)",
        "s/success s/token tokens/attempt successes/attempt",
    ):
        assert headers in [" ".join(line.split()) for line in lines]
    for name in ("llama-1b", "mamba2-1b", "hybrid-1b"):
        rows = [line.split() for line in lines if line.split()[:1] == [name]]
        assert len(rows) == (9 if name == "llama-1b" else 13)
        assert {row[1] for row in rows} >= {"2", "5", "10", "30"}
    row = next(line for line in lines if line.split()[:2] == ["llama-1b", "30"])
    accuracy = written[0].models["llama-1b"].accuracy
    value, low, high = (100 * c[-1] for c in (accuracy.coverage.value, accuracy.coverage.low, accuracy.coverage.high))
    assert f" {value:.1f} [{low:.1f}, {high:.1f}] " in row


def test_long_names_fold_and_brackets_in_them_stay(simulated_run):
    name = "llama-3.2-1b-instruct-[bold]quantised"
    model = simulated_run(n_problems=6, n=3, drain=False).models["llama-1b"]
    run = simulated_run(n_problems=6, n=3, drain=False, models={name: model}, teacher=name)
    out = io.StringIO()
    print_report(compute(run), Console(file=out, width=80, color_system=None))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert "llama-3.2-1b-instruct-[bold]" in text


def test_a_row_of_the_table_is_a_point_of_the_curve(written):
    numbers, _ = written
    for second in numbers.run.budget.seconds:
        assert numbers.grid_s[numbers.index_of(second)] == second


def guesses(ax):
    drawn = [line for line in ax.lines if str(line.get_label()).startswith("guess")]
    assert all(line.get_linestyle() == "--" for line in drawn)
    return len(drawn)


def test_every_coverage_plot_carries_a_guess_curve_for_each_model(written):
    for draw in (plots.clock_plot, plots.k_plot):
        assert guesses(draw(written[0], "coverage").axes[0]) == 3
        assert guesses(draw(written[0], "majority").axes[0]) == 0
    for fig in (plots.headline(written[0]), plots.level_plot(written[0])):
        assert [guesses(ax) for ax in fig.axes] == [3, 0]


def test_captions_name_device_date_batch_and_clock(written):
    for fig in (plots.headline(written[0]), plots.throughput_plot(written[0]), plots.level_plot(written[0])):
        text = " ".join(t.get_text().replace("\n", " ") for t in fig.texts)
        for word in ("simulated device", "2026-01-31", "64 (llama-1b)", "clock: task"):
            assert word in text


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0])
def test_a_crossovers_label_stays_in_its_panel(written, share):
    numbers = written[0]
    second = numbers.grid_s[round(share * (len(numbers.grid_s) - 1))]
    crossed = {
        name: {m: dataclasses.replace(c, crossover_s=second, outcome="undecided") for m, c in of.items()}
        for name, of in numbers.comparisons.items()
    }
    fig = plots.headline(dataclasses.replace(numbers, comparisons=crossed))
    renderer = FigureCanvasAgg(fig).get_renderer()
    for ax in fig.axes:
        panel, labels = ax.get_window_extent(), [text for text in ax.texts if "not proven" in text.get_text()]
        assert len(labels) == 2
        for label in labels:
            box = label.get_window_extent(renderer)
            assert panel.x0 - 3 < box.x0 and box.x1 < panel.x1 + 3


def test_random_weights_get_speed_and_no_accuracy(simulated_run, tmp_path):
    run = simulated_run(n_problems=8, n=6, accuracy_allowed=False)
    numbers = write_report(run, tmp_path)
    assert {p.name for p in tmp_path.rglob("*.*")} == {"curves.csv", "report.json", "report.txt", "throughput.png"}
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert curves[["coverage", "majority", "unscored"]].isna().all(axis=None) and (curves["samples"] > 0).any()
    words = (tmp_path / "report.txt").read_text() + (tmp_path / "report.json").read_text()
    for word in ("coverage_lo", "majority %", "successes", "verdict"):
        assert word not in words
    for draw in (plots.headline, plots.level_plot, lambda n: plots.k_plot(n, "coverage")):
        with pytest.raises(InputError, match="random weights"):
            draw(numbers)


def test_a_resumed_run_makes_no_headline(simulated_run, tmp_path):
    run = simulated_run(n_problems=12, n=6, manifest={"resumes": 2, "replayed": True})
    numbers = write_report(run, tmp_path)
    assert not (tmp_path / "headline.png").exists() and (tmp_path / "plots" / "coverage_by_second.png").exists()
    with pytest.raises(InputError, match="resumes"):
        plots.headline(numbers)
    text = " ".join(t.get_text() for t in plots.throughput_plot(numbers).texts).replace("\n", " ")
    assert "replayed" in text and "resumed 2 times" in text and "device not recorded" in text


def test_a_cut_run_gives_bounds(simulated_run, tmp_path):
    write_report(simulated_run(n_problems=15, n=10, drain=False, seconds=(3.0,)), tmp_path)
    rows = pd.read_csv(tmp_path / "pass_at_k.csv")
    assert set(rows["kind"]) == {"bounds"} and rows["pass_at_k"].isna().all()
    assert (rows["pass_lo"] <= rows["pass_hi"]).all() and (rows["majority_lo"] <= rows["majority_hi"]).all()


def test_one_problem_one_model_and_nothing_finished(simulated_run, tmp_path):
    run = simulated_run(n_problems=1, n=3, seconds=(0.1,), drain=False)
    models = {"llama-1b": run.models["llama-1b"]}
    alone = simulated_run(n_problems=1, n=3, seconds=(0.1,), drain=False, models=models)
    assert pd.read_csv(write_and(alone, tmp_path) / "curves.csv")["coverage"].tolist() == [0.0]


def write_and(run, out):
    write_report(run, out)
    return out


def test_three_timing_runs_are_nested(simulated_run):
    one = simulated_run(n_problems=20, n=8)
    others = tuple(simulated_run(n_problems=20, n=8, seed=s).models for s in (100, 200))
    numbers = compute(simulated_run(n_problems=20, n=8, repeats=others))
    assert numbers.n_timing_runs == 3
    alone = compute(one).models["llama-1b"]
    assert (numbers.models["llama-1b"].samples[-1] == alone.samples[-1]).all()
    with pytest.raises(InputError, match="repeats"):
        simulated_run(n_problems=20, n=8, repeats=({"llama-1b": one.models["llama-1b"]},))


def test_the_teacher_must_be_one_of_the_models(simulated_run):
    with pytest.raises(InputError, match="did you mean 'llama-1b'"):
        simulated_run(n_problems=3, n=2, teacher="lama-1b")


def test_plain_values():
    assert as_plain([np.float64("nan"), np.inf, -np.inf, np.int64(3), np.bool_(True), None, "x"]) == [
        None, "inf", "-inf", 3, True, None, "x",
    ]  # fmt: skip
    assert as_plain({"d": Decomposition(1.23456789, 2, 3, 4)})["d"]["log_seconds_per_success"] == 1.23457
