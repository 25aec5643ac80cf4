"""Rivals of ``step_kernels.py``: mamba_ssm's selective_state_update and the compiled causal_conv1d_update.

Each takes (cell, sets of inputs, timer) and gives seconds, or None where the package cannot be imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable

import torch


@functools.cache
def _selective_state_update() -> Callable | None:
    """mamba_ssm's function alone: the package's own ``__init__`` asks for compiled extensions that it does not use."""
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or spec.submodule_search_locations is None:
        return None
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["mamba_ssm"] = package
    if importlib.util.find_spec("einops") is None:  # the function's reference uses it, the function does not
        sys.modules["einops"] = types.SimpleNamespace(rearrange=None, repeat=None)
    return importlib.import_module("mamba_ssm.ops.triton.selective_state_update").selective_state_update


def selective_state_update(cell, count: int, state_dtype: torch.dtype, timed: Callable) -> float | None:
    """Seconds of one call over ``count`` sets in turn; A, dt, D and bias one number a head, as in Mamba2.step."""
    function = _selective_state_update()
    if function is None:
        return None
    device, (heads, dim, size), rows = cell.device, cell.shape, cell.rows
    a = (-torch.rand(heads, device=device)).view(-1, 1, 1).expand(heads, dim, size)
    bias, d = (torch.randn(heads, device=device).view(-1, 1).expand(heads, dim) for _ in range(2))
    calls = []
    for _ in range(count):
        state = torch.randn(rows, *cell.shape, device=device, dtype=state_dtype)
        x, z = (torch.randn(rows, heads, dim, device=device, dtype=cell.dtype) for _ in range(2))
        dt = torch.randn(rows, heads, 1, device=device, dtype=cell.dtype).expand(rows, heads, dim)
        b, c = (torch.randn(rows, cell.groups, size, device=device, dtype=cell.dtype) for _ in range(2))
        options = {"D": d, "z": z, "dt_bias": bias, "dt_softplus": True}
        calls.append(functools.partial(function, state, x, dt, a, b, c, **options))
    return timed(calls, device)


def conv_update(cell, count: int, timed: Callable) -> float | None:
    """Seconds of one ``causal_conv1d_update`` over the cell's channels, width 4, with SiLU."""
    if importlib.util.find_spec("causal_conv1d") is None:
        return None
    from causal_conv1d import causal_conv1d_update

    channels, device = sum(cell.parts), cell.device
    weight = torch.randn(channels, 4, device=device, dtype=cell.dtype)
    bias = torch.randn(channels, device=device, dtype=cell.dtype)
    calls = []
    for _ in range(count):
        x = torch.randn(cell.rows, channels, device=device, dtype=cell.dtype)
        past = torch.randn(cell.rows, channels, 4, device=device, dtype=cell.dtype)
        calls.append(functools.partial(causal_conv1d_update, x, past, weight, bias, activation="silu"))
    return timed(calls, device)
