"""What the device can do, measured in the run that quotes it: copy bandwidth and the rate of products.

A ceiling is the fastest of its repeats: whatever disturbs one can only slow it down. On a GPU its own clock is read,
around graphs of many calls (``in_turn``), so that no launch by the host stands in a figure.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from harness.bench.roofline import Ceilings, products_flop, step_products
from harness.models.config import DecoderConfig

REPEATS = 7
STRETCH_S = 2e-3  # of calls timed at once: the microseconds in which a graph begins are lost in them
# What a card was seen to reach: a run on one that is held back must not look better for it.
KNOWN_BYTES_PER_S = {"NVIDIA H100 80GB HBM3": 3.0e12}
# Well past every cache, and products large enough to fill the device.
_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
_PRODUCT_SIDE = {"cuda": 8192, "cpu": 1024}
_TRIED = 5


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Copy (bytes read and written, at least ``KNOWN_BYTES_PER_S``) and a square product in ``dtype``."""
    source = torch.empty(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = fastest_in_turn([lambda: target.copy_(source)], device)[0]
    side = _PRODUCT_SIDE[device.type]
    left, right, out = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(3))
    product_s = fastest_in_turn([functools.partial(torch.mm, left, right, out=out)], device)[0]
    known = KNOWN_BYTES_PER_S.get(torch.cuda.get_device_name(device), 0.0) if device.type == "cuda" else 0.0
    return Ceilings(max(known, 2 * source.numel() / copy_s), 2 * side**3 / product_s)


@torch.inference_mode()
def product_flop_per_s(config: DecoderConfig, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of all matrix products of a step of ``rows`` rows, each shape by itself and as fast as torch has it.

    A shape's weight lies along its inputs, as checkpoints store it, or along its outputs, as the native engine turns
    some of them: the faster of the two counts. One weight is multiplied over and over: where it fits a cache (an H100's
    L2 has 50 MB) it stays there, and its shape errs on the fast side; a larger one comes from memory, as in a step.
    """
    shapes = step_products(config).items()
    return products_flop(config, rows) / sum(n * _product_s(rows, *shape, dtype, device) for shape, n in shapes)


def product_bytes(config: DecoderConfig, rows: int, dtype: torch.dtype) -> int:
    """The most that ``product_flop_per_s`` holds at once: a weight in both layouts, and the rows on either side."""
    widest = max(rows * (depth + width) + 2 * depth * width for depth, width in step_products(config))
    return widest * dtype.itemsize


def _product_s(rows: int, depth: int, width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Of one shape; a function of its own, so that its operands are gone before the next shape's are drawn."""
    left, weight = (torch.randn(n, depth, dtype=dtype, device=device) for n in (rows, width))
    out = torch.empty(rows, width, dtype=dtype, device=device)
    layouts = (weight.t(), weight.t().contiguous())
    return min(fastest_in_turn([functools.partial(torch.mm, left, right, out=out) for right in layouts], device))


def fastest_in_turn(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Seconds of one call of each, in the fastest of its repeats."""
    return [min(taken) for taken in in_turn(calls, device)]


def seconds_each(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of one call among many: what it costs, not what the device could do at best."""
    return statistics.median(in_turn([call], device)[0])


def in_turn(calls: Sequence[Callable[[], object]], device: torch.device) -> list[list[float]]:
    """Seconds of one call of each of ``calls``, in each of ``REPEATS`` repeats, which take turns: none has the warmer
    device.

    A repeat is as many calls as take about ``STRETCH_S``. On a GPU they are a graph, timed between two events. All
    replays are queued at once, so that the host launches one while another runs. What stays in a figure is the device's
    gap between two launches of a graph, which a step has too and a trace of its kernels has not.
    """
    stretches = [_stretch(call, device) for call in calls]
    taken = spans([run for _ in range(REPEATS + 1) for run, _ in stretches], device)
    # Not the first of each: its launch had nothing to hide behind.
    return [[span / times for span in taken[i :: len(calls)][1:]] for i, (_, times) in enumerate(stretches)]


def _stretch(call: Callable[[], object], device: torch.device) -> tuple[Callable[[], object], int]:
    """What makes ``call`` for about ``STRETCH_S``, and how often it does; never less than once."""
    with aside(device):
        times = _times(call, device)
    return graph_of(functools.partial(_repeat, call, times), device), times


@contextlib.contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """On a GPU a stream of its own: the first calls of what is captured later."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def graph_of(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """On a GPU the replay of a graph of what ``run`` launches, which has been launched before; elsewhere ``run``."""
    if device.type != "cuda":
        return run
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _times(call: Callable[[], object], device: torch.device) -> int:
    """How many calls take ``STRETCH_S`` when each is launched by itself: in a graph they may take somewhat less."""
    call()  # compiles, and lets cuBLAS choose its workspace: before any clock, and outside a capture
    (taken,) = spans([functools.partial(_repeat, call, _TRIED)], device)
    return math.ceil(STRETCH_S * _TRIED / taken)


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def spans(runs: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Seconds of each of ``runs``, one behind another; a GPU's by its own clock, none waited for but the last."""
    if device.type != "cuda":
        ticks = [time.perf_counter()]
        for run in runs:
            run()
            ticks.append(time.perf_counter())
        return [after - before for before, after in itertools.pairwise(ticks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(runs) + 1)]
    events[0].record()
    for run, event in zip(runs, events[1:], strict=True):
        run()
        event.record()
    events[-1].synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in itertools.pairwise(events)]


def median_seconds(call: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median over ``repeats`` calls, each waited for, behind one that is not counted: launches stand in it."""
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
