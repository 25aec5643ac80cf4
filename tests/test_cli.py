"""What a user gets wrong is one line on stderr (field, value, cure) and exit code 2; Ctrl-C is one line and 130."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from harness import cli
from harness.models.checkpoints import native
from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.models.resolve import TOKENIZER
from harness.models.shapes import SHAPES
from harness.runs import log as log_module
from harness.runs.log import read_log

BUDGET = {
    "seconds": 60, "clock": "task", "samples_per_problem": 1, "max_new_tokens": 8, "temperature": 0.8,
    "top_p": 1.0, "top_k": 0, "seed": 1, "batch": 2, "limit": 2,
}  # fmt: skip
TASK = {
    "file": "rows.jsonl", "answer_type": "math", "prompt_template": "{prompt}\n", "licence": "CC0",
    "fields": {"prompt": "problem", "answer": "answer", "id": "id"},
}  # fmt: skip
ROWS = [{"id": f"r{n}", "problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(3)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model of two layers in our layout, small enough to load and sample at once."""
    folder = tmp_path_factory.mktemp("models") / "small"
    torch.manual_seed(0)
    config = dataclasses.replace(SHAPES["tiny-teacher"], width=16, layers=("attention",), mlp=16, context=200)
    config = dataclasses.replace(
        config, attention=dataclasses.replace(config.attention, heads=2, kv_heads=2, head_dim=8)
    )
    native.save(Decoder(config), folder)
    shutil.copy(TOKENIZER, folder / native.TOKENIZER)
    return folder


@pytest.fixture
def work(tmp_path, model_folder, monkeypatch):
    """A folder to stand in, with a budget, a task and a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write(tmp_path / "b.yaml", BUDGET)
    write(tmp_path / "task.yaml", TASK)
    rows(tmp_path, ROWS)
    shutil.copytree(model_folder, tmp_path / "small")
    return tmp_path


def write(path, data, **changes):
    path.write_text(yaml.safe_dump(data | changes))


def rows(folder, data):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))


@pytest.fixture
def harness(harness):
    """Call ``harness`` with arguments; returns (exit code, stderr)."""

    def call(*arguments):
        code, _, err = harness(*arguments)
        return code, err

    return call


SAMPLE = ("sample", "--device=cpu", "--model=small", "--budget=b.yaml", "--task=task.yaml")


@pytest.fixture
def refused(harness):
    """Call ``harness`` and expect one line that holds all the given words."""

    def call(arguments, *words):
        code, err = harness(*arguments)
        assert code == 2, err
        assert err.count("\n") == 1 and err.startswith("harness: "), err
        for word in words:
            assert word in err, f"{word!r} is not in {err!r}"
        return err

    return call


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["bensh"], ["'bensh'", "did you mean 'bench'?"]),
        (["tasks", "verfy"], ["'verfy'", "'verify'"]),
        (["bench", "--modle", "x"], ["--modle", "--model"]),
        (["bench", "--zzz"], ["--zzz", "harness bench --help"]),
        (["bench", "--limit", "x"], ["--limit", "'x'", "harness bench --help"]),
        (["sample", "--model", "random:tiny-teachr"], ["random:tiny-teachr", "did you mean 'tiny-teacher'?"]),
        (["sample", "--model", "nobody"], ["'nobody'", "no such model"]),
        (["sample", "--model", "smollm2-135"], ["'smollm2-135'", "did you mean 'smollm2-135m'?"]),
        (["sample", "--task", "buildin"], ["'buildin'", "did you mean 'builtin'?"]),
        (["sample", "--task", "no/such.yaml"], ["'no/such.yaml'", "no such file"]),
        (["sample", "--budget", "quik"], ["'quik'", "did you mean 'quick'?"]),
        (["sample", "--budget", "no/such.yaml"], ["'no/such.yaml'", "no such file"]),
        (["sample", "--device", "gpu"], ["--device", "'gpu'", "auto, cpu or cuda"]),
        (["sample", "--dtype", "float16"], ["--dtype", "'float16'", "bfloat16"]),
        (["sample", "--limit", "0"], ["limit", "0", "at least 1"]),
        (["sample", "--samples", "0"], ["samples_per_problem", "0", "at least 1"]),
        (["sample", "--resume"], ["--resume", "--run"]),
        (["grade"], ["RUN is missing", "--last"]),
        (["grade", "nowhere"], ["nowhere", "manifest.json"]),
        (["report", "./no/where"], ["no/where", "manifest.json"]),
        (["report", "--last"], ["results/runs", "harness bench"]),
        (["distill", "tiny-techer"], ["'tiny-techer'", "did you mean 'tiny-teacher'?"]),
        (["distill", "tiny-teacher", "--scale", "0"], ["--scale", "0", "above 0"]),
        (["distill", "tiny-teacher", "--teacher", "x"], ["--teacher", "from scratch"]),
    ],
)
def test_wrong_words(work, refused, arguments, words):
    if arguments[0] == "sample" and "--model" not in arguments:
        arguments = [*arguments, "--model", "small"]
    refused(arguments, *words)
    assert not (work / "results").exists()


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"temprature": 1.0}, ["b.yaml", "'temprature'", "did you mean 'temperature'?"]),
        ({"seconds": 0}, ["b.yaml", "seconds", "0", "must be above 0"]),
        ({"seconds": [5, -1]}, ["b.yaml", "seconds", "-1", "must be above 0"]),
        ({"seconds": "long"}, ["b.yaml", "seconds", "'long'", "a number"]),
        ({"seconds": []}, ["b.yaml", "seconds", "must be above 0"]),
        ({"clock": "tasks"}, ["b.yaml", "clock", "'tasks'", "problem, task"]),
        ({"batch": 0}, ["b.yaml", "batch", "at least 1"]),
        ({"top_p": 0}, ["b.yaml", "top_p", "(0, 1]"]),
        ({"max_new_tokens": 2.5}, ["b.yaml", "max_new_tokens", "2.5", "whole number"]),
    ],
)
def test_wrong_budget_fields(work, refused, changes, words):
    write(work / "b.yaml", BUDGET, **changes)
    refused(SAMPLE, *words)


def test_a_budget_that_lacks_a_field_or_is_no_yaml(work, refused):
    write(work / "b.yaml", {k: v for k, v in BUDGET.items() if k != "seed"})
    refused(SAMPLE, "b.yaml", "seed is missing")
    (work / "b.yaml").write_text("seconds: [1,\n clock")
    refused(SAMPLE, "b.yaml", "YAML")


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"promt_template": "x"}, ["task.yaml", "'promt_template'", "did you mean 'prompt_template'?"]),
        ({"fields": {"promt": "x", "answer": "a"}}, ["task.yaml", "'promt'", "did you mean 'prompt'?"]),
        ({"problems": 5}, ["task", "3 problems", "5 expected"]),
        ({"sha256": "0" * 64}, ["rows.jsonl", "sha256", "000000000000"]),
    ],
)
def test_wrong_task_files(work, refused, changes, words):
    write(work / "task.yaml", TASK, **changes)
    refused(SAMPLE, *words)


@pytest.mark.parametrize(
    "data,words",
    [
        ([], ["task", "no problems"]),
        ([ROWS[0], ROWS[1], ROWS[0]], ["task", "'r0'", "twice", "unique"]),
        ([{"id": "a", "problem": "What?"}], ["row 1", "answer", "missing"]),
        ([{"id": "long", "problem": "1 " * 300, "answer": "1"}], ["problem long", "prompt", "context of 200"]),
    ],
)
def test_wrong_rows(work, refused, data, words):
    rows(work, data)
    refused(SAMPLE, *words)


def test_a_chain_that_leaves_the_context_names_the_most_that_fits(work, refused):
    err = refused([*SAMPLE, "--max-new-tokens", "195"], "max_new_tokens = 195", "r0", "context of 200", "use at most")
    assert int(err.split("at most ")[1]) < 195


@pytest.mark.parametrize("part", [native.WEIGHTS, native.CONFIG, native.TOKENIZER])
def test_missing_parts_of_a_model(work, refused, part):
    (work / "small" / part).unlink()
    refused(SAMPLE, "small", part)


@pytest.mark.parametrize("part", [native.WEIGHTS, native.CONFIG, native.TOKENIZER])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_parts_of_a_model(work, refused, part, keep):
    path = work / "small" / part
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    refused(SAMPLE, part)


def test_tensors_of_another_shape_or_name(work, refused):
    path = work / "small" / native.WEIGHTS
    tensors = load_file(path)
    tensors["norm.weight"] = torch.zeros(17)
    tensors["nrm.weight"] = torch.zeros(16)
    save_file(tensors, path)
    refused(SAMPLE, native.WEIGHTS, "norm.weight is [17]", "[16]", "unexpected nrm.weight")


def test_a_config_with_a_wrong_key(work, refused):
    path = work / "small" / native.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"widht": 3}))
    refused(SAMPLE, native.CONFIG, "'widht'", "did you mean 'width'?")


def test_a_tokenizer_larger_than_the_vocabulary(work, refused):
    config = DecoderConfig.load(work / "small" / native.CONFIG)
    native.save(Decoder(dataclasses.replace(config, vocab_size=300)), work / "small")
    refused(SAMPLE, native.TOKENIZER, "512 tokens", "300")


def test_runs_are_not_mixed(work, harness, refused):
    assert harness(*SAMPLE, "--run=one") == (0, "")
    log = (work / "results/runs/one/trajectories.jsonl").read_bytes()
    refused([*SAMPLE, "--run=one"], "results/runs/one", "--resume", "another --run")
    write(work / "b.yaml", BUDGET, temperature=0.5)
    refused([*SAMPLE, "--run=one", "--resume"], "budget.temperature", "0.8", "0.5")
    write(work / "b.yaml", BUDGET)
    refused([*SAMPLE, "--run=one", "--resume", "--samples=3"], "budget.samples_per_problem", "1", "3")
    refused([*SAMPLE, "--run=one", "--resume", "--dtype=float64"], "dtype", "float32", "float64")
    refused([*SAMPLE, "--run=one", "--resume", "--clock=fake"], "clock_source", "real", "fake")
    refused([*SAMPLE[:-1], "--task=builtin", "--run=one", "--resume"], "task.name", "'task'", "'builtin'")
    refused([*SAMPLE, "--run=one", "--resume", "--model=random:tiny-mamba"], "models.random:tiny-mamba")
    weights = work / "small" / native.WEIGHTS
    tensors = load_file(weights)
    tensors["norm.weight"] += 1
    save_file(tensors, weights)
    refused([*SAMPLE, "--run=one", "--resume"], "models.small.sha256")
    rows(work, [*ROWS[:2], ROWS[2] | {"answer": "9"}])
    refused([*SAMPLE, "--run=one", "--resume"], "task.sha256")
    assert (work / "results/runs/one/trajectories.jsonl").read_bytes() == log


def test_a_folder_with_other_files_is_left_alone(work, refused):
    (work / "mine").mkdir()
    (work / "mine" / "letter.txt").write_text("dear")
    for options in ([], ["--resume"]):
        refused([*SAMPLE, "--run=mine", *options], "mine", "other files", "another --run")
    assert [p.name for p in (work / "mine").iterdir()] == ["letter.txt"]


def test_a_task_of_ones_own_is_graded_from_any_folder(work, harness, monkeypatch):
    assert harness(*SAMPLE, "--run=one") == (0, "")
    run = (work / "results/runs/one").resolve()
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    assert harness("grade", run) == (0, "")
    assert len((run / "verdicts.jsonl").read_text().splitlines()) == 2


def test_report_before_grade(work, harness, refused):
    assert harness(*SAMPLE, "--run=one") == (0, "")
    refused(["report", "one"], "results/runs/one", "harness grade")


def test_a_log_broken_in_the_middle_names_its_line(work, harness, refused):
    assert harness(*SAMPLE, "--run=one") == (0, "")
    path = work / "results/runs/one/trajectories.jsonl"
    path.write_bytes(b"{half\n" + path.read_bytes())
    refused([*SAMPLE, "--run=one", "--resume"], "trajectories.jsonl:1", "restore")
    refused(["grade", "one"], "trajectories.jsonl:1", "restore")


def test_grade_with_another_task_file(work, harness, refused, monkeypatch):
    assert harness(*SAMPLE[:-1], "--task=builtin", "--run=one") == (0, "")
    path = work / "results/runs/one/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["task"]["sha256"] = "f" * 64
    path.write_text(json.dumps(manifest))
    refused(["grade", "one"], "task builtin", "sha256", "ffffffffffff")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_left(work, harness, refused, monkeypatch, number):
    write_bytes, left = os.write, [700]

    def full(fd, data):
        if left[0] <= 0:
            raise OSError(number, os.strerror(number))
        written = write_bytes(fd, bytes(data)[: left[0]])
        left[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "write", full)
        refused([*SAMPLE, "--run=one", "--samples=3"], "no space left", "--resume")
    log = work / "results/runs/one/trajectories.jsonl"
    assert read_log(log).committed_bytes == log.stat().st_size
    assert harness(*SAMPLE, "--run=one", "--samples=3", "--resume") == (0, "")
    assert len(read_log(log).trajectories) == 6


def test_no_space_for_the_manifest(work, refused, monkeypatch):
    from harness.runs import folder

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "fsync", full)
        refused([*SAMPLE, "--run=one"], "no space left", "--resume")
    assert list((work / "results/runs/one").iterdir()) == []


def test_ctrl_c_ends_with_130_and_a_run_that_resume_completes(work):
    # Long chains: some seconds of sampling to stop in.
    write(work / "b.yaml", BUDGET, max_new_tokens=180, samples_per_problem=5)
    command = [sys.executable, "-m", "harness.cli", *SAMPLE, "--run=one"]
    # Whoever runs the tests in the background has children that ignore Ctrl-C.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    log = work / "results/runs/one/trajectories.jsonl"
    give_up = time.monotonic() + 60
    while not log.is_file() or log.read_bytes().count(b'"look"') < 3:
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "stopped; what finished is kept, go on with --resume"
    stopped = read_log(log)
    assert not all(p.looks[-1].ended for p in stopped.rounds.values())
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    whole = read_log(log)
    assert whole.trajectories[: len(stopped.trajectories)] == stopped.trajectories
    assert len({t.key for t in whole.trajectories}) == len(whole.trajectories) == 10
    assert all(p.looks[-1].ended for p in whole.rounds.values())


def test_help_and_version(harness):
    assert harness("--help")[0] == 0 and harness("--version")[0] == 0
    assert harness("bench", "-h")[0] == 0


def test_out_of_memory_is_answered_in_one_line(monkeypatch, capsys):
    def run(**_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(cli, "cli", run)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("harness: out of memory") and error.count("\n") == 1
