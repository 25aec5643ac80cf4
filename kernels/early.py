"""Launching a kernel before the one ahead of it has left the device: programmatic dependent launch, from sm_90 on.

Between two kernels of a CUDA graph a Hopper GPU idles for about a microsecond, longer than some of a step's kernels
take to read their row. A kernel launched early is on the device by then and waits there; ``wait_for_previous`` comes
before its first load or store, so it sees all that the kernels ahead of it wrote.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl


def early(device: torch.device) -> bool:
    """Whether a kernel on ``device`` can be launched early (``launch_pdl``)."""
    return device.type == "cuda" and _capability(device) >= (9, 0)


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@triton.jit
def wait_for_previous(EARLY: tl.constexpr):
    """The first line of a kernel that may be launched early."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
