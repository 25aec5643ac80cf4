"""How the kernel scripts time: calls in a row inside a CUDA graph, by the device's clock, and what a copy reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from harness.bench.ceilings import seconds_each

QUOTED_COPY = 3.0e12  # bytes/s, read and written, of an H100 80GB HBM3


def timed(calls: list[Callable[[], object]], device: torch.device) -> float:
    """Median seconds of one of ``calls``, which follow one another (``harness.bench.ceilings.in_turn``)."""

    def in_a_row() -> None:
        for call in calls:
            call()

    if device.type != "cuda":  # a dry run: once
        start = time.perf_counter()
        in_a_row()
        return (time.perf_counter() - start) / len(calls)
    return seconds_each(in_a_row, device) / len(calls)


def printed_ceiling(device: torch.device) -> float:
    """Bytes/s that shares divide by, the larger of ``copy_ceiling`` and the quoted one; printed with the device."""
    measured = copy_ceiling(device)
    used = max(measured, QUOTED_COPY)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, dry run"
    print(f"{name}; copy {measured / 1e12:.2f} TB/s; shares of {used / 1e12:.2f} TB/s", flush=True)
    return used


def copy_ceiling(device: torch.device) -> float:
    """Bytes/s, read and written, of a device-to-device copy of 1 GiB."""
    size = 1 << 30 if device.type == "cuda" else 1 << 20
    source, target = (torch.randint(0, 255, (size,), dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / timed([lambda: target.copy_(source)] * 4, device)
