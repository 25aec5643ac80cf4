"""The worker is closed off, dies at its deadline and with its parent, and refuses to grade when unfit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from harness.grading.policy import Policy
from harness.grading.pool import GraderUnavailable, Worker

SLOW = "(a+b+c+d+e+f+g)^{90}"  # within every limit, and billions of terms
LOCKED = "from harness.grading.worker import lock_down; import os, socket, subprocess; lock_down(); "


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(Policy(), timeout_s=5.0)
    yield worker
    worker.close()


def test_compares(worker: Worker) -> None:
    assert worker.compare("(x+1)^2", "x^2+2x+1").status == "correct"
    assert worker.compare("(x+1)^2", "x^2+2x").status == "incorrect"


def test_any_text_is_one_message(worker: Worker) -> None:
    for text in ("1\n2", '"}\n{"ready": true}', "\u2028 \ud800".encode("utf-8", "replace").decode(), "\x00", "{" * 100):
        assert worker.compare("1", text).status in ("incorrect", "parse_error", "limit")
    assert worker.compare("1", "1").status == "correct"


def test_slow_answer_is_a_timeout_and_the_pool_lives_on() -> None:
    worker = Worker(Policy(), timeout_s=0.5)
    try:
        first, start = worker.pid, time.monotonic()
        outcome = worker.compare("1", SLOW)
        assert (outcome.status, outcome.class_id) == ("timeout", None)
        assert time.monotonic() - start < 2.0
        assert worker.compare("1", "1").status == "correct"
        assert worker.pid != first
    finally:
        worker.close()


def test_a_killed_worker_is_an_error_once() -> None:
    worker = Worker(Policy(), timeout_s=5.0)
    try:
        subprocess.run([sys.executable, "-c", f"import os; os.kill({worker.pid}, {int(signal.SIGKILL)})"], check=True)
        statuses = [worker.compare("1", "1").status for _ in range(2)]
        assert statuses[-1] == "correct" and statuses[0] in ("error", "correct")
    finally:
        worker.close()


def test_worker_ends_with_its_input() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.grading.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    _, _ = process.communicate(b"", timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    "action",
    [
        "open('/tmp/harness_forbidden', 'w')",
        "os.open('/tmp/harness_forbidden', os.O_CREAT | os.O_WRONLY)",
        "socket.socket()",
        "subprocess.run(['true'])",
        "os.system('true')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.remove('/tmp/harness_forbidden')",
        "os.kill(os.getppid(), 0)",
    ],
)
def test_locked_process_can_do_nothing(action: str) -> None:
    code = LOCKED + (
        f"\ntry:\n    {action}\nexcept Exception as error:\n    assert type(error).__name__ == 'Forbidden', error\n"
        "else:\n    raise SystemExit('allowed')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not os.path.exists("/tmp/harness_forbidden")


def test_memory_is_capped() -> None:
    code = (
        "import resource; from harness.grading.worker import MEMORY_LIMIT_BYTES as n;"
        "resource.setrlimit(resource.RLIMIT_AS, (n, n));"
        "from harness.grading.compare import self_test; assert self_test() is None;"
        "\ntry:\n    bytearray(n)\nexcept MemoryError:\n    pass\nelse:\n    raise SystemExit('allowed')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unfit_parser_refuses_to_grade(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = os.path.join(str(tmp_path), "latex2sympy2_extended")
    os.makedirs(broken)
    with open(os.path.join(broken, "__init__.py"), "w") as file:
        file.write("raise ImportError('Unsupported ANTLR version')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(GraderUnavailable, match="Unsupported ANTLR version"):
        Worker(Policy(), timeout_s=5.0)
