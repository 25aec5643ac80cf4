"""Compile a Triton kernel for a GPU that is not here: to PTX and machine code, in a process without the interpreter.

Import it as ``from .compiling import compile_for`` (one kernel) or ``compile_all, job`` (several in one process).
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
from typing import Any

from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

# Takes a job a line, answers each with a line. What else the compiler prints goes to stderr.
_PROGRAM = """
import importlib, json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def compiled(job):
    kernel = getattr(importlib.import_module(job["module"]), job["name"])
    names = kernel.arg_names
    signature = {n: "constexpr" if n in job["constexprs"] else job["signature"][n] for n in names}
    # What a launch finds out by itself: pools and rows start on 16 bytes.
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    source = ASTSource(kernel, signature=signature, constexprs=job["constexprs"], attrs=attrs)
    binary = triton.compile(source, target=GPUTarget("cuda", job["capability"], 32), options=job["options"])
    assert len(binary.asm["cubin"]) > 0
    return {"shared": binary.metadata.shared, "ptx": binary.asm["ptx"]}


for line in sys.stdin:
    try:
        answer = compiled(json.loads(line))
    except Exception:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), file=answers, flush=True)
"""


def compile_for(
    kernel: JITFunction | InterpretedFunction,
    signature: dict[str, str],
    constexprs: dict[str, object],
    capability: int,
    **options: int,
) -> None:
    """Compile ``kernel`` for sm_<capability>; RuntimeError with the compiler's words if that fails.

    ``signature``: Triton types by argument ("*bf16", "i32"); ``constexprs``: values by argument;
    ``options``: num_warps and num_stages.
    """
    compile_all([job(kernel, signature, constexprs, capability, **options)])


def job(
    kernel: JITFunction | InterpretedFunction,
    signature: dict[str, str],
    constexprs: dict[str, object],
    capability: int,
    **options: int,
) -> dict[str, object]:
    """One entry of ``compile_all``; arguments as for ``compile_for``."""
    return {
        "module": kernel.fn.__module__,
        "name": kernel.fn.__name__,
        "signature": signature,
        "constexprs": constexprs,
        "capability": capability,
        "options": options,
    }


def compile_all(jobs: list[dict[str, object]]) -> list[dict[str, Any]]:
    """Compile several: ``shared`` memory in bytes and ``ptx`` of each."""
    return [_compile(job) for job in jobs]


def _compile(job: dict[str, object]) -> dict[str, Any]:
    compiler = _compiler()
    assert compiler.stdin is not None and compiler.stdout is not None
    try:
        compiler.stdin.write(json.dumps(job) + "\n")
        compiler.stdin.flush()
        answer = compiler.stdout.readline()
    except BrokenPipeError:
        answer = ""
    done = json.loads(answer) if answer else {"error": f"the compiler ended with {_end(compiler)}"}
    if "error" in done:
        raise RuntimeError(f"compiling {job['name']} for sm_{job['capability']} failed: {done['error'][-4000:]}")
    return done


@functools.cache
def _compiler() -> subprocess.Popen[str]:
    """One process for all that a test process compiles: to start it costs more than most kernels do."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    pipe = subprocess.PIPE
    compiler = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdin=pipe, stdout=pipe, env=environment, text=True)
    atexit.register(_end, compiler)
    return compiler


def _end(compiler: subprocess.Popen[str]) -> int:
    """It ends with its input; the next one that is asked for is a new one."""
    _compiler.cache_clear()
    compiler.communicate()
    return compiler.returncode
