"""What a worker process may not do once it reads answers: write, connect, start processes, or turn text into code.

Resource limits are the kernel's; the rest is an audit hook, which Python code cannot take off again. The hook
raises ``Forbidden``, which is no ``Exception``, so that no library can mistake it for a syntax error. It guards
against what a library does with text, not against machine code.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any

MEMORY_LIMIT_BYTES = 512 * 2**20
"""Address space of the process; sympy and the parser need about 100 MB of it."""
RETIRE_BYTES = 256 * 2**20
"""A worker larger than this after an answer is replaced, so that no verdict depends on what was asked before it."""

_FORBIDDEN_EVENTS = (
    "code.__new__ ctypes.dlopen ctypes.dlsym ctypes.dlsym/handle function.__new__ mmap.__new__ os.chdir os.chmod "
    "os.chown os.exec os.fork os.forkpty os.kill os.killpg os.link os.mkdir os.posix_spawn os.putenv os.remove "
    "os.rename os.rmdir os.setxattr os.spawn os.startfile os.symlink os.system os.truncate os.unsetenv os.utime "
    "pickle.find_class pty.spawn resource.prlimit signal.pthread_kill sqlite3.connect subprocess.Popen"
)
_FORBIDDEN = frozenset(_FORBIDDEN_EVENTS.split())
_FORBIDDEN_FAMILIES = ("ftplib.", "http.", "shutil.", "smtplib.", "socket.", "syslog.", "tempfile.", "urllib.")
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


class Forbidden(BaseException):
    """The audit hook refused what the process tried to do."""


def cap_memory() -> None:
    """Bound the address space; beyond it allocations raise MemoryError. Comes before the imports."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def lock_down() -> None:
    """Close the process off for good; comes after the self-test, which imports what is imported late."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends this process
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = True  # else what was installed without bytecode and is imported late would be refused
    sys.addaudithook(_refuse)


def cap_cpu(process_s: float) -> None:
    """A second belt: should the parent die while this process computes, the kernel ends it at that CPU time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(process_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def address_space_bytes() -> int:
    """What counts against ``MEMORY_LIMIT_BYTES`` now."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        _, mode, flags = args
        writes = isinstance(mode, str) and any(c in mode for c in "wax+")
        if writes or (isinstance(flags, int) and flags & _WRITE_FLAGS):
            raise Forbidden("opening a file for writing")
    elif event in ("compile", "exec"):
        # the hook's caller is the frame that compiles or executes: the import system's, or a call of eval
        if sys._getframe(1).f_code.co_filename != _IMPORT_SYSTEM:
            raise Forbidden(f"{event} of text")
    elif event == "resource.setrlimit":
        if args[0] != resource.RLIMIT_CPU:
            raise Forbidden("lifting a limit")
    elif event in _FORBIDDEN or event.startswith(_FORBIDDEN_FAMILIES):
        raise Forbidden(event)
