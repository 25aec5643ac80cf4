"""math-verify as a second grader, in processes of its own: to be compared with, and to audit what we say.

It reads model text through sympy's evaluating parser, so it never runs in our process. It is used as its authors
recommend: ``verify(parse(gold), parse(text))`` in the main thread of a process, with its own deadlines (5 s for each
step, by alarm). What outlives those is killed here and left undecided. The gold is parsed once for all its answers.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import re
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from harness.grading.cases import Kind
from harness.records import InputError

PACKAGE = "math-verify"
HANG_S = 30.0
"""After this a process is killed; its own alarms cannot interrupt what runs in C."""
START_TIMEOUT_S = 120.0
BATCH_PAIRS = 8
"""Pairs sent at once, so that no time is lost between processes."""
WARM_UP = (
    *(("\\frac{1}{2}", "0.5"), ("2\\sqrt{3}", "\\sqrt{12}"), ("(x+1)^2", "x^2+2x+1"), ("(1,2]", "[1,2)")),
    *(("\\{1,2\\}", "\\{2,1\\}"), ("x=5", "5"), ("3\\pi", "\\frac{6\\pi}{2}"), ("1+2i", "2i+1"), ("50\\%", "0.5")),
    *(("x<3", "(-\\infty,3)"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}")),
    *(("\\log_2 8", "3"), ("\\sin 30^\\circ", "\\frac12"), ("(-\\infty,2)\\cup(3,4)", "(3,4)"), ("y=2x+3", "2x+3")),
    *(("\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}"), ("\\tan x", "\\cos 10^\\circ+\\sin 20^\\circ"), ("7", "\\sqrt[3]{x-1}")),
    *(("2", "\\frac{a}{\\sqrt{1-b^2}}"), ("x^2+y^2=1", "(1+\\frac{r}{2})^n=3")),
    *(("\\cot x", "\\sec x\\csc x"), ("\\frac{1}{7}", "\\sin(3\\arccos\\frac{1}{3}-\\pi)\\approx 0.14")),
    *(("\\sqrt{6}", "\\sqrt{2+\\sqrt{3}}+\\sqrt{2-\\sqrt{3}}"), ("1", "\\cos 10^\\circ+\\cos t^\\circ<2")),
    *(("\\text{(A)}", "(5(x-2)^3=z)"), ("\\{1\\pm\\sqrt{2}\\}", "\\{a_1b_2,a_2+b_1\\}"), ("e^{2}", "\\ln 5\\cdot k!")),
)
"""What every process reads before it counts as warm: each kind of answer once."""

_DELIMITED = re.compile(r"(?<!\\)(?:\$|\\[(\[]|\\boxed)")

Pair = tuple[str, str, Kind]
"""Gold, text, and whether the text is an answer alone or a whole response."""


def require() -> str:
    """The installed version; InputError naming the extra where it is missing."""
    if importlib.util.find_spec("math_verify") is None:
        raise InputError(f"{PACKAGE} is not installed; pip install 'reasoning-harness[{PACKAGE}]'")
    return importlib.metadata.version(PACKAGE)


class _Process:
    """One process and the batch it works on (indices into the pairs, and the time by which it must answer)."""

    def __init__(self, context: Any) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.batch: list[int] = []
        self.deadline = 0.0

    def wait_until_warm(self) -> None:
        try:
            if self.connection.poll(START_TIMEOUT_S):
                self.connection.recv()
                return
            problem = f"gave no answer within {START_TIMEOUT_S:.0f} s"
        except EOFError:
            problem = "ended while it was starting"
        raise InputError(f"{PACKAGE}: its process {problem}; try `python -c 'import math_verify'`")

    def send(self, batch: list[int], pairs: Sequence[Pair]) -> None:
        self.batch, self.deadline = batch, time.monotonic() + HANG_S * len(batch)
        self.connection.send([pairs[i] for i in batch])

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


class Peer:
    """``workers`` warm processes. Use it as a context manager."""

    def __init__(self, workers: int) -> None:
        require()
        self._context = multiprocessing.get_context("spawn")
        self._count = workers
        self._processes: list[_Process] = []

    def __enter__(self) -> Self:
        self._processes = [_Process(self._context) for _ in range(self._count)]
        for process in self._processes:
            process.wait_until_warm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
        self._processes.clear()

    def verdicts(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Whether each text states its gold; None where a process hung, died or raised."""
        found: list[bool | None] = [None] * len(pairs)
        todo = [list(range(i, min(i + BATCH_PAIRS, len(pairs)))) for i in range(0, len(pairs), BATCH_PAIRS)][::-1]
        idle = list(self._processes)
        busy: dict[Any, _Process] = {}
        while todo or busy:
            while todo and idle:
                process = idle.pop()
                process.send(todo.pop(), pairs)
                busy[process.connection] = process
            first = min(process.deadline for process in busy.values())
            for connection in multiprocessing.connection.wait(list(busy), max(0.0, first - time.monotonic())):
                process = busy.pop(connection)
                try:
                    for i, verdict in zip(process.batch, process.connection.recv(), strict=True):
                        found[i] = verdict
                    idle.append(process)
                except (EOFError, OSError):
                    idle.append(self._replaced(process, todo))
            for process in [p for p in busy.values() if p.deadline <= time.monotonic()]:
                del busy[process.connection]
                idle.append(self._replaced(process, todo))
        return found

    def _replaced(self, process: _Process, todo: list[list[int]]) -> _Process:
        """A fresh process; what was in a batch with the pair that broke it is asked again, one by one."""
        process.kill()
        if len(process.batch) > 1:
            todo += [[i] for i in process.batch]
        fresh = _Process(self._context)
        self._processes[self._processes.index(process)] = fresh
        fresh.wait_until_warm()
        return fresh


def _serve(connection: Any) -> None:
    logging.disable(logging.CRITICAL)  # a line for each answer it cannot read
    for gold, answer in WARM_UP:
        _verdict(gold, answer, "answer")
    connection.send("ready")
    while True:
        try:
            pairs = connection.recv()
        except EOFError:
            return
        connection.send([_verdict(*pair) for pair in pairs])


def _verdict(gold: str, text: str, kind: Kind) -> bool | None:
    from math_verify import parse, verify

    try:
        return bool(verify(_parsed_gold(gold), parse(text if kind == "response" else _as_math(text))))
    except Exception:  # whatever its parser raises: the pair is undecided, and the audit says so
        return None


@functools.lru_cache(maxsize=1024)
def _parsed_gold(gold: str) -> Any:
    from math_verify import parse

    return parse(_as_math(gold))


def _as_math(text: str) -> str:
    """It reads LaTeX between dollar signs alone; what has its own signs stays."""
    return text if _DELIMITED.search(text) else f"${text}$"
