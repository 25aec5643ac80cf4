"""What the device can do, measured in the run that quotes it: copy bandwidth and the rate of products."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from harness.bench.roofline import Ceilings, layer_products
from harness.models.config import DecoderConfig

REPEATS = 7
CALLS_AT_ONCE = 20
# What a card was seen to reach: a run on one that is held back must not look better for it.
KNOWN_BYTES_PER_S = {"NVIDIA H100 80GB HBM3": 3.0e12}
# Well past every cache, and products large enough to fill the device.
_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
_PRODUCT_SIDE = {"cuda": 8192, "cpu": 1024}


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Copy (bytes read and written, at least ``KNOWN_BYTES_PER_S``) and a square product in ``dtype``; medians."""
    source = torch.empty(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = median_seconds(lambda: target.copy_(source), device)
    side = _PRODUCT_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product_s = median_seconds(lambda: torch.mm(left, right), device)
    known = KNOWN_BYTES_PER_S.get(torch.cuda.get_device_name(device), 0.0) if device.type == "cuda" else 0.0
    return Ceilings(max(known, 2 * source.numel() / copy_s), 2 * side**3 / product_s)


@torch.inference_mode()
def product_flop_per_s(config: DecoderConfig, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of all matrix products of a step of ``rows`` rows, each shape by itself and as fast as torch has it.

    A shape's weight lies along its inputs, as checkpoints store it, or along its outputs, as the native engine turns
    some of them: the faster of the two counts. One weight is multiplied over and over, so that it may lie in a cache:
    what is measured errs on the fast side.
    """
    shapes = layer_products(config)
    shapes[config.width, config.vocab_size] += 1
    seconds = 0.0
    for (depth, width), count in shapes.items():
        left, weight = (torch.randn(n, depth, device=device).to(dtype) for n in (rows, width))
        out = torch.empty(rows, width, dtype=dtype, device=device)
        layouts = (weight.t(), weight.t().contiguous())
        products = [functools.partial(torch.mm, left, right, out=out) for right in layouts]
        seconds += count * min(seconds_in_turn(products, device))
    return sum(2.0 * rows * depth * width * count for (depth, width), count in shapes.items()) / seconds


def seconds_each(call: Callable[[], object], device: torch.device) -> float:
    """Of one call among many; on a GPU in a graph of them, since a launch may take longer than what it launches."""
    return seconds_in_turn([call], device)[0]


def seconds_in_turn(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """``seconds_each`` of several calls, repeated in turn so that none has the warmer device.

    All of them together take about as long as one alone: they share its repeats on a GPU, where a graph must hold
    enough calls for its own launch not to show, and its calls on a CPU.
    """
    if device.type != "cuda":
        at_once = max(1, CALLS_AT_ONCE // len(calls))
        runs = [functools.partial(_repeat, call, at_once) for call in calls]
        return [s / at_once for s in _medians(runs, device, 3)]
    graphs = [_graph_of(call) for call in calls]
    medians = _medians([graph.replay for graph in graphs], device, -(-REPEATS // len(calls)))
    return [s / CALLS_AT_ONCE for s in medians]


def _graph_of(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """``CALLS_AT_ONCE`` of them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # compiles, and lets cuBLAS choose its workspace, outside the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _repeat(call, CALLS_AT_ONCE)
    return graph


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def median_seconds(call: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median over ``repeats`` calls, each waited for, behind one that is not counted."""
    return _medians([call], device, repeats)[0]


def _medians(calls: Sequence[Callable[[], object]], device: torch.device, repeats: int) -> list[float]:
    """``median_seconds`` of each, one call of each in turn."""
    taken: list[list[float]] = []
    for _ in range(repeats + 1):
        taken.append([])
        for call in calls:
            wait_for(device)
            began = time.perf_counter()
            call()
            wait_for(device)
            taken[-1].append(time.perf_counter() - began)
    return [statistics.median(column) for column in zip(*taken[1:], strict=True)]


def wait_for(device: torch.device) -> None:
    """Until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
