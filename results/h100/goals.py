"""The goals that rows can answer: what was measured, the best rival, the figure, the goal, and whether it is met.

    python results/h100/goals.py                                       (throughput.csv and what else lies beside it)
    python results/h100/goals.py --plot throughput.png                 (and draw the rows)
    python results/h100/goals.py --csv rows.csv --step step.csv --gate gate.csv

A rival's figure is the better of what ran (the rival's rows) and what is quoted (quoted.csv, with its source), which
is marked; a goal met beside a quoted rival says so, since the goals want the rival in the same run. A goal that has no
row yet is a dash, which is no goal met. Reads files alone (those beside throughput.csv: goal_lines.py); no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from goal_lines import FILES, HALVES, Line, short_name
from rich import box
from rich.console import Console
from rich.table import Table

from harness.report.style import save
from harness.report.throughput import BLANK, Row, read_rows
from harness.report.throughput_plot import throughput_plot

HERE = Path(__file__).parent
LLAMA, LLAMBA, MAMBA2 = "random:llama-3.2-1b", "random:llamba-1b", "random:mamba2-1.3b"
TEACHER_3B, STUDENT_3B = "random:llama-3.2-3b", "random:mamba-in-llama-3b"
PUBLISHED = (
    "Published, M1's hybrid 3B over Llama-3.2-3B in vLLM 0.6.3, 4,096 tokens: 2.15x at batch 128, 3.01x at 512"
    " (arXiv 2504.10449)"
)


class Rows:
    """Throughput rows that ran and rows that are quoted."""

    def __init__(self, ran: Sequence[Row], quoted: Sequence[Row]) -> None:
        self.ran, self.quoted = ran, quoted

    def native(self, model: str, batch: int, new_tokens: int, states: Sequence[str] = HALVES) -> Row | None:
        found = [
            r for r in self.ran if (r.model, r.engine, r.batch, r.new_tokens) == (model, "native", batch, new_tokens)
        ]
        return max((r for r in found if r.state_dtype in states), key=lambda r: r.tokens_per_s, default=None)

    def rival(self, engine: str, model: str, batch: int, lengths: Sequence[int]) -> tuple[float, str] | None:
        """Tokens/s and what to say of them, the best of ``lengths``: one to whom length is nothing may be quoted so."""
        found = [
            (r.tokens_per_s, f"{r.tokens_per_s:,.0f}{quoted}{f', {r.new_tokens} new' if len(lengths) > 1 else ''}")
            for rows, quoted in ((self.ran, ""), (self.quoted, " quoted"))
            for r in rows
            if (r.model, r.engine, r.batch) == (model, engine, batch) and r.new_tokens in lengths
        ]
        return max(found, default=None)

    def share(self, model: str, batch: int, new_tokens: int, goal: float | None, exact: bool = False) -> Line:
        """``exact``: with fp32 states."""
        row = self.native(model, batch, new_tokens, ("float32",) if exact else HALVES)
        rate, share = (BLANK, None) if row is None else (f"{row.tokens_per_s:,.0f}", row.roofline_share)
        cell = f"{short_name(model)} {batch} x {new_tokens}{', fp32 states' if exact else ''}"
        return Line(f"{cell}, of its roofline", rate, BLANK, share, goal, "{:.1%}")

    def ratio(
        self, model: str, batch: int, new_tokens: int, engine: str, theirs: str, lengths: Sequence[int],
        goal: float | None,
    ) -> Line:  # fmt: skip
        row, rival = self.native(model, batch, new_tokens), self.rival(engine, theirs, batch, lengths)
        other = "" if theirs == model else f"'s {short_name(theirs)}"
        return Line(
            f"{short_name(model)} {batch} x {new_tokens} over {engine}{other}",
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
        yield self.share(LLAMBA, 256, 1024, None, exact=True)
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
                    what = f"{short_name(student)} {batch} x {new} over native {short_name(teacher)}"
                    yield Line(what, *rates, mine.tokens_per_s / row.tokens_per_s, None, "{:.2f}x")

    def most(self, what: str, field: str, batch: int, goal: float, models: Sequence[str]) -> Line:
        """The largest of a share over the cells of ``batch``, and whose it is."""
        rows = [r for r in self.ran if r.engine == "native" and r.batch == batch and r.model in models]
        worst = max((r for r in rows if getattr(r, field) is not None), key=lambda r: getattr(r, field), default=None)
        if worst is None:
            return Line(what, BLANK, BLANK, None, goal, "{:.1%}", at_most=True)
        whose = f"{short_name(worst.model)} x {worst.new_tokens}"
        return Line(what, whose, BLANK, getattr(worst, field), goal, "{:.1%}", at_most=True)


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
    for name, (made_by, _) in FILES.items():
        path = HERE / f"{name}.csv"
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, default=path, metavar="CSV", help=f"of {made_by}")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the rows too")
    args = parser.parse_args()
    rows = read_rows(args.csv)
    if args.plot is not None:
        save(throughput_plot(rows), args.plot)
    lines = list(Rows(rows, read_rows(args.quoted)).lines())
    for name, (_, read) in FILES.items():
        lines += read(getattr(args, name))
    console = Console(width=120, highlight=False)
    console.print(table(lines))
    console.print(PUBLISHED)


if __name__ == "__main__":
    main()
