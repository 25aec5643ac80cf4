"""SmolLM2-135M through our engine and vLLM: greedy outputs side by side, and one report of two runs.

    python results/h100/smollm2.py greedy --engine native --out greedy.json      (a GPU; smollm2.sh calls it)
    python results/h100/smollm2.py report native vllm results/h100/FOLDER --greedy greedy.json

``greedy`` decodes each prompt of smollm2.yaml at temperature 0 through eager, the engine and vLLM, and for every two
that part names the first differing token and the gap there: our logit of the one's token less that of the other's,
by a whole forward of the plain decoder, in the weights' dtype and (the same weights) in fp32. In bf16 a logit of 20
has neighbours 0.125 apart, so gaps of one or two such steps are ties that two orders of summing break differently.
With fp32 weights vLLM attends in Triton, whose products of fp32 would be tf32: TRITON_F32_DEFAULT=ieee is set for them.
``report`` takes two graded runs of one budget and reports them as ``harness report`` does the models of one, under the
names native and vllm; ``speed.csv`` holds what it does not: tokens, seconds and prefills of each whole round.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import gc
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from harness.bench.forced import reference
from harness.bench.job import run_data
from harness.bench.settings import choose_device, choose_dtype
from harness.budgets.loader import load_budget
from harness.engine.engines import make_backend
from harness.engine.vllm import VllmBackend, VllmEngine
from harness.engine.vllm_folder import load_for_vllm
from harness.models.decoder import Decoder
from harness.models.prompts import find_style
from harness.models.resolve import LoadedModel, load_model
from harness.records import Budget, InputError
from harness.report.data import RunData
from harness.report.terminal import print_report
from harness.report.write import write_report
from harness.runs.folder import RunFolder
from harness.runs.log import read_log
from harness.tasks.loader import load_task

MODEL, TASK = "smollm2-135m", "math500"
BUDGET = Path(__file__).with_suffix(".yaml")
WINDOW = 8
Chains = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("greedy")
    command.add_argument("--engine", default="native")
    command.add_argument("--device", default="auto")
    command.add_argument("--dtype", default="auto")
    command.add_argument("--prompts", type=int, default=20)
    command.add_argument("--tokens", type=int, default=256)
    command.add_argument("--out", type=Path, required=True)
    command.set_defaults(run=greedy)
    command = commands.add_parser("report")
    command.add_argument("native", type=Path)
    command.add_argument("vllm", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--greedy", type=Path, nargs="*", default=[])
    command.set_defaults(run=report)
    given = parser.parse_args()
    given.run(given)


def greedy(given: argparse.Namespace) -> None:
    """Chains of all engines, then what the plain decoder says of the places where they part."""
    device = choose_device(given.device)
    dtype = choose_dtype(given.dtype, device)
    if dtype == torch.float32:
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    budget = dataclasses.replace(load_budget(str(BUDGET)), temperature=0.0, max_new_tokens=given.tokens)
    task = load_task(TASK, limit=given.prompts)
    model = load_model(MODEL, dtype, device)
    prompts = [find_style("auto").tokens(model.codec, task, problem) for problem in task.problems]
    ids = [problem.id for problem in task.problems]
    chains: dict[str, Chains] = {}
    for engine in dict.fromkeys(("eager", given.engine)):
        backend = make_backend(engine, model, budget, prompts, ids, len(prompts), ignore_eos=True)
        chains[engine] = decode(backend, len(prompts), given.tokens)
        del backend
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    chains["vllm"], facts = through_vllm(budget, dtype, device, prompts, ids)
    rows = [
        {"problem": ids[i], "pair": f"{a} {b}", **parting(model, prompts[i], chains[a][i], chains[b][i])}
        for a, b in pairs(list(chains))
        for i in range(len(prompts))
    ]
    found = {
        "model": MODEL,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "prompts": len(prompts),
        "tokens": given.tokens,
        "vllm": facts,
        "pairs": {pair: summary([row for row in rows if row["pair"] == pair]) for pair in {r["pair"]: 0 for r in rows}},
        "rows": rows,
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["pairs"]))


def through_vllm(
    budget: Budget, dtype: torch.dtype, device: torch.device, prompts: Sequence[Sequence[int]], ids: Sequence[str]
) -> tuple[Chains, dict[str, Any]]:
    model = load_for_vllm(MODEL, dtype, budget.seed)
    tokens = max(map(len, prompts)) + budget.max_new_tokens
    engine = VllmEngine(MODEL, model, device, tokens, len(prompts), budget.seed)
    backend = VllmBackend(engine, model, budget, prompts, ids, len(prompts), ignore_eos=True)
    backend.begin_round()
    chains, facts = decode(backend, len(prompts), budget.max_new_tokens), engine.facts
    engine.close()
    return chains, facts


def decode(backend: Any, rows: int, tokens: int) -> Chains:
    """``tokens`` tokens of each prompt, through the protocol that the scheduler uses."""
    backend.prefill(range(rows))
    backend.fork(range(rows), [0] * rows, range(rows))
    chains: Chains = [[] for _ in range(rows)]
    while any(len(chain) < tokens for chain in chains):
        window = backend.window(rows, WINDOW)
        for row, chain in enumerate(chains):
            chain += window.tokens[: window.count[row], row].tolist()
    return chains


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(a, b) for place, b in enumerate(names) for a in names[:place]]


def parting(model: LoadedModel, prompt: Sequence[int], a: list[int], b: list[int]) -> dict[str, Any]:
    """``at`` is None for equal chains, else the tokens that both have in common; gaps as the module says."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
    if at is None:
        return {"at": None, "tokens": None, "gap": None, "gap_fp32": None}
    wide = copy.deepcopy(model.decoder).float()
    gaps = (_gap(decoder, prompt, a[:at], a[at], b[at]) for decoder in (model.decoder, wide))
    return {"at": at, "tokens": [a[at], b[at]], **dict(zip(("gap", "gap_fp32"), gaps, strict=True))}


@torch.inference_mode()
def _gap(decoder: Decoder, prompt: Sequence[int], common: list[int], a: int, b: int) -> float:
    logits = reference(decoder, prompt, common)[-1].double()
    return round(float(logits[a] - logits[b]), 6)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    parted = [row for row in rows if row["at"] is not None]
    return {
        "chains": len(rows),
        "equal": len(rows) - len(parted),
        "equal_share": (len(rows) - len(parted)) / len(rows),
        "largest_gap": max((abs(row["gap"]) for row in parted), default=None),
        "largest_gap_fp32": max((abs(row["gap_fp32"]) for row in parted), default=None),
    }


def report(given: argparse.Namespace) -> None:
    folders = {"native": RunFolder(given.native), "vllm": RunFolder(given.vllm)}
    manifests = {name: folder.read_manifest() for name, folder in folders.items()}
    for key in ("budget", "task", "dtype", "commit", "models"):
        if manifests["native"][key] != manifests["vllm"][key]:
            raise InputError(f"{given.vllm}: another {key} than {given.native} has; sample both with the same")
    if len({manifest["device"]["name"] for manifest in manifests.values()}) > 1:  # its clocks may differ
        raise InputError(f"{given.vllm}: another device than {given.native} has; sample both on one")
    numbers = write_report(merged({name: run_data(folder) for name, folder in folders.items()}), given.out)
    print_report(numbers, Console())
    speeds = [speed(name, folders[name], manifest) for name, manifest in manifests.items()]
    with open(given.out / "speed.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, speeds[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(speeds)
    for name, manifest in manifests.items():
        (given.out / f"manifest_{name}.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for path in given.greedy:
        (given.out / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        found = json.loads(path.read_text(encoding="utf-8"))
        for pair, share in found["pairs"].items():
            print(f"greedy, {found['dtype']}, {pair}: {share}")
    for row in speeds:
        print(row)


def merged(runs: dict[str, RunData]) -> RunData:
    """One run with an engine in each model's place."""
    first = runs["native"]
    models = {}
    for name, run in runs.items():
        ((log, verdicts),) = run.models.values()
        models[name] = tuple([dataclasses.replace(row, model=name) for row in part] for part in (log, verdicts))
    device = first.manifest["device"].rsplit(", ", 1)[0]
    manifest = {**first.manifest, "device": f"{device}, {MODEL} through both engines"}
    return dataclasses.replace(first, models=models, manifest=manifest, teacher="native")  # type: ignore[arg-type]


def speed(name: str, folder: RunFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    """A whole round, in the clock's seconds up to its last look. Ours prefills a prompt once, vLLM for every sample."""
    log = read_log(folder.log_path)
    (progress,) = log.rounds.values()
    tokens, seconds = sum(t.new_tokens for t in log.trajectories), progress.looks[-1].clock_s
    vllm = next(iter(manifest.get("vllm", {}).values()), None)
    prompts = {t.problem_id: t.prompt_tokens for t in log.trajectories}
    ours = {"requests": len(prompts), "prompt_tokens": sum(prompts.values()), "cached_tokens": 0}
    prefills = ours if vllm is None else vllm["prefills"]
    return {
        "run": name, "engine": manifest["engine"], "version": "" if vllm is None else vllm["version"],
        "chains": len(log.trajectories), "tokens": tokens, "seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds), "prefills": prefills["requests"],
        "prefilled_tokens": prefills["prompt_tokens"] - prefills["cached_tokens"],
        "from_prefix_cache": prefills["cached_tokens"],
        **{key: next(iter(manifest["off_clock"].values()))[key] for key in ("load_s", "warm_up_s")},
    }  # fmt: skip


if __name__ == "__main__":
    main()
