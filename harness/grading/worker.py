"""The isolated process that reads model text as mathematics: ``python -m harness.grading.worker``.

One JSON object a line, in and out: {"gold", "answer", "policy", "cpu_s"} -> {"status", "class_id", "retire"}, after a
first line {"ready": true} or {"ready": false, "error"}. An answer that runs out of memory is {"status": "limit"} alone,
the last line. It ends when its input does. Deadlines are the parent's: it kills this process, which never has to be
trusted to stop.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, BinaryIO

from harness.grading.isolation import RETIRE_BYTES, address_space_bytes, cap_cpu, cap_memory, lock_down


def main() -> int:
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not reach the pipe
    problem = _start()
    _send(out, {"ready": problem is None, "error": problem})
    if problem is not None:
        return 1
    lock_down()
    return _serve(sys.stdin.buffer, out)


def _start() -> str | None:
    """Import all that grading needs, under the memory limit, and try it; what is wrong, or None."""
    try:
        cap_memory()
        from harness.grading.prepare import prepare
        from harness.grading.selftest import self_test

        prepare()
        return self_test()
    except Exception as error:  # an unfit installation fails in ways of its own; the parent says it in one line
        return f"{type(error).__name__}: {error}"


def _serve(requests: BinaryIO, out: Any) -> int:
    from harness.grading.compare import compare
    from harness.grading.policy import Policy

    for line in requests:
        request = json.loads(line)
        cap_cpu(time.process_time() + request["cpu_s"])
        try:
            outcome = compare(request["gold"], request["answer"], Policy(**request["policy"]))
        except MemoryError:
            _send(out, {"status": "limit"})
            return 1
        retire = address_space_bytes() > RETIRE_BYTES
        _send(out, {"status": outcome.status, "class_id": outcome.class_id, "retire": retire})
    return 0


def _send(out: Any, message: dict[str, Any]) -> None:
    out.write(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
