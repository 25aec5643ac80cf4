"""A step's time by kernel, as the GPU's own trace has it; on a CPU there is none.

Groups are the names of ``plan_launches``: each Triton kernel by itself, all matrix products together, and what torch
launches beside them (copies, fills, additions) together. The planned bytes of a group over its time say how near to the
copy ceiling it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch.autograd import DeviceType

from harness.bench.plan import Launched
from harness.engine.graph import GraphBackend
from harness.report.throughput import KernelTime

PRODUCTS, OTHERS = "matrix products", "copies, fills, additions"
STEPS = 8


def split_of(backend: GraphBackend, rows: int, plan: Sequence[Launched]) -> tuple[KernelTime, ...]:
    """Microseconds a step of each group, the longest first, over one window of rows that are under way."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        backend.collect(backend.launch(rows, STEPS))
    taken = [(event.name, event.time_range.elapsed_us()) for event in _on_device(profile)]
    return grouped(taken, STEPS, plan)


def graph_kernels(backend: GraphBackend, rows: int) -> list[str]:
    """Names of all kernels that one replay of the graph of ``rows`` rows runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        backend.graphs[rows].replay()
        torch.cuda.synchronize(backend.device)
    return [event.name for event in _on_device(profile)]


def _on_device(profile: torch.profiler.profile) -> Iterable[torch.autograd.profiler_util.FunctionEvent]:
    return (event for event in profile.events() or () if event.device_type == DeviceType.CUDA)


def grouped(taken: Iterable[tuple[str, float]], steps: int, plan: Sequence[Launched]) -> tuple[KernelTime, ...]:
    """``taken``: name and microseconds of each kernel of ``steps`` steps."""
    launches: Counter[str] = Counter()
    nanoseconds: Counter[str] = Counter()
    for name, us in taken:
        group = group_of(name, plan)
        launches[group] += not _helps_a_product(name)
        nanoseconds[group] += round(1000 * us)
    moved: Counter[str] = Counter()
    for part in plan:
        moved[_planned_group(part, plan)] += part.read + part.written
    return tuple(
        KernelTime(group, launches[group] / steps, ns / 1000 / steps, moved[group] * steps / max(1, ns))
        for group, ns in nanoseconds.most_common()
    )


def group_of(name: str, plan: Sequence[Launched]) -> str:
    """Which of the plan's groups a kernel of the trace belongs to; what nobody else launches is cuBLAS's."""
    function = name.lstrip("_")
    # The trace knows functions alone: two kernels of one name are one group.
    own = [part.name for part in plan if part.kind == "kernel" and part.name.rpartition(".")[2] == function]
    if own:
        return " + ".join(own)
    return OTHERS if "at::native" in name or name.startswith(("Memcpy", "Memset")) else PRODUCTS


def launches_of(names: Iterable[str], plan: Sequence[Launched]) -> Counter[str]:
    """How often each Triton kernel of the plan and any product stands in a trace."""
    groups = Counter(group_of(name, plan) for name in names if not _helps_a_product(name))
    del groups[OTHERS]
    return groups


def planned_launches(plan: Sequence[Launched]) -> Counter[str]:
    """The same of the plan."""
    counts: Counter[str] = Counter()
    for part in plan:
        counts[_planned_group(part, plan)] += part.launches
    del counts[OTHERS]
    return counts


def _planned_group(part: Launched, plan: Sequence[Launched]) -> str:
    if part.kind == "kernel":
        return group_of(part.name.rpartition(".")[2], plan)
    return PRODUCTS if part.kind == "product" else OTHERS


def _helps_a_product(name: str) -> bool:
    """A product cut along its depth is added up by a second kernel."""
    return "splitk" in name.lower() and "reduce" in name.lower()
