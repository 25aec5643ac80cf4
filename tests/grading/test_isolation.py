"""A locked process writes, connects and starts nothing and compiles no text, whatever runs in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

READY = """
import ctypes, json, mmap, os, resource, shutil, signal, socket, sqlite3, subprocess, sympy, sys, tempfile
from harness.grading.prepare import prepare
from harness.grading.selftest import self_test
from harness.grading.isolation import Forbidden, cap_cpu, lock_down
prepare()
assert self_test() is None
"""
LOCKED = READY + "lock_down()\n"
# To get ready takes a second: every attempt is a fork of one ready process, locked after it.
NURSERY = f"""
{READY}
for attempt in json.load(sys.stdin):
    if (pid := os.fork()) == 0:
        exec(attempt)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
REFUSED = 77  # nothing that an action starts ends with it
ATTEMPT = """
lock_down()
try:
    {action}
except Forbidden:
    os._exit({refused})
"""
ACTIONS = [
    "open('CANARY', 'w')",
    "open('CANARY', 'a')",
    "open('CANARY', 'r+')",
    "os.open('CANARY', os.O_CREAT | os.O_WRONLY)",
    "os.mkdir('CANARY')",
    "os.symlink('/etc', 'CANARY')",
    "os.remove('CANARY')",
    "os.rename('CANARY', 'CANARY2')",
    "shutil.copy('/etc/hostname', 'CANARY')",
    "tempfile.mkstemp()",
    "sqlite3.connect('CANARY')",
    "socket.socket()",
    "socket.getaddrinfo('localhost', 80)",
    "subprocess.run(['true'])",
    "os.system('true')",
    "os.popen('true')",
    "os.fork()",
    "os.execv('/bin/true', ['true'])",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "os.kill(os.getppid(), 0)",
    "os.putenv('A', 'B')",
    "ctypes.CDLL(None)",
    "mmap.mmap(-1, 10)",
    "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "resource.prlimit(0, resource.RLIMIT_FSIZE, (-1, -1))",
    "eval('1+1')",
    "exec('x = 1')",
    "compile('1', '', 'eval')",
    "sympy.sympify('x+1')",
    "sympy.parse_expr('x+1')",
    "sympy.lambdify(sympy.Symbol('x'), sympy.Symbol('x'))",
    "sympy.S('1/2')",
    "type(run := lambda: 0)((lambda: 1).__code__, {})",
]


def run(code: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{READY}{before}\nlock_down()\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, Path, str]]:
    """{action: (exit status, the folder of its canary, what all of them said)}"""
    folders = [tmp_path_factory.mktemp("attempt") for _ in ACTIONS]
    sources = [
        ATTEMPT.format(action=action.replace("CANARY", str(folder / "canary")), refused=REFUSED)
        for action, folder in zip(ACTIONS, folders, strict=True)
    ]
    command = [sys.executable, "-c", NURSERY]
    done = subprocess.run(command, input=json.dumps(sources), capture_output=True, text=True, check=False)
    codes = map(int, done.stdout.split())
    return {a: (code, folder, done.stderr) for a, folder, code in zip(ACTIONS, folders, codes, strict=True)}


@pytest.mark.parametrize("action", ACTIONS)
def test_refused(action: str, attempts: dict[str, tuple[int, Path, str]]) -> None:
    code, folder, said = attempts[action]
    assert code == REFUSED, (code, said[-300:])
    assert list(folder.iterdir()) == []


def test_no_except_clause_swallows_a_refusal() -> None:
    done = run("try:\n    eval('1')\nexcept Exception:\n    raise SystemExit('swallowed')\n")
    assert done.returncode == 1 and "Forbidden" in done.stderr


def test_imports_and_grading_go_on(tmp_path: Path) -> None:
    """Also where packages were installed without bytecode, which an import would now like to write."""
    before = f"sys.dont_write_bytecode, sys.pycache_prefix = False, {str(tmp_path)!r}"
    code = (
        "import colorsys, sympy.holonomic; from harness.grading.compare import compare; from harness.grading.policy "
        "import Policy; assert compare('2', '1+1', Policy()).status == 'correct'; cap_cpu(100.0)"
    )
    done = run(code, before)
    assert done.returncode == 0, done.stderr[-300:]


def test_the_kernel_refuses_writes_too(tmp_path: Path) -> None:
    target = tmp_path / "file"
    code = f"file = open({str(target)!r}, 'w')" + LOCKED
    code += "\ntry:\n    file.write('x' * 100_000)\n    file.flush()\nexcept OSError:\n    os._exit(0)\nos._exit(1)"
    subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + code], check=True
    )
    assert target.read_bytes() == b""


CAPPED = f"""
from harness.grading.isolation import MEMORY_LIMIT_BYTES, cap_memory
cap_memory()
{LOCKED}
try:
    bytearray(MEMORY_LIMIT_BYTES - 2**20)
except MemoryError:
    pass
else:
    raise SystemExit('allowed')
"""


def test_memory_is_capped() -> None:
    subprocess.run([sys.executable, "-c", CAPPED], check=True)
