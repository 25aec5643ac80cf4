"""``--prompt-style`` from the command line to the log: what is sampled, recorded, compared on resume, and refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
import yaml

from harness.models.checkpoints import native
from harness.models.decoder import Decoder
from harness.models.prompts import styles
from harness.models.resolve import TOKENIZER, load_model
from harness.models.shapes import SHAPES
from harness.models.template import TEMPLATE_DATE, template_sha256
from harness.runs.log import read_log

BUDGET = {
    "seconds": 60, "clock": "task", "samples_per_problem": 1, "max_new_tokens": 4, "temperature": 0.8,
    "top_p": 1.0, "top_k": 0, "seed": 1, "batch": 2,
}  # fmt: skip
TASK = {
    "file": "rows.jsonl", "answer_type": "math", "prompt_template": "{prompt} =\n", "licence": "CC0",
    "fields": {"prompt": "problem", "answer": "answer", "id": "id"},
}  # fmt: skip
PROBLEM = "3 + 4"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ strftime_now('%Y') }}: "


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder to stand in, with a budget, a task and two models: ``plain``, and ``chatty`` with a chat template."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = dataclasses.replace(SHAPES["tiny-teacher"], width=16, layers=("attention",), mlp=16, context=4000)
    config = dataclasses.replace(
        config, attention=dataclasses.replace(config.attention, heads=2, kv_heads=2, head_dim=8)
    )
    for name in ("plain", "chatty"):
        native.save(Decoder(config), tmp_path / name)
        shutil.copy(TOKENIZER, tmp_path / name / native.TOKENIZER)
    (tmp_path / "chatty" / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(BUDGET))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(TASK))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "r", "problem": PROBLEM, "answer": "7"}) + "\n")
    return tmp_path


@pytest.fixture
def sample(work, harness):
    """Call ``harness sample`` on a model; returns (exit code, stdout, stderr)."""
    fixed = ("--device=cpu", "--budget=b.yaml", "--task=task.yaml")
    return lambda model, *arguments: harness("sample", f"--model={model}", *fixed, *arguments)


def refused(result, *words):
    code, _, err = result
    assert code == 2 and err.count("\n") == 1 and err.startswith("harness: "), err
    for word in words:
        assert word in err, f"{word!r} is not in {err!r}"


def text(model, style):
    task_text = {"boxed": styles()["boxed"].user, "gsm8k": styles()["gsm8k"].user}.get(style, TASK["prompt_template"])
    task_text = task_text.replace("{prompt}", PROBLEM)
    chats = model == "chatty" and style not in ("plain", "gsm8k")
    return f"user: {task_text}\n2024: " if chats else task_text


@pytest.mark.parametrize("model", ["plain", "chatty"])
@pytest.mark.parametrize("style", [None, "auto", "plain", "chat", "boxed", "gsm8k"])
def test_a_style_decides_the_prompt_and_is_recorded(work, sample, model, style):
    result = sample(model, "--run=run", *([] if style is None else [f"--prompt-style={style}"]))
    if (model, style) == ("plain", "chat"):
        refused(result, "--prompt-style chat", "plain has no chat template")
        assert not (work / "results").exists()
        return
    assert result[0] == 0, result
    codec = load_model(model, torch.float32, torch.device("cpu")).codec
    tokens = codec.encode_exactly(text(model, style))
    bos = codec.bos is not None and (model == "plain")
    folder = work / "results" / "runs" / "run"
    row = read_log(folder / "trajectories.jsonl").trajectories[0]
    assert row.prompt_tokens == len(tokens) + bos
    manifest = json.loads((folder / "manifest.json").read_text())
    prompt = manifest["task"]["prompt"]
    assert (prompt["style"], prompt["template_date"]) == (style or "auto", TEMPLATE_DATE)
    assert prompt["sha256"] == styles()[style or "auto"].facts()["sha256"]
    assert manifest["models"][model]["chat_template"] == (template_sha256(TEMPLATE) if model == "chatty" else None)
    assert ('put stop: ["Question:"]' in result[1]) == (style == "gsm8k")


def test_an_unknown_style_is_refused(work, sample):
    refused(sample("plain", "--run=run", "--prompt-style=step"), "'step'", "did you mean 'steps'?")
    assert not (work / "results").exists()


def test_a_style_or_template_that_changed_cannot_be_resumed_with(work, sample):
    assert sample("chatty", "--run=run", "--prompt-style=boxed")[0] == 0
    again = ("--run=run", "--resume")
    assert sample("chatty", *again, "--prompt-style=boxed")[0] == 0
    refused(sample("chatty", *again), "task.prompt.style", "'boxed'", "'auto'")
    (work / "chatty" / "chat_template.jinja").write_text(TEMPLATE + " ")
    refused(sample("chatty", *again, "--prompt-style=boxed"), "models.chatty.chat_template", template_sha256(TEMPLATE))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only one turn') }}", ["only one turn"]),
        ("{% for m in messages %}", ["Unexpected end of template"]),
        ("{{ 'a' * 10 ** 11 }}", ["needs more than"]),
    ],
)
def test_a_template_that_fails_ends_the_run_in_one_line(work, sample, template, words):
    (work / "chatty" / "chat_template.jinja").write_text(template)
    refused(sample("chatty", "--run=run"), "chatty/chat_template.jinja: chat template: ", *words)
    assert not (work / "results" / "runs" / "run").exists(), "nothing was sampled"
