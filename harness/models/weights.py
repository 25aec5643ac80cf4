"""What weights take, known from a config, and whether a device has so much free: asked before any is made."""

from __future__ import annotations

import functools
import gc
import os

import torch

from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.records import InputError

GIB = 2**30


@functools.cache  # asked several times before a model is loaded, and a decoder is made for it
def parameters(config: DecoderConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Decoder(config).parameters())


def check_weights(name: str, config: DecoderConfig, dtype: torch.dtype, device: torch.device) -> None:
    """InputError with the numbers where the weights alone are more than the device has free."""
    count, free = parameters(config), available_bytes(device)
    if count * dtype.itemsize <= free:
        return
    cure = "take a smaller model"
    if dtype.itemsize > torch.bfloat16.itemsize:
        cure += f" or --dtype bfloat16 ({count * torch.bfloat16.itemsize / GIB:.2f} GiB)"
    raise InputError(
        f"--model {name}: {count:,} parameters in {str(dtype).removeprefix('torch.')} take"
        f" {count * dtype.itemsize / GIB:.2f} GiB, the {device.type} has {free / GIB:.2f} GiB free; {cure}"
    )


def available_bytes(device: torch.device) -> int:
    """Free memory of the device: the GPU's, or the machine's available RAM."""
    gc.collect()  # an engine's steps refer to it: only the collector ends an earlier one, and its pools with it
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what it left in the allocator's cache is free too
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
