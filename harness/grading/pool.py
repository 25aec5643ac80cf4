"""A worker process held by its parent: started once, asked one comparison at a time, killed at the deadline.

A comparison past its deadline is ``timeout``, a worker that dies is ``error``; both replace the process, so the
next question meets a fresh one. Nothing here uses signals in the parent or threads that outlive a call.
"""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
from typing import Any

from harness.grading.policy import Policy
from harness.grading.quick import Outcome
from harness.records import InputError

START_TIMEOUT_S = 120.0
"""For a cold disk on a busy machine; a warm start takes about a second."""


class GraderUnavailable(InputError):
    """The worker's self-test failed or it did not start: nothing may be graded."""


class Worker:
    """One process. Not thread-safe: one caller at a time."""

    def __init__(self, policy: Policy, timeout_s: float) -> None:
        self._policy = dataclasses.asdict(policy)
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._ensure_started()

    def compare(self, gold: str, answer: str) -> Outcome:
        """The worker's outcome, or ``timeout`` or ``error``; never raises for what an answer does."""
        self._ensure_started()
        request = {"gold": gold, "answer": answer, "policy": self._policy, "cpu_s": self._timeout_s}
        deadline = time.monotonic() + self._timeout_s
        try:
            self._write(json.dumps(request).encode() + b"\n")
            line = self._read_line(deadline)
        except TimeoutError:
            self.close()
            return Outcome("timeout", None)
        except OSError:
            line = None
        if line is None:
            self.close()
            return Outcome("error", None)
        reply = json.loads(line)
        return Outcome(reply["status"], reply["class_id"])

    def close(self) -> None:
        """Kill the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _ensure_started(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._buffer = b""
        # -P: the current folder must not shadow an import; -B: the worker may write no files
        command = [sys.executable, "-P", "-B", "-m", "harness.grading.worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        try:
            line = self._read_line(time.monotonic() + START_TIMEOUT_S)
            hello: dict[str, Any] = json.loads(line) if line else {"error": "it ended before its self-test"}
        except TimeoutError:
            hello = {"error": f"no answer within {START_TIMEOUT_S:.0f} s"}
        if not hello.get("ready"):
            self.close()
            raise GraderUnavailable(
                f"the grading worker refuses to grade: {hello.get('error')}; install harness with its dependencies "
                f"(latex2sympy2_extended[antlr4_13_2]) and run `{' '.join(command)}` to see why"
            )

    def _write(self, data: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]

    def _read_line(self, deadline: float) -> bytes | None:
        """The next line, None at end of file; TimeoutError past the deadline (a time of ``time.monotonic``)."""
        assert self._process is not None and self._process.stdout is not None
        fd = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                chunk = os.read(fd, 65536)
                if not chunk:
                    return None
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
