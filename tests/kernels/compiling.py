"""Compile a Triton kernel for a GPU that is not here: to PTX and machine code, in a process without the interpreter.

Import it as ``from .compiling import compile_for`` (one kernel) or ``compile_all, job`` (several in one process).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

_PROGRAM = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

for job in json.load(sys.stdin):
    kernel = getattr(importlib.import_module(job["module"]), job["name"])
    names = kernel.arg_names
    signature = {n: "constexpr" if n in job["constexprs"] else job["signature"][n] for n in names}
    # What a launch finds out by itself: pools and rows start on 16 bytes.
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    source = ASTSource(kernel, signature=signature, constexprs=job["constexprs"], attrs=attrs)
    binary = triton.compile(source, target=GPUTarget("cuda", job["capability"], 32), options=job["options"])
    assert len(binary.asm["cubin"]) > 0
    print(json.dumps({"shared": binary.metadata.shared, "ptx": binary.asm["ptx"]}))
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
    """One entry of ``compile_all``; arguments as for ``compile_for``. On sm_90 as for an early launch."""
    if "EARLY" in kernel.arg_names:
        constexprs = constexprs | {"EARLY": capability >= 90}
    return {
        "module": kernel.fn.__module__,
        "name": kernel.fn.__name__,
        "signature": signature,
        "constexprs": constexprs,
        "capability": capability,
        "options": options,
    }


def compile_all(jobs: list[dict[str, object]]) -> list[dict[str, Any]]:
    """Compile several in one process (starting one costs more): ``shared`` memory in bytes and ``ptx`` of each."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], input=json.dumps(jobs), env=environment, capture_output=True, text=True
    )
    if done.returncode:
        names = ", ".join(sorted({f"{j['name']} for sm_{j['capability']}" for j in jobs}))
        raise RuntimeError(f"compiling {names} failed: {done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
