"""``harness score``: from a sampled run to curves; stopped and gone on with; what a user gets wrong is one line."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from harness import cli
from harness.bench import reward as reward_module
from harness.models.checkpoints import native
from harness.models.decoder import Decoder
from harness.models.resolve import TOKENIZER
from harness.models.shapes import SHAPES
from harness.report.files import AT_K_COLUMNS, AT_K_REWARD_COLUMNS, CURVE_COLUMNS, CURVE_REWARD_COLUMNS
from harness.rewards.log import read_rewards

BUDGET = {
    "seconds": [1, 60], "clock": "task", "samples_per_problem": 4, "max_new_tokens": 8, "temperature": 0.8,
    "top_p": 1.0, "top_k": 0, "seed": 1, "batch": 6, "limit": 3, "drain": True,
}  # fmt: skip
TASK = {
    "file": "rows.jsonl", "answer_type": "math", "prompt_template": "{prompt}\n", "licence": "CC0",
    "fields": {"prompt": "problem", "answer": "answer", "id": "id"},
}  # fmt: skip
ROWS = [{"id": f"r{n}", "problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(3)]
SOLUTION = "We add {n} and 1.\n\nThat is {n} + 1 = {m}.\n\nSo the answer is \\boxed{{{m}}}."


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A folder with a task, budgets, a model and a sampled run, in whose log solutions stand for the model's noise."""
    where = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    shape = SHAPES["tiny-teacher"]
    assert shape.attention is not None
    attention = dataclasses.replace(shape.attention, heads=2, kv_heads=2, head_dim=8)
    small = dataclasses.replace(shape, width=16, layers=("attention",), mlp=16, context=200, attention=attention)
    native.save(Decoder(small), where / "small")
    shutil.copy(TOKENIZER, where / "small" / native.TOKENIZER)
    (where / "task.yaml").write_text(yaml.safe_dump(TASK))
    (where / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, changes in (("apart", {}), ("same", {"reward_on_clock": True})):
        (where / f"{name}.yaml").write_text(yaml.safe_dump(BUDGET | changes))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(where)
            options = ["--model=small", "--task=task.yaml", "--device=cpu", "--clock=fake", f"--budget={name}.yaml"]
            patch.setattr(sys, "argv", ["harness", "sample", *options, "--run", f"./{name}"])
            cli.main()
        write_solutions(where / name / "trajectories.jsonl")
    return where


def write_solutions(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["kind"] == "trajectory":
            n, j = int(row["problem_id"][1:]), row["sample"]
            right = (n + j) % 2 == 0
            row["text"] = "I give up." if j == 3 else SOLUTION.format(n=n, m=n + 1 if right else n + 2)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def work(sampled, tmp_path, monkeypatch):
    shutil.copytree(sampled, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(harness, prm_folder, run="./apart", *more):
    return harness("score", run, f"--reward={prm_folder}", "--kind=prm", "--device=cpu", "--batch=5", *more)


def report_of(harness, folder):
    code, _, err = harness("report", folder)
    assert code == 0, err
    return json.loads((folder / "report.json").read_text())


def test_from_a_run_to_curves(work, harness, prm_folder):
    folder = work / "apart"
    assert harness("grade", folder)[0] == 0
    assert "reward" not in report_of(harness, folder)
    assert tuple(pd.read_csv(folder / "curves.csv").columns) == CURVE_COLUMNS
    assert tuple(pd.read_csv(folder / "pass_at_k.csv").columns) == AT_K_COLUMNS
    code, out, err = score(harness, prm_folder)
    assert code == 0, err
    assert "12 chains" in out and "harness report" in out

    log = read_rewards(folder / "rewards.jsonl")
    assert log.header is not None and (log.header.scorer, log.header.setting, log.header.batch) == ("prm", "last", 5)
    tokens = [r.tokens for r in log.rewards]
    assert tokens == sorted(tokens, reverse=True) and all(r.seconds > 0 for r in log.rewards)
    assert {len(r.steps) for r in log.rewards} == {1, 3} and all(r.score == r.steps[-1] for r in log.rewards)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["reward"]["chains"] == 12 and manifest["reward"]["sha256"] == log.header.sha256
    assert manifest["reward"]["seconds"] == pytest.approx(math.fsum(r.seconds for r in log.rewards), abs=1e-3)

    report = report_of(harness, folder)
    assert report["reward"]["clock"] == "apart" and report["reward"]["label"] == "tiny-prm (prm, last)"
    curves, at_k = pd.read_csv(folder / "curves.csv"), pd.read_csv(folder / "pass_at_k.csv")
    assert tuple(curves.columns) == CURVE_COLUMNS + CURVE_REWARD_COLUMNS
    assert tuple(at_k.columns) == AT_K_COLUMNS + AT_K_REWARD_COLUMNS
    last = curves.iloc[-1]
    assert last["rewarded"] == 9  # one in four states no answer
    by_sample = {(r.problem_id, r.sample): r.score for r in log.rewards}
    best = {f"r{n}": max(range(3), key=lambda j: by_sample[f"r{n}", j]) for n in range(3)}
    assert last["naive"] == pytest.approx(sum((int(p[1:]) + j) % 2 == 0 for p, j in best.items()) / 3)
    assert at_k[at_k["k"] == 4]["naive_at_k"].item() == pytest.approx(last["naive"], rel=1e-5)
    text = (folder / "report.txt").read_text()
    assert "Choice among samples" in text and "its seconds not on the clock" in " ".join(text.split())
    assert (folder / "plots" / "selection_by_second.png").is_file()
    assert (folder / "plots" / "selection_by_k.png").is_file()


def test_random_models_carry_no_choice(work, harness, prm_folder):
    folder = work / "apart"
    assert score(harness, prm_folder)[0] == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["models"]["small"]["random"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "reward" not in report_of(harness, folder)
    assert "Choice" not in (folder / "report.txt").read_text()
    assert not list((folder / "plots").glob("selection*"))


def test_on_the_clock_the_choice_comes_later_and_nothing_else_moves(work, harness, prm_folder):
    curves = {}
    for name in ("apart", "same"):
        folder = work / name
        assert harness("grade", folder)[0] == 0 and score(harness, prm_folder, f"./{name}")[0] == 0
        # Seconds that can be told apart from the fake clock's, the same for both.
        lines = [json.loads(line) for line in (folder / "rewards.jsonl").read_text().splitlines()]
        rows = [row | ({"seconds": 2.0} if row["kind"] == "reward" else {}) for row in lines]
        (folder / "rewards.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = report_of(harness, folder)
        assert report["reward"]["clock"] == name
        curves[name] = pd.read_csv(folder / "curves.csv")
    apart, same = curves["apart"], curves["same"]
    assert apart[list(CURVE_COLUMNS)].equals(same[list(CURVE_COLUMNS)])
    by_one = lambda frame: frame[frame["clock_s"] == 1.0]["rewarded"].item()  # noqa: E731
    assert by_one(apart) > 0 == by_one(same)
    assert apart["rewarded"].iloc[-1] == same["rewarded"].iloc[-1] == 9


def test_a_stopped_scoring_goes_on(work, harness, prm_folder, monkeypatch):
    path = work / "apart" / "rewards.jsonl"
    assert score(harness, prm_folder)[0] == 0
    whole = read_rewards(path).rewards
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + lines[6][:30])
    assert harness("grade", work / "apart")[0] == 0
    code, _, err = harness("report", work / "apart")
    assert code == 2 and "has no reward" in err and err.count("\n") == 1
    ran = []
    run = reward_module._run
    monkeypatch.setattr(reward_module, "_run", lambda scorer, part, batch: ran.append(part) or run(scorer, part, batch))
    assert score(harness, prm_folder)[0] == 0
    assert path.read_bytes().startswith(b"".join(lines[:6]))
    got = read_rewards(path).rewards
    assert {r.key: round(r.score, 6) for r in got} == {r.key: round(r.score, 6) for r in whole}
    assert sum(map(len, ran[1:])) == 7  # the first is the warm-up
    ran.clear()
    before = path.read_bytes()
    assert score(harness, prm_folder)[0] == 0
    assert path.read_bytes() == before and not ran


def test_a_chain_too_long_has_no_score_and_no_part_in_the_choice(work, harness, folder_of):
    folder = work / "apart"
    short = folder_of(work / "short-prm", max_position_embeddings=120)
    assert harness("grade", folder)[0] == 0
    code, out, _ = score(harness, short)
    assert code == 0 and "9 chains have no score: longer than its 120 tokens" in out
    log = read_rewards(folder / "rewards.jsonl")
    assert sum(r.score is None and r.seconds == 0 and r.tokens > 120 for r in log.rewards) == 9
    report = report_of(harness, folder)
    assert report["reward"]["models"]["small"]["over_limit"] == 0.75
    assert pd.read_csv(folder / "curves.csv")["rewarded"].iloc[-1] == 0


def test_what_a_user_gets_wrong(work, harness, prm_folder, folder_of):
    def refused(arguments, *words):
        code, _, err = harness("score", *arguments)
        assert code == 2 and err.count("\n") == 1 and err.startswith("harness: "), err
        assert all(word in err for word in words), err

    prm = [f"--reward={prm_folder}", "--kind=prm", "--device=cpu"]
    refused(["./apart", "--kind=prm"], "--reward")
    refused(["./apart", f"--reward={prm_folder}"], "--kind")
    refused([*prm], "RUN is missing")
    refused(["./nowhere", *prm], "nowhere", "manifest.json")
    refused(["./apart", *prm, "--batch=0"], "--batch 0", "at least 1")
    refused(["./apart", "--reward=no/such", "--kind=prm"], "no/such", "no such folder")
    refused(["./apart", "--reward=random:tiny-teacher", "--kind=prm"], "random weights")
    refused(["./apart", f"--reward={work}", "--kind=prm"], "config.json", "known formats")
    refused(["./apart", "--reward=small", "--kind=prm"], "no chat template")
    refused(["./apart", *prm, "--aggregate=mean"], "'mean'", "last")
    refused(["./apart", *prm, "--label=good"], "--label", "--kind classifier")
    assert harness("score", "./apart", *prm)[0] == 0
    refused(["./apart", *prm, "--aggregate=min"], "setting was 'last', is now 'min'", "rewards.jsonl")
    refused(["./apart", *prm, "--batch=3"], "batch was 8, is now 3")
    other = folder_of(work / "other", rope_theta=5000.0)
    refused(["./apart", f"--reward={other}", "--kind=prm", "--device=cpu"], "reward was 'tiny-prm', is now 'other'")
    shutil.copy(work / "apart" / "rewards.jsonl", work / "same")
    manifest = json.loads((work / "same" / "manifest.json").read_text())
    (work / "same" / "manifest.json").write_text(json.dumps(manifest | {"created": "2020-01-01T00:00:00+00:00"}))
    assert harness("grade", "./same")[0] == 0
    code, _, err = harness("report", "./same")
    assert code == 2 and "made for the run of" in err
    log = work / "same" / "trajectories.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:2]))
    (work / "same" / "rewards.jsonl").unlink()
    refused(["./same", *prm], "not sampled to its end")


def test_a_classifier_without_transformers_names_the_extra(work, harness, prm_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = harness("score", "./apart", f"--reward={prm_folder}", "--kind=classifier", "--device=cpu")
    assert code == 2 and "reasoning-harness[transformers]" in err and err.count("\n") == 1


def test_weights_that_give_no_numbers(work, harness, folder_of):
    folder = folder_of(work / "broken")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code, _, err = score(harness, folder)
    assert code == 2 and "not finite" in err and err.count("\n") == 1
    assert read_rewards(work / "apart" / "rewards.jsonl").rewards == ()
