"""Joules a stretch of GPU work took, from the driver's own counter; None without a GPU or without nvidia-ml-py."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch


@dataclasses.dataclass(slots=True)
class Energy:
    value: float | None = None


@contextlib.contextmanager
def joules(device: torch.device) -> Iterator[Energy]:
    """``value`` is set at the end of the block: the whole board's energy, so run nothing else beside it."""
    energy = Energy()
    read = _counter(device)
    if read is None:
        yield energy
        return
    before = read()
    yield energy
    energy.value = (read() - before) / 1000


def _counter(device: torch.device) -> Callable[[], int] | None:
    """Reads the board's millijoules since the driver was loaded."""
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    # CUDA and the driver may number devices differently; the UUID is common to both.
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
