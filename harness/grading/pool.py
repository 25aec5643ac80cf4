"""A worker process held by its parent: started once, asked one comparison at a time, killed at the deadline.

A comparison past its deadline is ``timeout``, one that needs more memory than a worker may have is ``limit``, and one
that a worker dies of is ``error``; each replaces the process, for the next question. Workers are started
from the interpreter's command line, never forked: a script needs no ``__main__`` guard, and they hold nothing of the
parent. Nothing here uses signals in the parent or threads that outlive a call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import selectors
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import harness
from harness.grading.policy import Policy
from harness.grading.quick import Outcome
from harness.records import InputError

START_TIMEOUT_S = 120.0
"""For a cold disk on a busy machine; a warm start takes about a second."""
CPU_CLOCK_S = 1 / os.sysconf("SC_CLK_TCK")
WALL_TO_CPU = 5
"""On a busy machine a comparison may take so many times its deadline, as long as its CPU time is within it."""
# The worker runs the parent's own copy of this package, wherever that one got it from.
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop()); import harness; sys.path.append(sys.path.pop(0)); "
    "from harness.grading.worker import main; sys.exit(main())"
)
# -P: the current folder must not shadow an import; -B: the worker may write no files
_OPTIONS = ("-P", "-B", "-c", _START)
# Verdicts and classes must not depend on the hash seed, on which big-number package is there, or on sympy's switches.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "SYMPY_GROUND_TYPES": "python", "MPMATH_NOGMPY": "1"}
_PEAK = re.compile(rb"VmHWM:\s*(\d+) kB")


class GraderUnavailable(InputError):
    """The worker's self-test failed or it did not start: nothing may be graded."""


class Worker:
    """One process, started at once and asked one comparison at a time. Not thread-safe.

    ``compare`` waits for its outcome; ``ask`` and ``reply`` are its two halves, for a caller that has other things to
    do. The process ends with its parent, however that ends. ``timeout_s`` is what a comparison may cost: CPU time, so
    that a busy machine changes no verdict. Raises GraderUnavailable where the process is not fit to grade.
    """

    def __init__(self, policy: Policy, timeout_s: float) -> None:
        self._policy = dataclasses.asdict(policy)
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: weakref.finalize[Any, Any] | None = None
        self._is_ready = False
        self._buffer = b""
        self._question: bytes | None = None
        self._is_second_try = False
        self._left_s = timeout_s
        self._deadline = self._last_deadline = 0.0
        self._cpu_before_s = 0.0
        self._peak_bytes = 0
        self._start()

    def compare(self, gold: str, answer: str) -> Outcome:
        """The worker's outcome, or ``timeout``, ``limit`` or ``error``; never raises for what an answer does."""
        self.ask(gold, answer)
        outcome = self.reply(None)
        assert outcome is not None
        return outcome

    def ask(self, gold: str, answer: str) -> None:
        """Send a question, or hold it until the process has started; there may be one at a time."""
        assert self._question is None, "the last question has no reply yet"
        request = {"gold": gold, "answer": answer, "policy": self._policy, "cpu_s": self._timeout_s}
        self._question = json.dumps(request).encode() + b"\n"
        self._left_s, self._is_second_try = self._timeout_s, False
        self._put_question()

    def reply(self, wait_s: float | None = 0.0) -> Outcome | None:
        """The outcome of what was asked, or None where ``wait_s`` seconds (None: any time) were not enough.

        Where a process runs out of memory or dies, a fresh one is asked once more, within the same deadline: no
        verdict depends on what else was graded. Starting a process is not on that clock.
        """
        give_up = None if wait_s is None else time.monotonic() + wait_s
        while self._question is not None:
            try:
                if not self._greeted(give_up):
                    return None
                line = self._read_line(self._deadline if give_up is None else min(self._deadline, give_up))
            except TimeoutError:
                if time.monotonic() < self._deadline:
                    return None
                if self._was_kept_waiting():
                    continue
                return self._settled(Outcome("timeout", None), replace=True)
            reply: dict[str, Any] = json.loads(line) if line else {"status": "error"}
            if "class_id" in reply:
                return self._settled(Outcome(reply["status"], reply["class_id"]), replace=reply["retire"])
            if self._is_second_try:
                return self._settled(Outcome(reply["status"], None), replace=True)
            self._is_second_try = True
            self._left_s = max(0.0, self._deadline - time.monotonic())
            self._stop()
            self._put_question()
        raise RuntimeError("Worker.reply needs Worker.ask before it")

    def ready(self) -> None:
        """Wait until the process has started; raises GraderUnavailable where it refuses to grade."""
        self._ensure_running()
        self._greeted(None)

    def close(self) -> None:
        """Kill the process, if there is one; a question without a reply is dropped."""
        self._question = None
        self._stop()

    def fileno(self) -> int:
        """Readable when ``reply`` has something to do; another number whenever the process was replaced."""
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def busy(self) -> bool:
        """Whether a question has no reply yet."""
        return self._question is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory any process of this worker was seen to hold (0 where the system does not tell)."""
        try:
            found = _PEAK.search(Path(f"/proc/{self.pid}/status").read_bytes())
        except OSError:
            found = None
        return max(self._peak_bytes, int(found[1]) * 1024 if found else 0)

    def _ensure_running(self) -> None:
        if self._process is None or (self._is_ready and self._process.poll() is not None):
            self._stop()
            self._start()

    def _start(self) -> None:
        command = [sys.executable, *_OPTIONS, str(Path(harness.__file__).parents[1])]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SYMPY_", "MPMATH_"))} | _ENVIRONMENT
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, bufsize=0, env=environment)
        except OSError as error:
            raise self._unavailable(f"{sys.executable!r} cannot be started: {error.strerror}") from error
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._ending = weakref.finalize(self, _end, self._process)
        self._buffer, self._is_ready = b"", False
        self._deadline = time.monotonic() + START_TIMEOUT_S

    def _stop(self) -> None:
        self._peak_bytes = self.peak_rss_bytes
        ending, self._process, self._ending = self._ending, None, None
        if ending is not None:
            ending()

    def _greeted(self, give_up: float | None) -> bool:
        """Whether the process has started by then and passed its self-test; sends it the question that waited."""
        if self._is_ready:
            return True
        try:
            line = self._read_line(self._deadline if give_up is None else min(self._deadline, give_up))
        except TimeoutError as error:
            if time.monotonic() < self._deadline:
                return False
            raise self._unavailable(f"no answer within {START_TIMEOUT_S:.0f} s") from error
        hello: dict[str, Any] = json.loads(line) if line else {"error": "it ended before its self-test"}
        if not hello.get("ready"):
            raise self._unavailable(hello["error"])
        self._is_ready = True
        if self._question is not None:
            self._put_question()
        return True

    def _unavailable(self, reason: str) -> GraderUnavailable:
        self.close()
        return GraderUnavailable(
            f"the grading worker refuses to grade: {reason}; install harness with its dependencies "
            f"(latex2sympy2_extended[antlr4_13_2]); `{sys.executable} -m harness.grading.worker` shows more"
        )

    def _put_question(self) -> None:
        """Write the question and start its clock, unless the process is still starting."""
        self._ensure_running()
        if not self._is_ready:
            return
        assert self._question is not None
        self._deadline = time.monotonic() + self._left_s
        self._last_deadline = time.monotonic() + WALL_TO_CPU * self._left_s
        self._cpu_before_s = self._cpu_s()
        with contextlib.suppress(OSError):  # a dead or stopped process: ``reply`` meets it and says what it means
            self._write(self._question, self._deadline)

    def _was_kept_waiting(self) -> bool:
        """Whether the process got less CPU time than the deadline allows; if so the deadline moves by the rest."""
        left_s = self._left_s - (self._cpu_s() - self._cpu_before_s)
        now = time.monotonic()
        if not left_s > CPU_CLOCK_S or now >= self._last_deadline:  # nan where the system does not tell
            return False
        self._deadline = min(now + left_s, self._last_deadline)
        return True

    def _cpu_s(self) -> float:
        """CPU time of the process so far, infinite where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return math.inf
        return (int(fields[11]) + int(fields[12])) * CPU_CLOCK_S

    def _settled(self, outcome: Outcome, *, replace: bool) -> Outcome:
        self._question = None
        if replace:
            self._stop()
        return outcome

    def _write(self, data: bytes, deadline: float) -> None:
        """All of ``data``; TimeoutError past the deadline, should the worker have stopped reading."""
        assert self._process is not None and self._process.stdin is not None
        view = memoryview(data)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdin, selectors.EVENT_WRITE)
            while view:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                view = view[self._process.stdin.write(view) or 0 :]

    def _read_line(self, deadline: float) -> bytes | None:
        """The next line, None at end of file; TimeoutError past the deadline (a time of ``time.monotonic``)."""
        assert self._process is not None and self._process.stdout is not None
        fd = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(fd, 65536)
                if not chunk:
                    return None
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
