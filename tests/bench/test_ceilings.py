"""What products can do: whose shapes are timed, in which layouts, in which order. Nothing here asserts a speed."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from harness.bench import ceilings
from harness.bench.ceilings import fastest_in_turn, in_turn, product_bytes, product_flop_per_s, seconds_each
from harness.bench.cell import Cell
from harness.bench.plan import plan_step
from harness.bench.regress_workload import tiny_hybrid
from harness.models.shapes import SHAPES

CPU = torch.device("cpu")
LAUNCH_S = 20e-6  # of a graph, or of one call by itself, by a host that is not waited for
Product = functools.partial[torch.Tensor]


@pytest.mark.parametrize("faster", ["stored", "turned"])
def test_products_are_the_models_own_each_in_its_faster_layout(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[int, ...], dict[str, torch.Tensor]] = {}

    def timed(products: Sequence[Product], device: torch.device) -> list[float]:
        found = {}
        for product in products:
            left, right = product.args
            product()
            found["turned" if right.is_contiguous() else "stored"] = product.keywords["out"].clone()
        seen[*left.shape, right.shape[1]] = found
        return [0.5 if name == faster else 0.75 for name in found]

    monkeypatch.setattr(ceilings, "fastest_in_turn", timed)
    model = tiny_hybrid()
    rate = product_flop_per_s(model.config, 3, torch.float32, CPU)
    plan = plan_step(model.config, model.codec, Cell(3, 4, 8), torch.float32, torch.float32)
    launches = {part.name: part.launches for part in plan if part.kind == "product"}
    assert {f"mm [{rows}, {depth}] x [{depth}, {width}]" for rows, depth, width in seen} == set(launches)
    for found in seen.values():
        torch.testing.assert_close(found["turned"], found["stored"], rtol=1e-4, atol=1e-3)  # one product, not two
    flop = sum(2 * r * d * w * launches[f"mm [{r}, {d}] x [{d}, {w}]"] for r, d, w in seen)
    assert rate == pytest.approx(flop / (0.5 * sum(launches.values())))


class Held(TorchDispatchMode):
    """Bytes of all storages that the operations of the block gave, and the most that were there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        storage = result.untyped_storage()
        self.storages = {key: pair for key, pair in self.storages.items() if not pair[0].expired()}
        self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, sum(size for _, size in self.storages.values()))
        return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", ["llama-3.2-3b", "mamba2-1.3b"])
def test_products_hold_the_bytes_that_are_asked_for(
    shape: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every product is drawn and multiplied, without memory; the head of a 3B is 0.73 GiB in 16 bits."""

    def once(products: Sequence[Product], device: torch.device) -> list[float]:
        return [float(bool(product().shape)) for product in products]

    monkeypatch.setattr(ceilings, "fastest_in_turn", once)
    with Held() as held:
        product_flop_per_s(SHAPES[shape], 256, dtype, torch.device("meta"))
    assert held.most == product_bytes(SHAPES[shape], 256, dtype)


class Gpu:
    """A device that runs what the host queues, each at its own time; a call of ``seconds_of`` takes so long on it.

    A call or a graph is launched in ``LAUNCH_S`` of the host's time, and begins once it is launched and what stands
    before it is done. ``made`` has every call that ran, in order.
    """

    def __init__(self, seconds_of: dict[str, Callable[[], float]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.host_s = self.done_s = 0.0
        self.seconds_of, self.made = seconds_of, list[str]()
        self.captured: list[str] | None = None
        stream = types.SimpleNamespace(wait_stream=lambda other: None)
        for name, fake in {
            "Stream": lambda: stream, "current_stream": lambda: stream, "stream": lambda _: contextlib.nullcontext(),
            "CUDAGraph": self._graph, "graph": self._capture, "Event": self._event, "synchronize": self._wait,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr("harness.bench.ceilings.time.perf_counter", lambda: self.host_s)

    def call(self, name: str) -> Callable[[], None]:
        def launched() -> None:
            if self.captured is None:
                self._run([name])
            else:
                self.captured.append(name)

        return launched

    def _run(self, names: list[str]) -> None:
        self.host_s += LAUNCH_S
        self.done_s = max(self.done_s, self.host_s) + sum(self.seconds_of[name]() for name in names)
        self.made += names

    def _graph(self) -> types.SimpleNamespace:
        names: list[str] = []
        return types.SimpleNamespace(names=names, replay=lambda: self._run(names))

    @contextlib.contextmanager
    def _capture(self, graph: types.SimpleNamespace) -> Any:
        self.captured = graph.names
        yield
        self.captured = None

    def _event(self, enable_timing: bool) -> types.SimpleNamespace:
        assert enable_timing
        event = types.SimpleNamespace(at_s=None, synchronize=self._wait)

        def record() -> None:
            event.at_s = max(self.done_s, self.host_s)

        event.record, event.elapsed_time = record, lambda after: 1e3 * (after.at_s - event.at_s)
        return event

    def _wait(self, *_: object) -> None:
        self.host_s = max(self.host_s, self.done_s) + LAUNCH_S


@pytest.mark.parametrize("call_s", [3e-6, 40e-6, 30e-3])
def test_no_launch_stands_in_a_gpus_figure(call_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu({"a": lambda: call_s, "b": lambda: 2 * call_s}, monkeypatch)
    device = torch.device("cuda")
    assert fastest_in_turn([gpu.call("a"), gpu.call("b")], device) == pytest.approx([call_s, 2 * call_s], rel=1e-9)
    assert seconds_each(gpu.call("a"), device) == pytest.approx(call_s, rel=1e-9)


def test_a_gpus_calls_take_turns_in_graphs_that_are_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu({"a": lambda: 50e-6, "b": lambda: 400e-6, "c": lambda: 30e-3}, monkeypatch)
    in_turn([gpu.call(name) for name in "abc"], torch.device("cuda"))
    times = {"a": 40, "b": 5, "c": 1}  # 2 ms each, but never less than one call
    turn = "".join(name * n for name, n in times.items())
    assert "".join(gpu.made).endswith(turn * (ceilings.REPEATS + 1))
    assert gpu.done_s < 0.6


def test_a_ceiling_is_the_fastest_repeat_and_a_cost_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose every call is slower than the one before: 4 ms and up, one call a graph."""
    later = iter(range(1000))
    gpu = Gpu({"a": lambda: 4e-3 + 1e-4 * next(later)}, monkeypatch)
    device = torch.device("cuda")
    (taken,) = in_turn([gpu.call("a")], device)
    assert len(taken) == ceilings.REPEATS and taken == sorted(taken) and taken[0] < taken[-1]
    began = 4e-3 + 1e-4 * (next(later) + 1)
    behind = ceilings._TRIED + 2  # one that compiles, those that are tried, the first replay
    first_s = began + 1e-4 * behind
    assert fastest_in_turn([gpu.call("a")], device) == pytest.approx([first_s])
    again_s = 4e-3 + 1e-4 * (next(later) + 1 + behind)
    assert seconds_each(gpu.call("a"), device) == pytest.approx(again_s + 1e-4 * (ceilings.REPEATS // 2))


def test_a_cpus_calls_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only a call moves: each has its own seconds."""
    now, made = 0.0, []

    def call(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            nonlocal now
            now += seconds
            made.append(name)

        return run

    monkeypatch.setattr("harness.bench.ceilings.time.perf_counter", lambda: now)
    assert seconds_each(call("alone", 2.0), CPU) == pytest.approx(2.0)
    made.clear()
    assert fastest_in_turn([call("a", 3.0), call("b", 0.75e-3)], CPU) == pytest.approx([3.0, 0.75e-3])
    assert "".join(made).endswith("abbb" * (ceilings.REPEATS + 1))


def test_a_cpus_ceilings_are_rates() -> None:
    """Real ones: every figure is positive and finite, as what divides by it wants."""
    found = ceilings.measure_ceilings(CPU, torch.float32)
    assert 0 < found.bytes_per_s < 1e15 and 0 < found.flop_per_s < 1e15
    assert 0 < product_flop_per_s(tiny_hybrid().config, 3, torch.float32, CPU) < 1e15
