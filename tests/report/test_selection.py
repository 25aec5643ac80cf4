"""Best-of-N by reward in every output, and in none without rewards."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from harness.records import InputError, Reward
from harness.report import selection
from harness.report.data import RewardData
from harness.report.numbers import compute
from harness.report.terminal import print_report
from harness.report.write import write_report

UNFINISHED = ("deadline", "error")


def with_rewards(run, quality=1.5, **changes):
    """The run with rewards that know something of the truth: noise, moved up where a sample is correct."""
    rng = np.random.default_rng(11)
    by_model = {}
    for name, (trajectories, verdicts) in run.models.items():
        correct = {v.key: v.correct for v in verdicts}
        by_model[name] = [
            Reward(*t.key, 1 / (1 + math.exp(-(rng.normal() + quality * correct[t.key]))), (), t.new_tokens, 0.02)
            for t in trajectories
            if t.finish not in UNFINISHED
        ]
    return dataclasses.replace(run, rewards=RewardData("prm-8b (prm, last)", "f" * 64, by_model), **changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory, simulate_once):
    out = tmp_path_factory.mktemp("selection")
    return write_report(with_rewards(simulate_once), out), out


def test_a_reward_that_knows_something_beats_the_vote_and_moves_nothing_else(written, simulate_once, tmp_path):
    numbers, out = written
    plain = write_report(simulate_once, tmp_path)
    for name, model in plain.models.items():
        chosen = numbers.selections[name]
        assert chosen.weighted.value[-1] > model.accuracy.majority.value[-1]
        assert chosen.naive_at_k.value[0] == pytest.approx(model.accuracy.at_k.pass_at_k.value[0], abs=0.05)
        assert chosen.weighted_at_k.value[-1] <= model.accuracy.at_k.pass_at_k.value[-1]
        assert (numbers.models[name].accuracy.majority.value == model.accuracy.majority.value).all()
        assert chosen.reward_s == pytest.approx(0.02 * len(numbers.run.rewards.by_model[name]))
    bare = json.loads((tmp_path / "report.json").read_text())
    rich = json.loads((out / "report.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    reward = rich.pop("reward")
    for row in rich["budgets"]:
        for metric in ("naive", "weighted"):
            assert row.pop(f"{metric}_lo") <= row.pop(metric) <= row.pop(f"{metric}_hi")
    assert rich == bare and plain.selections == {}
    assert (reward["label"], reward["clock"]) == ("prm-8b (prm, last)", "apart")
    assert not list((tmp_path / "plots").glob("selection*")) and "naive" not in (tmp_path / "report.txt").read_text()
    columns = pd.read_csv(tmp_path / "curves.csv").columns
    assert pd.read_csv(out / "curves.csv")[columns].equals(pd.read_csv(tmp_path / "curves.csv"))


def test_the_figures_show_a_panel_a_model_with_three_curves(written):
    numbers, out = written
    for draw, file in ((selection.clock_plot, "selection_by_second"), (selection.k_plot, "selection_by_k")):
        axes = draw(numbers).axes
        assert [ax.get_title(loc="left") for ax in axes] == ["llama-1b", "mamba2-1b", "hybrid-1b"]
        assert {len(ax.lines) for ax in axes} == {3} and len({ax.get_ylim() for ax in axes}) == 1
        assert (out / "plots" / f"{file}.png").is_file()
    text = " ".join(t.get_text() for t in selection.clock_plot(numbers).texts)
    assert "reward prm-8b (prm, last), its seconds not on the clock" in text


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_report_is_whole(written, width):
    out = io.StringIO()
    print_report(written[0], Console(file=out, width=width, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in out.getvalue()
    assert "model s majority % naive % weighted %" in [" ".join(line.split()) for line in lines]


def test_on_the_clock_the_choice_pays_and_the_vote_does_not(written, simulate_once):
    budget = dataclasses.replace(simulate_once.budget, reward_on_clock=True)
    paying = compute(with_rewards(simulate_once, budget=budget))
    for name, free in written[0].selections.items():
        chosen = paying.selections[name]
        assert (chosen.counted <= free.counted).all() and chosen.counted[-1] < free.counted[-1]
        accuracy, before = paying.models[name].accuracy, written[0].models[name].accuracy
        assert (accuracy.majority.value == before.majority.value).all()
        assert (accuracy.coverage.value == before.coverage.value).all()
        assert (chosen.weighted_at_k.value == free.weighted_at_k.value).all()


def test_a_cut_run_gives_bounds(simulated_run, tmp_path):
    run = with_rewards(simulated_run(n_problems=15, n=10, drain=False, seconds=(3.0,)))
    numbers = write_report(run, tmp_path)
    rows = pd.read_csv(tmp_path / "pass_at_k.csv")
    for metric in ("naive", "weighted"):
        assert rows[f"{metric}_at_k"].isna().all() and (rows[f"{metric}_lo"] <= rows[f"{metric}_hi"]).all()
    assert {len(ax.lines) for ax in selection.k_plot(numbers).axes} == {6}


def test_no_choice_for_random_weights_and_no_figure_without_rewards(simulated_run, simulate_once):
    run = with_rewards(simulated_run(n_problems=6, n=4))
    assert compute(dataclasses.replace(run, accuracy_allowed=False)).selections == {}
    with pytest.raises(InputError, match="harness score"):
        selection.clock_plot(compute(simulated_run(n_problems=6, n=4)))


def test_timing_runs_share_the_rewards_of_their_samples(simulated_run):
    base = simulated_run(n_problems=20, n=8)
    slower = {
        name: ([dataclasses.replace(t, t_finish=1.1 * t.t_finish) for t in log], verdicts)
        for name, (log, verdicts) in base.models.items()
    }
    run = with_rewards(base, repeats=(slower, slower))
    chosen = compute(run).selections["llama-1b"]
    alone = compute(with_rewards(base)).selections["llama-1b"]
    assert (chosen.counted == alone.counted).all()
    assert chosen.weighted.value.sum() <= alone.weighted.value.sum()


def test_a_sample_without_a_reward_stops_the_report(simulated_run):
    run = with_rewards(simulated_run(n_problems=6, n=4))
    run.rewards.by_model["llama-1b"].pop()
    with pytest.raises(InputError, match="go on with `harness score`"):
        compute(run)
