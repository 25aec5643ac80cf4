"""What products can do: whose shapes are timed, in which layouts, in which order. Nothing here asserts a speed."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence

import pytest
import torch

from harness.bench import ceilings
from harness.bench.ceilings import product_flop_per_s, seconds_each, seconds_in_turn
from harness.bench.cell import Cell
from harness.bench.plan import plan_step
from harness.bench.regress_workload import tiny_hybrid

CPU = torch.device("cpu")
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

    monkeypatch.setattr(ceilings, "seconds_in_turn", timed)
    model = tiny_hybrid()
    rate = product_flop_per_s(model.config, 3, torch.float32, CPU)
    plan = plan_step(model.config, model.codec, Cell(3, 4, 8), torch.float32, torch.float32)
    launches = {part.name: part.launches for part in plan if part.kind == "product"}
    assert {f"mm [{rows}, {depth}] x [{depth}, {width}]" for rows, depth, width in seen} == set(launches)
    for found in seen.values():
        torch.testing.assert_close(found["turned"], found["stored"], rtol=1e-4, atol=1e-3)  # one product, not two
    flop = sum(2 * r * d * w * launches[f"mm [{r}, {d}] x [{d}, {w}]"] for r, d, w in seen)
    assert rate == pytest.approx(flop / (0.5 * sum(launches.values())))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_calls_take_turns_in_about_the_time_of_one_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only a call moves: each has its own seconds. What a GPU would capture runs here as it stands."""
    now, made, device = 0.0, [], torch.device(kind)

    def call(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            nonlocal now
            now += seconds
            made.append(name)

        return run

    def captured(given: Callable[[], None]) -> types.SimpleNamespace:
        return types.SimpleNamespace(replay=lambda: ceilings._repeat(given, ceilings.CALLS_AT_ONCE))

    monkeypatch.setattr("harness.bench.ceilings.time.perf_counter", lambda: now)
    monkeypatch.setattr(ceilings, "_graph_of", captured)
    monkeypatch.setattr(ceilings, "wait_for", lambda _: None)
    assert seconds_each(call("alone", 2.0), device) == pytest.approx(2.0)
    alone, made[:] = len(made), []
    assert seconds_in_turn([call("a", 3.0), call("b", 0.25)], device) == pytest.approx([3.0, 0.25])
    turns = "".join(name for i, name in enumerate(made) if made[i - 1 : i] != [name])
    assert turns == "ab" * (len(turns) // 2) and len(turns) >= 6
    assert len(made) <= 1.25 * alone
