"""What the device can do, measured in the run that quotes it: copy bandwidth and the rate of large products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from harness.bench.roofline import Ceilings

REPEATS = 7
# Well past every cache, and products large enough to fill the device.
_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
_PRODUCT_SIDE = {"cuda": 8192, "cpu": 1024}


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Copy counts bytes read and written; the product is square, in ``dtype``. Medians."""
    source = torch.empty(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = median_seconds(lambda: target.copy_(source), device)
    side = _PRODUCT_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product_s = median_seconds(lambda: torch.mm(left, right), device)
    return Ceilings(2 * source.numel() / copy_s, 2 * side**3 / product_s)


def median_seconds(call: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median over ``repeats`` calls, each waited for, behind one that is not counted."""
    taken = []
    for _ in range(repeats + 1):
        wait_for(device)
        began = time.perf_counter()
        call()
        wait_for(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def wait_for(device: torch.device) -> None:
    """Until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
