"""What the files beside throughput.csv answer of the goals; a line's figure is None where its file lacks the rows."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.bench.split import PRODUCTS
from harness.report.throughput import BLANK

HALVES = ("float16", "bfloat16")
# mamba_ssm's kernel with bf16 states and causal_conv1d's at these shapes, microseconds, measured 2026-11-23.
QUOTED_US = {
    ("llamba-1b", "512", "selective_state_update"): 124.0, ("llamba-1b", "512", "causal_conv1d_update"): 40.6,
    ("mamba2-1.3b", "256", "selective_state_update"): 292.7, ("mamba2-1.3b", "256", "causal_conv1d_update"): 16.4,
}  # fmt: skip

# (shape, rows) -> microseconds at most for a state update with 16-bit states, and times faster than mamba_ssm's.
STATE_GOALS = {("llamba-1b", "512"): (68.0, 1.8), ("mamba2-1.3b", "256"): (114.0, 2.55)}


@dataclasses.dataclass(frozen=True)
class Line:
    """``figure`` is held to ``goal`` (None: reported alone), from below unless ``at_most``; ``form`` writes both."""

    what: str
    measured: str
    rival: str
    figure: float | None
    goal: float | None
    form: str
    at_most: bool = False

    @property
    def met(self) -> str:
        if self.figure is None or self.goal is None:
            return BLANK
        met = self.figure <= self.goal if self.at_most else self.figure >= self.goal
        return "no" if not met else "if quoted" if "quoted" in self.rival else "yes"

    def cells(self) -> tuple[str, ...]:
        sign = "at most " if self.at_most else ""
        goal = BLANK if self.goal is None else sign + self.form.format(self.goal)
        return (
            self.what, self.measured, self.rival, BLANK if self.figure is None else self.form.format(self.figure), goal,
            self.met,
        )  # fmt: skip


def step_lines(path: Path) -> Iterator[Line]:
    """Of ``step_kernels.py --csv``: the inner part against the limit in microseconds, all of it against both rivals."""
    times: dict[tuple[str, str, str, str], float] = {}
    for row in _dicts(path):
        if row["us"]:  # of several launches the first is the table's
            times.setdefault((row["model"], row["rows"], row["state"], row["what"]), float(row["us"]))

    def rival(model: str, rows: str, what: str) -> tuple[float, str]:
        ran = min(times.get((model, rows, state, what), float("inf")) for state in HALVES)
        quoted = QUOTED_US[model, rows, what]
        return (ran, f"{ran:.1f} us") if ran <= quoted else (quoted, f"{quoted:.1f} us quoted")

    for (model, rows), (limit, inner) in STATE_GOALS.items():
        whole = {"llamba-1b": 1.8, "mamba2-1.3b": 2.3}[model]
        scan, conv = (rival(model, rows, f"{w}_update") for w in ("selective_state", "causal_conv1d"))
        step = times.get((model, rows, "float16", "step"))
        exact = times.get((model, rows, "float32", "inner"))
        cell = f"{model}, batch {rows}"
        for state in HALVES:
            mine, what = times.get((model, rows, state, "inner")), f"state update, {state}, {cell}"
            yield Line(what, _us(mine), BLANK, mine, limit, "{:.1f} us", at_most=True)
            yield Line(what, _us(mine), scan[1], mine and scan[0] / mine, inner, "{:.2f}x")
        if model == "llamba-1b":
            yield Line(f"state update, float32, {cell}", _us(exact), scan[1], exact and scan[0] / exact, 1.0, "{:.2f}x")
        both = f"{scan[1]} + {conv[1]}"
        yield Line(f"mamba2_step, {cell}", _us(step), both, step and (scan[0] + conv[0]) / step, whole, "{:.2f}x")


def ring_lines(path: Path) -> Iterator[Line]:
    """Of ``ring_kernels.py --csv``: ours beside the others' rings, each at its best length of ring and best launch."""
    times: dict[tuple[str, ...], tuple[float, str]] = {}
    for row in _dicts(path):
        who = row["what"].split(",")[0]
        if not row["what"].endswith("one phase"):
            key = (row["model"], row["rows"], row["state"], who)
            times[key] = min(times.get(key, (float("inf"), "")), (float(row["us"]), f"K = {row['k']}"))
    for (model, rows, state, who), (us, k) in times.items():
        if who != "inner" and (model, rows, state, "inner") in times:
            mine, own_k = times[model, rows, state, "inner"]
            what = f"state update, {state}, {model}, batch {rows}, over {who}"
            yield Line(what, f"{_us(mine)}, {own_k}", f"{_us(us)}, {k}", us / mine, None, "{:.2f}x")


def attention_lines(path: Path) -> Iterator[Line]:
    """Of ``attention_kernels.py --csv``: the first cell's share of copy bandwidth, and FlashAttention 3 beside it.

    A file may hold runs with FlashAttention 3 behind runs without: the two are compared from where its rows begin.
    """
    cell = "llama-3.2-1b 256 x (128 + 1024)"
    rows = [row for row in _dicts(path) if row["cell"] == cell and row["us"]]
    flash_at = next((i for i, row in enumerate(rows) if row["kernel"] == "flash_attention_3"), None)
    if flash_at is not None:
        rows = rows[max(i for i, row in enumerate(rows[:flash_at]) if row["kernel"] == "attention_decode") :]

    def best(kernel: str) -> tuple[float, float] | None:
        return min(((float(r["us"]), float(r["share"])) for r in rows if r["kernel"] == kernel), default=None)

    mine, flash = best("attention_decode"), best("flash_attention_3")
    us = _us(mine and mine[0])
    yield Line(f"attention_decode, {cell}, of copy", us, BLANK, mine and mine[1], 0.85, "{:.1%}")
    ratio = flash[0] / mine[0] if mine and flash else None
    yield Line(f"attention_decode, {cell}, over FlashAttention 3", us, _us(flash and flash[0]), ratio, 1.0, "{:.2f}x")


def product_lines(path: Path) -> Iterator[Line]:
    """Of ``product_kernels.py --csv``: the sum of a layer's products as the engine has them, over the best of cuBLAS.

    The engine's are torch.mm's with weights as stored, but for those turned (``harness.engine.fused``).
    """
    times: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in _dicts(path):
        if row["how"].startswith("cublas"):
            shapes = times.setdefault((row["model"], row["rows"]), {})
            shapes.setdefault(row["product"], {})[row["how"]] = float(row["us"])
    for model in ("llama-3.2-1b", "llamba-1b", "mamba2-1.3b"):
        for rows in ("256", "512"):
            shapes = times.get((model, rows), {})
            turned = {"gate, up", "in"} if model == "llamba-1b" else {"gate, up"}
            ours = sum(us["cublas, turned" if what in turned else "cublas"] for what, us in shapes.items()) or None
            best = sum(min(us.values()) for us in shapes.values())
            what = f"a layer's products, {model}, {rows} rows, over the best of cuBLAS"
            yield Line(what, _us(ours), _us(best or None), ours and ours / best, 1.1, "{:.3f}x", at_most=True)


def embedded_lines(path: Path) -> Iterator[Line]:
    """Of ``embedded_speed.py --csv``: the least that the GPU is over the CPU, among models and seconds of the clock.

    A file of before each side's dtype was written, and of one run a side, has neither dtypes nor a spread.
    """
    every = _dicts(path)
    worst = min((row for row in every if row["over_cpu"]), key=lambda row: float(row["over_cpu"]), default=None)
    what, form = "embedded models, bench on the GPU over its CPU's", "{:.0f}x"
    if worst is None:
        yield Line(what, BLANK, BLANK, None, 30.0, form)
        return
    rate, ratio = float(worst["tokens_per_s"]), float(worst["over_cpu"])
    cpu = next((row for row in every if not row["over_cpu"] and row["model"] == worst["model"]), {})
    if "dtype" in worst:
        what = f"embedded models, bench ({worst['dtype']}) on the GPU over its CPU's ({cpu.get('dtype')})"
    spread = f" ({float(worst['least']):,.0f} to {float(worst['most']):,.0f})" if "least" in worst else ""
    measured = f"{rate:,.0f}{spread}, {worst['model']} by {float(worst['second']):g} s"
    yield Line(what, measured, f"{rate / ratio:,.0f}", ratio, 30.0, form)


def fixed_lines(path: Path) -> Iterator[Line]:
    """Of ``gate.py``'s draws: what fixed rows cost where all of them are used, and that no chain hangs on the batch."""
    rows = _dicts(path)
    fixed = [row for row in rows if row["fixed_rows"] != "0"]
    free = {(r["model"], r["batch"]): float(r["tokens_per_s"]) for r in rows if r["fixed_rows"] == "0"}
    full = [row for row in fixed if row["batch"] == row["fixed_rows"] and (row["model"], row["batch"]) in free]
    for row in full:
        ours, without = float(row["tokens_per_s"]), free[row["model"], row["batch"]]
        what = f"fixed rows, time, {short_name(row['model'])} x {row['batch']}"
        yield Line(what, f"{ours:,.0f}", f"{without:,.0f}", without / ours - 1, 0.1, "{:+.1%}", at_most=True)
    if not full:
        yield Line("fixed rows, time", BLANK, BLANK, None, 0.1, "{:+.1%}", at_most=True)
    differing = max((float(row["differing_share"]) for row in fixed), default=None)
    yield Line("fixed rows, chains that differ by batch", BLANK, BLANK, differing, 0.0, "{:.1%}", at_most=True)


def gate_lines(path: Path) -> Iterator[Line]:
    """Of ``gate.py``: fp16 states under fp32 weights, the worst case of each model."""
    kept: dict[str, list[dict[str, str]]] = {}
    for row in _dicts(path):
        if (row["engine"], row["weights"], row["state_dtype"]) == ("native", "float32", "float16"):
            kept.setdefault(f", {short_name(row['model'])}", []).append(row)
    for model, rows in (kept or {"": []}).items():
        top = min((float(row["top1"]) for row in rows), default=None)
        kl = max((float(row["kl"]) for row in rows), default=None)
        yield Line(f"fp16 states, equal top token{model}", BLANK, BLANK, top, 0.995, "{:.1%}")
        yield Line(f"fp16 states, mean KL{model}", BLANK, BLANK, kl, 1e-4, "{:.1e}", at_most=True)


def plan_lines(path: Path) -> Iterator[Line]:
    """Of ``throughput.sh``'s splits: kernels that a captured graph launches otherwise than ``results/plan.json`` says.

    Where both have the cell; torch's own small launches (copies, fills, additions) are left out on both sides.
    """
    captured: dict[tuple[str, str], Counter[str]] = {}
    for row in _dicts(path):
        cell = f"{short_name(row['model'])}, {row['batch']} x ({row['prompt']} + {row['new_tokens']})"
        if "." in row["kernel"] or row["kernel"] == PRODUCTS:
            captured.setdefault((cell, row["state_dtype"]), Counter())[row["kernel"]] += round(float(row["launches"]))
    steps = json.loads((Path(__file__).parents[1] / "plan.json").read_text())["steps"]
    if not captured:
        yield Line("graph = plan", BLANK, BLANK, None, 0, "{:d}", at_most=True)
    for (cell, state), launches in captured.items():
        if cell in steps:
            planned: Counter[str] = Counter()
            for kernel, (count, _) in steps[cell]["kernels"].items():
                if "." in kernel or kernel.startswith("mm ["):
                    planned[kernel if "." in kernel else PRODUCTS] += count
            differing = sum(launches[kernel] != planned[kernel] for kernel in launches | planned)
            counts = (f"{launches.total()} launches", f"{planned.total()} planned")
            yield Line(f"graph = plan, {cell}, {state} states, kernels", *counts, differing, 0, "{:d}", at_most=True)


# File -> the script that makes it, and its lines.
FILES: dict[str, tuple[str, Callable[[Path], Iterator[Line]]]] = {
    "step": ("step_kernels.py", step_lines),
    "ring": ("ring_kernels.py", ring_lines),
    "attention": ("attention_kernels.py", attention_lines),
    "products": ("product_kernels.py", product_lines),
    "embedded_speed": ("embedded_speed.py", embedded_lines),
    "gate_draws": ("gate.py", fixed_lines),
    "gate": ("gate.py", gate_lines),
    "throughput.split": ("throughput.sh", plan_lines),
}


def short_name(model: str) -> str:
    return model.removeprefix("random:")


def _us(value: float | None) -> str:
    return BLANK if value is None else f"{value:.1f} us"


def _dicts(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV; none of one that is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
