"""``manifest.json``: what every number of a run carries, and what must not change when it is resumed."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.records import InputError

FORMAT = 1
LIBRARIES = ("torch", "triton", "numpy", "sympy", "latex2sympy2_extended", "tokenizers", "safetensors")
# A resumed run must agree in these; everything below them is compared field by field.
FIXED = (
    *("task", "budget", "models", "device_type", "engine", "dtype", "state_dtype", "look_every", "clock_source"),
    *("draws", "request_seeds", "fixed_rows"),  # the last two with vLLM alone, and where rows are fixed
)


def environment(device: torch.device) -> dict[str, Any]:
    """Commit, device, driver, clocks and library versions."""
    return {
        "format": FORMAT,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["harness", *sys.argv[1:]]),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "device_type": device.type,
        "device": device_facts(device),
    }


@functools.cache
def commit() -> str:
    """The commit of this checkout, ``+changes`` behind it where the tree differs; ``$HARNESS_COMMIT`` wins."""
    if given := os.environ.get("HARNESS_COMMIT"):
        return given
    here = Path(__file__).resolve().parents[2]
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return f"release {_version('reasoning-harness')}"
    return head + ("+changes" if changed else "")


def _git(folder: Path, *words: str) -> str:
    run = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def device_facts(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        query = "driver_version,clocks.max.sm,clocks.max.mem,clocks.sm,power.limit"
        try:
            run = subprocess.run(
                ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            values = [v.strip() for v in run.stdout.splitlines()[0].split(",")]
        except (OSError, subprocess.CalledProcessError, IndexError):
            values = []
        return {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            **dict(zip(query.split(","), values, strict=False)),
        }
    return {"name": _cpu_name(), "threads": torch.get_num_threads(), "cores": os.cpu_count()}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> None:
    """InputError naming the first field in which a resumed run differs from the one it goes on with."""
    for field in FIXED:
        if difference := _difference(field, old.get(field), new.get(field)):
            name, was, now = difference
            made_by = f" (it was made by: {old['command']})" if "command" in old else ""
            raise InputError(
                f"{where}: {name} was {was!r}, is now {now!r}; resume with the same or name another --run{made_by}"
            )


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            if found := _difference(f"{name}.{key}", old.get(key), new.get(key)):
                return found
        return None
    old, new = (list(v) if isinstance(v, tuple) else v for v in (old, new))
    return None if old == new else (name, old, new)
