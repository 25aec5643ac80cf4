"""The worker answers, dies at its deadline and with its parent, is replaced, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.grading.isolation import RETIRE_BYTES
from harness.grading.policy import Policy
from harness.grading.pool import Worker

# Imported by the worker before all else: some answers now do what a hostile answer would like to do.
FAULTS = f"""
import os
import harness.grading.compare as module
compare, kept = module.compare, []
def faulty(gold, answer, policy):
    if answer == 'loop':
        while True: pass
    if answer == 'die':
        os._exit(9)
    if answer == 'raise':
        raise RuntimeError('a mistake in the grader')
    if answer == 'forbidden':
        eval('1')
    if answer == 'die if used':
        if kept: os._exit(9)
    if answer == 'memory':
        kept.append(bytearray(2**29))
    if answer == 'memory if used' and kept:
        raise MemoryError
    if answer == 'grow':
        kept.append(bytearray({RETIRE_BYTES}))
    if answer == '7':
        kept.append(1)
    return compare(gold, '7' if answer in ('die if used', 'memory if used', 'grow') else answer, policy)
module.compare = faulty
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(Policy(), timeout_s=5.0)
    yield worker
    worker.close()


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker(Policy(), timeout_s=1.0)
    yield worker
    worker.close()


def test_compares(worker: Worker) -> None:
    assert worker.compare("(x+1)^2", "x^2+2x+1").status == "correct"
    assert worker.compare("(x+1)^2", "x^2+2x").status == "incorrect"
    assert 0 < worker.peak_rss_bytes < 512 * 2**20


def test_any_text_is_one_message(worker: Worker) -> None:
    texts = (
        "1\n2",
        '"}\n{"ready": true}',
        "\u2028 \ud800",
        "\x00",
        "{" * 100,
        '{"status": "correct", "class_id": "1"}',
    )
    for text in (*texts, "\U0001f9ee" * 5_000, "9" * 1_000_000):
        assert worker.compare("1", text).status in ("incorrect", "parse_error", "limit")
    assert worker.compare("1", "1").status == "correct"


def test_question_and_reply_apart(worker: Worker) -> None:
    worker.ask("(x+1)^2", "x^2+2x+1")
    assert worker.busy
    while (outcome := worker.reply(0.01)) is None:
        assert worker.busy and worker.fileno() > 2
    assert outcome.status == "correct" and not worker.busy
    with pytest.raises(RuntimeError, match="ask"):
        worker.reply()


def test_a_question_may_be_put_before_the_process_has_started() -> None:
    worker = Worker(Policy(), timeout_s=0.5)
    worker.ask("1", "1.0")
    assert worker.reply() is None, "a fresh process needs more than no time"
    outcome = worker.reply(None)  # starting takes longer than the deadline of an answer, and is not on its clock
    assert outcome is not None and outcome.status == "correct"
    worker.close()


def test_past_the_deadline_is_a_timeout_and_the_next_question_meets_a_fresh_process(faulty: Worker) -> None:
    faulty.ready()
    first = faulty.pid
    outcome = faulty.compare("7", "loop")
    assert (outcome.status, outcome.class_id) == ("timeout", None)
    assert first is not None and not _exists(first)
    assert faulty.compare("7", "7").status == "correct"
    assert faulty.pid != first


def test_a_deadline_is_cpu_time_on_a_busy_machine(faulty: Worker) -> None:
    """A process that is kept waiting past the deadline, here by a stop signal, still answers what costs little."""
    faulty.ready()
    assert faulty.pid is not None
    os.kill(faulty.pid, signal.SIGSTOP)
    faulty.ask("7", "7")
    assert faulty.reply(1.5) is None, "the deadline of 1 s has passed"
    os.kill(faulty.pid, signal.SIGCONT)
    outcome = faulty.reply(None)
    assert outcome is not None and outcome.status == "correct"


def test_a_stopped_process_is_a_timeout_too(faulty: Worker) -> None:
    faulty.ready()
    assert faulty.pid is not None
    os.kill(faulty.pid, signal.SIGSTOP)
    assert faulty.compare("7", "\U0001f9ee" * 20_000).status == "timeout"  # more than the pipe holds
    assert faulty.compare("7", "7").status == "correct"


@pytest.mark.parametrize(
    ("answer", "status"), [("die", "error"), ("raise", "error"), ("forbidden", "error"), ("memory", "limit")]
)
def test_what_a_process_dies_of_is_never_incorrect(faulty: Worker, answer: str, status: str) -> None:
    for _ in range(2):  # in a fresh process, and in one that is asked again
        outcome = faulty.compare("7", answer)
        assert (outcome.status, outcome.class_id) == (status, None)
        assert faulty.compare("7", "7").status == "correct"


@pytest.mark.parametrize("answer", ["die if used", "memory if used"])
def test_what_was_asked_before_decides_nothing(faulty: Worker, answer: str) -> None:
    assert faulty.compare("7", "7").status == "correct"
    used = faulty.pid
    assert faulty.compare("7", answer).status == "correct"
    assert faulty.pid != used


def test_a_process_grown_large_is_replaced(faulty: Worker) -> None:
    assert faulty.compare("7", "grow").status == "correct"
    assert faulty.pid is None
    assert faulty.peak_rss_bytes >= RETIRE_BYTES
    assert faulty.compare("7", "7").status == "correct"


def test_killed_between_questions(faulty: Worker) -> None:
    faulty.ready()
    assert faulty.pid is not None
    os.kill(faulty.pid, signal.SIGKILL)
    assert faulty.compare("7", "7").status == "correct"


def test_closed_and_asked_again(faulty: Worker) -> None:
    faulty.ask("7", "loop")
    pid = faulty.pid
    faulty.close()
    assert pid is not None and not _exists(pid) and not faulty.busy
    assert faulty.compare("7", "7").status == "correct"


def test_ends_with_its_input() -> None:
    command = [sys.executable, "-m", "harness.grading.worker"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=120, check=True)
    assert b'"ready": true' in done.stdout


# Scripts as a user writes them: at the top level, without a __main__ guard.
SCRIPT = """
import os, signal, sys, time
from harness.grading.policy import Policy
from harness.grading.pool import Worker
workers = [Worker(Policy(), timeout_s=1.0) for _ in range(2)]
for worker in workers:
    worker.ready()
    assert worker.compare('(x+1)^2', 'x^2+2x+1').status == 'correct'
print(*(worker.pid for worker in workers), flush=True)
"""
ENDINGS = {
    "returns": "",
    "returns while one computes": "workers[0].ask('7', 'loop')",
    "raises": "raise SystemExit('on purpose')",
    "exits at once": "os._exit(1)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "is killed while one computes": "workers[0].ask('7', 'loop'); os.kill(os.getpid(), signal.SIGKILL)",
    "is terminated": "os.kill(os.getpid(), signal.SIGTERM)",
    "forks and is killed": "if os.fork(): os.kill(os.getpid(), signal.SIGKILL)\nos._exit(0)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_process_outlives_a_script(ending: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + ENDINGS[ending])
    done = subprocess.run(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    _wait_for_the_end_of(pids)


def test_ctrl_c_is_answered_by_the_parent_alone(tmp_path: Path) -> None:
    """The terminal sends SIGINT to the whole group: the parent ends its workers, no answer becomes an error before."""
    script = tmp_path / "script.py"
    script.write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore it
        + SCRIPT
        + "try:\n    print('waiting', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n"
        + "    print(*(worker.compare('(x+1)^2', 'x^2+2x+1').status for worker in workers),"
        + " *(worker.pid for worker in workers), flush=True)\n    raise\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    )
    assert parent.stdout is not None
    pids = parent.stdout.readline().split()
    assert parent.stdout.readline() == b"waiting\n"
    os.killpg(parent.pid, signal.SIGINT)
    rest, errors = parent.communicate(timeout=60)
    assert rest.split() == [b"correct", b"correct", *pids]
    assert parent.returncode == -signal.SIGINT and errors.count(b"Traceback") == 1
    _wait_for_the_end_of([int(pid) for pid in pids])


def _wait_for_the_end_of(pids: list[int]) -> None:
    """At the latest when the CPU time of one answer is spent; the test fails after a minute."""
    give_up = time.monotonic() + 60
    while any(map(_exists, pids)):
        assert time.monotonic() < give_up, "a worker outlived its parent"
        time.sleep(0.05)


def _exists(pid: int) -> bool:
    """Whether ``pid`` runs; an ended process that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
