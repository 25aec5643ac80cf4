"""``harness bench`` killed with SIGKILL again and again, at any moment, ends with the run that it would have been.

Real processes, real models, float64. A ``sitecustomize`` notes, behind every fsync of a child, how many bytes of
which file are then on the disk: a log longer than that when its process is dead was killed between a write and
its sync, and what the machine's own crash could have taken away is then cut off it at a random byte.

To import torch takes seconds: every fifth attempt, the last and the uninterrupted run start from nothing, as
``python -m harness.cli bench``; the others are forked from a process that has imported and done no more.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.models.resolve import EMBEDDED
from harness.runs.folder import RunFolder
from harness.runs.log import LogContent, read_log

KILLS, BETWEEN_WRITE_AND_SYNC = 20, 3
EMBEDDED_MODELS = [n for n in ("tiny-mamba",) if (EMBEDDED / n / "model.safetensors").is_file()]
MODELS = ["random:tiny-teacher", *EMBEDDED_MODELS]
START_S = 60.0
BUDGET = """
seconds: 60
clock: task
drain: true
limit: 3
samples_per_problem: 3
max_new_tokens: 48
stop_after_boxed: true
temperature: 0.8
top_p: 1.0
top_k: 0
seed: 20250227
batch: 4
"""
NOTE_SYNCS = """
import os
real = os.fsync
def fsync(fd):
    facts = os.fstat(fd)
    real(fd)
    with open(os.environ["SYNC_NOTES"], "a") as notes:
        notes.write(f"{facts.st_ino} {facts.st_size}\\n")
os.fsync = fsync
"""


# Takes {argv, cwd, env, output} a line, forks a process that calls ``main``, answers its pid, then its exit code.
NURSERY = """
import json, os, sys
import harness.bench.job, harness.bench.sampling, harness.cli, torch._dynamo
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        file = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.chdir(order["cwd"])
        os.environ.update(order["env"])
        sys.argv = ["harness", *order["argv"]]
        harness.cli.main()
        sys.stdout.flush()
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forked:
    """A process of the nursery, with what is used here of ``Popen``."""

    def __init__(self, nursery: subprocess.Popen, order: dict):
        self.nursery, self.returncode = nursery, None
        nursery.stdin.write(json.dumps(order) + "\n")
        nursery.stdin.flush()
        self.pid = int(nursery.stdout.readline())

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.nursery.stdout], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self.nursery.stdout.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@dataclasses.dataclass
class Bench:
    """One run folder and the processes that fill it."""

    folder: Path
    clock: str

    def __post_init__(self):
        self.folder.mkdir(parents=True)
        (self.folder / "budget.yaml").write_text(BUDGET)
        (self.folder / "site").mkdir()
        (self.folder / "site" / "sitecustomize.py").write_text(NOTE_SYNCS)
        self.notes, self.run = self.folder / "syncs.txt", RunFolder(self.folder / "run")
        self.log = self.run.log_path
        self.attempts, self.nursery = 0, None

    def start(self, afresh: bool = True) -> subprocess.Popen | Forked:
        self.notes.write_text("")
        self.attempts += 1
        self.output = self.folder / f"output-{self.attempts}.txt"
        paths = [str(self.folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "HARNESS_COMMIT": "the same all along",
            "OMP_NUM_THREADS": "1",
            "SYNC_NOTES": str(self.notes),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        options = [f"--model={m}" for m in MODELS]
        options += ["--budget=budget.yaml", f"--run={self.run.path}", "--dtype=float64", "--device=cpu"]
        argv = ["bench", *options, f"--clock={self.clock}", "--resume"]
        if not afresh:
            if self.nursery is None:
                self.nursery = self._nursery(environment)
            order = {"argv": argv, "cwd": str(self.folder), "env": environment, "output": str(self.output)}
            return Forked(self.nursery, order)
        with self.output.open("w") as output:
            command = [sys.executable, "-m", "harness.cli", *argv]
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def _nursery(self, environment: dict[str, str]) -> subprocess.Popen:
        pipe, command = subprocess.PIPE, [sys.executable, "-c", NURSERY]
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdin=pipe, stdout=pipe, text=True)

    def close(self) -> None:
        if self.nursery is not None:
            self.nursery.stdin.close()
            self.nursery.wait(timeout=START_S)
            self.nursery.stdout.close()

    def finish(self) -> None:
        assert self.start().wait(timeout=START_S) == 0, self.output.read_text()

    def size(self) -> int:
        return self.log.stat().st_size if self.log.is_file() else 0

    def synced(self) -> int:
        """Bytes of the log that are known to be on the disk, by the notes of the process that is dead."""
        inode = self.log.stat().st_ino
        notes = [line.split() for line in self.notes.read_text().splitlines() if line.count(" ") == 1]
        return max((int(size) for ino, size in notes if int(ino) == inode), default=0)


def kill_while_sampling(bench: Bench, growths: int, delay_s: float, afresh: bool) -> None:
    """SIGKILL ``delay_s`` behind the log's ``growths``-th growth."""
    process = bench.start(afresh)
    try:
        seen, give_up = bench.size(), time.monotonic() + START_S
        while growths:
            time.sleep(0.0005)
            assert process.poll() is None, f"ended by itself: {bench.output.read_text()}"
            assert time.monotonic() < give_up
            now = bench.size()
            growths, seen = growths - (now > seen), now
        time.sleep(delay_s)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


def whole(path: Path) -> LogContent:
    """A log that parses to its last line and holds nothing twice."""
    content = read_log(path)
    keys = [t.key for t in content.trajectories]
    assert len(set(keys)) == len(keys)
    for progress in content.rounds.values():
        assert [look.look for look in progress.looks] == list(range(len(progress.looks)))
        submitted = [(p, s) for look in progress.looks for p, s, _ in look.submitted]
        assert len(set(submitted)) == len(submitted) and progress.finished <= set(submitted)
        clocks = [look.clock_s for look in progress.looks]
        assert clocks == sorted(clocks)
    return content


def killed_twenty_times(bench: Bench, seed: int) -> int:
    """Kill, look at what is left, resume; then finish. Returns how many kills fell between a write and its sync."""
    draw, unsynced = random.Random(seed), 0
    committed, kept = {}, 0
    for kill in range(KILLS):
        # Half of them at once behind a growth, the others at any moment of a window.
        kill_while_sampling(bench, draw.choice([1, 1, 2]), draw.choice([0.0, draw.random() * 0.12]), kill % 5 == 0)
        if (synced := bench.synced()) < bench.size():
            unsynced += 1
            if draw.random() < 0.3:
                os.truncate(bench.log, draw.randint(max(synced, kept), bench.size()))
        content = whole(bench.log)
        now = {t.key: t for t in content.trajectories}
        for key, trajectory in committed.items():
            assert now.get(key) == trajectory, f"lost or changed: {key}"
        committed, kept = now, content.committed_bytes
    bench.finish()
    final = {t.key: t for t in whole(bench.log).trajectories}
    assert all(final[key] == t for key, t in committed.items())
    return unsynced


def compared(content: LogContent, times: bool) -> list[dict]:
    rows = []
    for t in sorted(content.trajectories, key=lambda t: t.key):
        row = dataclasses.asdict(t)
        row.pop("logprob")
        for name in () if times else ("t_submit", "t_first_token", "t_finish"):
            row.pop(name)
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    """Both clocks at once, as there are two cores: {clock: (uninterrupted, killed, kills between write and sync)}."""
    root = tmp_path_factory.mktemp("kill")

    def both(clock):
        plain, killed = Bench(root / clock / "plain", clock), Bench(root / clock / "killed", clock)
        try:
            unsynced = killed_twenty_times(killed, {"real": 1, "fake": 2}[clock])
        finally:
            killed.close()
        plain.finish()
        return plain, killed, unsynced

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(("real", "fake"), pool.map(both, ("real", "fake")), strict=True))


@pytest.mark.parametrize("clock", ["real", "fake"])
def test_killed_twenty_times_it_is_the_run_it_would_have_been(benches, clock):
    plain, killed, unsynced = benches[clock]
    assert unsynced >= BETWEEN_WRITE_AND_SYNC
    one, other = whole(plain.log), whole(killed.log)
    assert len(one.trajectories) == len(MODELS) * 9
    assert compared(one, times=clock == "fake") == compared(other, times=clock == "fake")
    for a, b in zip(*(sorted(c.trajectories, key=lambda t: t.key) for c in (one, other)), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-9)
    assert all(p.looks[-1].ended for p in other.rounds.values()) and one.rounds.keys() == other.rounds.keys()
    if clock == "fake":
        assert one.rounds == other.rounds
        assert [t.key for t in one.trajectories] == [t.key for t in other.trajectories]


@pytest.mark.parametrize("clock", ["real", "fake"])
def test_the_manifest_counts_the_resumes_and_is_the_same_besides(benches, clock):
    plain, killed, _ = (b.run.read_manifest() if isinstance(b, Bench) else b for b in benches[clock])
    assert len(killed.pop("resumes")) == KILLS and plain.pop("resumes") == []
    for manifest in (plain, killed):
        for passing in ("created", "off_clock", "command"):
            assert manifest.pop(passing)
    assert plain == killed


def test_the_final_log_parses_line_by_line(benches):
    for _, killed, _ in benches.values():
        lines = killed.log.read_text(encoding="utf-8").split("\n")
        assert lines[-1] == "" and all(isinstance(json.loads(line), dict) for line in lines[:-1])
        assert (killed.run.path / "curves.csv").is_file()
