"""Compile a Triton kernel for a GPU that is not here: to PTX and machine code, in a process without the interpreter.

Import it as ``from .compiling import compile_for`` (one kernel) or ``compile_all, job`` (several in one process);
``jobs_of`` takes the types and constants from a launch itself.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, KernelInterface

# Bytes of shared memory that one program may have (CUDA C++ Programming Guide, "Compute Capabilities").
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}

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
    # What a launch finds out by itself: pools and rows start on 16 bytes, strides may be multiples of 16.
    even = [i for i, n in enumerate(names) if signature[n].startswith("*") or signature[n].endswith(":16")]
    attrs = {(i,): [["tt.divisibility", 16]] for i in even}
    signature = {n: kind.removesuffix(":16") for n, kind in signature.items()}
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

    ``signature``: Triton types by argument ("*bf16", "i32", "i32:16" for multiples of 16); ``constexprs``: values by
    argument, None for a pointer that is absent;
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


_TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64", torch.int32: "i32",
    torch.bool: "i1",
}  # fmt: skip


def jobs_of(run: Callable[[], object], capability: int, **constexprs: object) -> list[dict[str, object]]:
    """An entry of ``compile_all`` for each kernel that ``run`` launches on tensors of the device "meta"; none runs.

    Types, constants and options (warps, registers) as the launch has them; ``constexprs`` replace those that would be
    others on a GPU.
    """
    jobs: list[dict[str, object]] = []

    def at_grid(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            parameters = inspect.signature(kernel.fn).parameters
            named = {name: options.pop(name) for name in parameters if name in options}
            bound = inspect.signature(kernel.fn).bind(*args, **named).arguments
            signature, fixed = {}, {name: value for name, value in constexprs.items() if name in parameters}
            for name, value in bound.items():
                if isinstance(value, torch.Tensor):
                    signature[name] = f"*{_TYPES[value.dtype]}"
                elif isinstance(value, float):
                    signature[name] = "fp32"
                elif "constexpr" in str(parameters[name].annotation) or value is None or value == 1:
                    fixed.setdefault(name, value)
                else:
                    signature[name] = "i32" if value % 16 else "i32:16"
            jobs.append(job(kernel, signature, fixed, capability, **options))

        return launch

    with mock.patch.object(KernelInterface, "__getitem__", at_grid):
        run()
    return jobs


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
