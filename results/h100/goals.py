"""The goals that rows can answer: what was measured, the best rival, the figure, the goal, and whether it is met.

    python results/h100/goals.py                                       (throughput.csv and what else lies beside it)
    python results/h100/goals.py --plot throughput.png                 (and draw the rows)
    python results/h100/goals.py --csv rows.csv --step step.csv --attention attention.csv

A rival's figure is the better of what ran (the rival's rows) and what is quoted (quoted.csv, with its source), which
is marked; a goal met beside a quoted rival says so, since the goals want the rival in the same run. A cell that has no
row yet is a dash, which is no goal met. Reads files alone; no GPU.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from harness.report.style import save
from harness.report.throughput import BLANK, Row, read_rows
from harness.report.throughput_plot import throughput_plot

HERE = Path(__file__).parent
LLAMA, LLAMBA, MAMBA2 = "random:llama-3.2-1b", "random:llamba-1b", "random:mamba2-1.3b"
TEACHER_3B, STUDENT_3B = "random:llama-3.2-3b", "random:mamba-in-llama-3b"
HALVES = ("float16", "bfloat16")
PUBLISHED = (
    "Published, M1's hybrid 3B over Llama-3.2-3B in vLLM 0.6.3, 4,096 tokens: 2.15x at batch 128, 3.01x at 512"
    " (arXiv 2504.10449)"
)
# mamba_ssm's kernel with bf16 states and causal_conv1d's at these shapes, microseconds, measured 2026-11-23.
QUOTED_US = {
    ("llamba-1b", "512", "selective_state_update"): 124.0, ("llamba-1b", "512", "causal_conv1d_update"): 40.6,
    ("mamba2-1.3b", "256", "selective_state_update"): 292.7, ("mamba2-1.3b", "256", "causal_conv1d_update"): 16.4,
}  # fmt: skip


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


class Rows:
    """Throughput rows that ran and rows that are quoted."""

    def __init__(self, ran: Sequence[Row], quoted: Sequence[Row]) -> None:
        self.ran, self.quoted = ran, quoted

    def native(self, model: str, batch: int, new_tokens: int) -> Row | None:
        found = [
            r for r in self.ran if (r.model, r.engine, r.batch, r.new_tokens) == (model, "native", batch, new_tokens)
        ]
        return max((r for r in found if r.state_dtype in HALVES), key=lambda r: r.tokens_per_s, default=None)

    def rival(self, engine: str, model: str, batch: int, lengths: Sequence[int]) -> tuple[float, str] | None:
        """Tokens/s and what to say of them, the best of ``lengths``: one to whom length is nothing may be quoted so."""
        found = [
            (r.tokens_per_s, f"{r.tokens_per_s:,.0f}{quoted}{f', {r.new_tokens} new' if len(lengths) > 1 else ''}")
            for rows, quoted in ((self.ran, ""), (self.quoted, " quoted"))
            for r in rows
            if (r.model, r.engine, r.batch) == (model, engine, batch) and r.new_tokens in lengths
        ]
        return max(found, default=None)

    def share(self, model: str, batch: int, new_tokens: int, goal: float) -> Line:
        row = self.native(model, batch, new_tokens)
        rate, share = (BLANK, None) if row is None else (f"{row.tokens_per_s:,.0f}", row.roofline_share)
        return Line(f"{_name(model)} {batch} x {new_tokens}, of its roofline", rate, BLANK, share, goal, "{:.1%}")

    def ratio(
        self, model: str, batch: int, new_tokens: int, engine: str, theirs: str, lengths: Sequence[int],
        goal: float | None,
    ) -> Line:  # fmt: skip
        row, rival = self.native(model, batch, new_tokens), self.rival(engine, theirs, batch, lengths)
        other = "" if theirs == model else f"'s {_name(theirs)}"
        return Line(
            f"{_name(model)} {batch} x {new_tokens} over {engine}{other}",
            BLANK if row is None else f"{row.tokens_per_s:,.0f}",
            BLANK if rival is None else rival[1],
            None if row is None or rival is None else row.tokens_per_s / rival[0],
            goal,
            "{:.2f}x",
        )

    def lines(self) -> Iterator[Line]:
        for batch, new, share, ratio in ((256, 1024, 0.70, 1.45), (512, 2048, 0.80, 1.2), (256, 4096, 0.82, 1.1)):
            yield self.share(LLAMA, batch, new, share)
            yield self.ratio(LLAMA, batch, new, "vllm", LLAMA, [new], ratio)
        for batch, share in ((256, 0.68), (512, 0.75), (1024, 0.80)):
            yield self.share(LLAMBA, batch, 1024, share)
        yield self.ratio(LLAMBA, 256, 1024, "vllm", LLAMA, [1024], 2.3)
        yield self.ratio(LLAMBA, 256, 1024, "mamba_ssm", LLAMBA, [512, 1024], 1.8)
        yield self.ratio(MAMBA2, 256, 512, "vllm", MAMBA2, [512, 1024], 1.6)
        yield self.ratio(MAMBA2, 256, 512, "mamba_ssm", MAMBA2, [512], 2.2)
        for batch in sorted({r.batch for r in self.ran if (r.model, r.new_tokens) == (STUDENT_3B, 2048)} | {128}):
            yield self.ratio(STUDENT_3B, batch, 2048, "vllm", TEACHER_3B, [2048], 2.5 if batch == 128 else None)
        yield self.most("sampling, of a step, batch 512", "sampling_share", 512, 0.06, (LLAMA, LLAMBA))
        yield self.most("host gap, batch 64", "host_gap_share", 64, 0.03, (LLAMA, LLAMBA, MAMBA2))
        for student, teacher in ((LLAMBA, LLAMA), (STUDENT_3B, TEACHER_3B), ("random:mamba-in-llama-1b", LLAMA)):
            cells = dict.fromkeys((r.batch, r.new_tokens) for r in self.ran if r.model == student)
            for batch, new in cells:
                if (row := self.native(teacher, batch, new)) and (mine := self.native(student, batch, new)):
                    rates = (f"{mine.tokens_per_s:,.0f}", f"{row.tokens_per_s:,.0f}")
                    what = f"{_name(student)} {batch} x {new} over native {_name(teacher)}"
                    yield Line(what, *rates, mine.tokens_per_s / row.tokens_per_s, None, "{:.2f}x")

    def most(self, what: str, field: str, batch: int, goal: float, models: Sequence[str]) -> Line:
        """The largest of a share over the cells of ``batch``, and whose it is."""
        rows = [r for r in self.ran if r.engine == "native" and r.batch == batch and r.model in models]
        worst = max((r for r in rows if getattr(r, field) is not None), key=lambda r: getattr(r, field), default=None)
        if worst is None:
            return Line(what, BLANK, BLANK, None, goal, "{:.1%}", at_most=True)
        whose = f"{_name(worst.model)} x {worst.new_tokens}"
        return Line(what, whose, BLANK, getattr(worst, field), goal, "{:.1%}", at_most=True)


def _name(model: str) -> str:
    return model.removeprefix("random:")


def step_lines(path: Path) -> Iterator[Line]:
    """Of ``step_kernels.py --csv``: the inner part against the limit in microseconds, all of it against both rivals."""
    times: dict[tuple[str, str, str, str], float] = {}
    for row in _dicts(path):
        if row["us"]:
            key = (row["model"], row["rows"], row["state"], row["what"])
            times[key] = min(float(row["us"]), times.get(key, float("inf")))

    def rival(model: str, rows: str, what: str) -> tuple[float, str]:
        ran = min(times.get((model, rows, state, what), float("inf")) for state in HALVES)
        quoted = QUOTED_US[model, rows, what]
        return (ran, f"{ran:.1f} us") if ran <= quoted else (quoted, f"{quoted:.1f} us quoted")

    for model, rows, limit, inner, whole in (
        ("llamba-1b", "512", 68.0, 1.8, 1.8),
        ("mamba2-1.3b", "256", 114.0, 2.55, 2.3),
    ):
        scan, conv = (rival(model, rows, f"{w}_update") for w in ("selective_state", "causal_conv1d"))
        mine = times.get((model, rows, "float16", "inner"))
        step = times.get((model, rows, "float16", "best step"))
        exact = times.get((model, rows, "float32", "inner"))
        cell = f"{model}, batch {rows}"
        yield Line(f"state update, {cell}", _us(mine), BLANK, mine, limit, "{:.1f} us", at_most=True)
        yield Line(f"state update, {cell}", _us(mine), scan[1], mine and scan[0] / mine, inner, "{:.2f}x")
        if model == "llamba-1b":
            yield Line(f"state update, fp32, {cell}", _us(exact), scan[1], exact and scan[0] / exact, 1.0, "{:.2f}x")
        both = f"{scan[1]} + {conv[1]}"
        yield Line(f"mamba2_step, {cell}", _us(step), both, step and (scan[0] + conv[0]) / step, whole, "{:.2f}x")


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


def _us(value: float | None) -> str:
    return BLANK if value is None else f"{value:.1f} us"


def _dicts(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(lines: Sequence[Line]) -> Table:
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, header in enumerate(("what", "measured", "rival", "figure", "goal", "met")):
        found.add_column(header, justify="left" if i == 0 else "right", overflow="fold")
    for line in lines:
        found.add_row(*line.cells())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=HERE / "throughput.csv", help="rows of throughput.sh")
    parser.add_argument("--quoted", type=Path, default=HERE / "quoted.csv", help="rivals' rows from elsewhere")
    parser.add_argument("--step", type=Path, default=HERE / "step.csv", help="of step_kernels.py")
    parser.add_argument("--attention", type=Path, default=HERE / "attention.csv", help="of attention_kernels.py")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the rows too")
    args = parser.parse_args()
    if args.plot is not None:
        save(throughput_plot(read_rows(args.csv)), args.plot)
    lines = list(Rows(read_rows(args.csv), read_rows(args.quoted)).lines())
    for path, read in ((args.step, step_lines), (args.attention, attention_lines)):
        if path.exists():
            lines += read(path)
    console = Console(width=120, highlight=False)
    console.print(table(lines))
    console.print(PUBLISHED)


if __name__ == "__main__":
    main()
