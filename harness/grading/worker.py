"""The isolated process that reads model text as mathematics: ``python -m harness.grading.worker``.

One JSON object a line, in and out: {"gold", "answer", "policy", "cpu_s"} -> {"status", "class_id"}, after a first line
{"ready": true} or {"ready": false, "error"}. Once its imports are done the process cannot open a file for
writing, a socket or another process, and its memory and CPU time are capped. It ends when its
input does. Deadlines are the parent's: it kills this process, which never has to be trusted to stop.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any, BinaryIO

MEMORY_LIMIT_BYTES = 512 * 2**20
"""Address space of the process; sympy and the parser need about 100 MB of it."""
_FORBIDDEN_EVENTS = (
    "subprocess.Popen os.exec os.fork os.forkpty os.posix_spawn os.spawn os.system os.startfile pty.spawn os.remove "
    "os.rename os.rmdir os.mkdir os.link os.symlink os.truncate os.chmod os.chown os.kill shutil.rmtree"
)
_FORBIDDEN = frozenset(_FORBIDDEN_EVENTS.split())
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


class Forbidden(Exception):
    """The audit hook refused what the process tried to do."""


def main() -> int:
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not reach the pipe
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
        from harness.grading.compare import self_test

        problem = self_test()
    except (ImportError, MemoryError, OSError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    _send(out, {"ready": problem is None, "error": problem})
    if problem is not None:
        return 1
    lock_down()
    _serve(sys.stdin.buffer, out)
    return 0


def lock_down() -> None:
    """Close the process off; call it after the imports and the self-test, which loads what is imported late."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.set_int_max_str_digits(0)  # evaluate.py bounds the digits; Python's own bound would look like a parse error
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        _, mode, flags = args
        writes = isinstance(mode, str) and any(c in mode for c in "wax+")
        if writes or (isinstance(flags, int) and flags & _WRITE_FLAGS):
            raise Forbidden("opening a file for writing")
    elif event.startswith("socket.") or event in _FORBIDDEN:
        raise Forbidden(event)


def _serve(requests: BinaryIO, out: Any) -> None:
    from harness.grading.compare import compare
    from harness.grading.policy import Policy

    for line in requests:
        request = json.loads(line)
        _cap_cpu(request["cpu_s"])
        outcome = compare(request["gold"], request["answer"], Policy(**request["policy"]))
        _send(out, {"status": outcome.status, "class_id": outcome.class_id})


def _cap_cpu(cpu_s: float) -> None:
    """A second belt: should the parent die while this process computes, the kernel ends it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time() + cpu_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def _send(out: Any, message: dict[str, Any]) -> None:
    out.write(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
