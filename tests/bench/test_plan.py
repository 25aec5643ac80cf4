"""The plan of a step against the step itself: the same launches, the bytes that Triton's interpreter sees asked for.

On a GPU the kernels and products of the captured graph are compared too, as its trace has them. Of torch's own small
operations (copies, fills, additions) only the calls are, of the step that was captured: how many kernels one of them
takes, and what cuBLAS clears for itself, is no part of a plan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder

from harness.bench.cell import Cell, budget_of
from harness.bench.plan import plan_step, planned
from harness.bench.plan_bytes import Standing, bytes_moved
from harness.bench.plan_launches import Call, recorded
from harness.bench.regress_workload import tiny_hybrid
from harness.bench.split import OTHERS, PRODUCTS, graph_kernels, grouped, launches_of, planned_launches
from harness.engine.graph import GraphBackend
from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig
from harness.models.decoder import Decoder
from harness.models.resolve import LoadedModel
from harness.models.text import Codec
from harness.records import InputError

ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_dim=16)
DISCRETE = MambaConfig(heads=4, head_dim=16, state=16, groups=2, chunk=16)
CONTINUOUS = dataclasses.replace(DISCRETE, groups=1, gated_norm=True)
NORMED_BY_GROUP = dataclasses.replace(CONTINUOUS, heads=8, head_dim=8, groups=2, norm_groups=2)
SHARED = dataclasses.replace(DISCRETE, groups=4, kv_heads=2, dt_bias=True)
GROUPED, UNGROUPED = Mamba1Config(32, 4, 16, xb=16), Mamba1Config(48, 4, 8)
CODEC = cast(Codec, SimpleNamespace(eos=(1,)))


def config(layers: tuple[str, ...], mamba: MambaConfig = DISCRETE, mamba1: Mamba1Config = GROUPED) -> DecoderConfig:
    return DecoderConfig(37, 32, layers, 24, 256, (1,), None, ATTENTION, mamba, mamba1)  # type: ignore[arg-type]


CONFIGS = {
    "teacher": config(("attention",)),
    "discrete": config(("discrete_mamba2",)),
    "continuous": config(("mamba2",), CONTINUOUS),
    "normed by group": config(("mamba2",), NORMED_BY_GROUP),
    "shared heads": config(("mamba2",), SHARED),
    "hybrid": config(("attention", "mamba1", "discrete_mamba2")),
    "ungrouped": config(("mamba1",), mamba1=UNGROUPED),
}
# Slots at other places of their chains: before their first step, before and behind a commit, in their second split.
STANDS = {"start": (0, 0, 0), "middle": (1, 9, 140)}
PROMPTS = {"alone": (0, 1, 2), "shared": (0, 0, 1)}
LENGTHS = (5, 66, 3)


def backend(config: DecoderConfig, prompts: tuple[int, ...], state_dtype: torch.dtype, device: str) -> GraphBackend:
    with torch.device(device):
        decoder = Decoder(config).requires_grad_(False).eval()
    rows_per_prompt = 1 if len(set(prompts)) == len(prompts) else 2
    model = LoadedModel("tiny", decoder, CODEC, "", random=True)
    budget = budget_of(Cell(len(prompts), 66, 300, rows_per_prompt), 7)
    texts = [[1] * n for n in LENGTHS[: max(prompts) + 1]]
    return GraphBackend(model, budget, texts, [str(i) for i in texts], len(prompts), True, state_dtype)


def stand(made: GraphBackend, prompts: tuple[int, ...], generated: tuple[int, ...]) -> Standing:
    """Put the rows there; what they remember does not matter to where they read and write."""
    samples = (4, 1, 0)
    made.fork(list(prompts), list(samples), range(len(prompts)))
    made.state.plan_window(np.array(generated) + 1)
    made.draw.generated.copy_(torch.tensor(generated))
    prompt = np.array(prompts)
    return Standing(prompt, np.array(LENGTHS)[prompt], np.array(samples), np.array(generated))


@contextlib.contextmanager
def asked_for(seen: list[tuple[int, int]]) -> Iterator[None]:
    """Appends the bytes that a kernel reads and writes in the interpreter, each address once."""
    read: dict[int, list[np.ndarray]] = {}
    written: dict[int, list[np.ndarray]] = {}
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def note(places: dict[int, list[np.ndarray]], pointers: Any, mask: Any) -> None:
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        places.setdefault(size, []).append(np.asarray(pointers.data)[np.asarray(mask.data, dtype=bool)].ravel())

    def masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note(read, pointers, mask)
        return load(self, pointers, mask, *rest)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(written, pointers, mask)
        return store(self, pointers, value, mask, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_masked_load", masked_load)
        patch.setattr(InterpreterBuilder, "create_masked_store", masked_store)
        yield
    seen.append(tuple(sum(size * np.unique(np.concatenate(p)).size for size, p in d.items()) for d in (read, written)))  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="reads addresses in Triton's interpreter, without a GPU")
@pytest.mark.parametrize("sharing", PROMPTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_planned_bytes_are_the_addresses_that_the_kernels_touch(kind: str, sharing: str) -> None:
    prompts = PROMPTS[sharing]
    state_dtype = torch.float16 if sharing == "shared" else torch.float32
    made = backend(CONFIGS[kind], prompts, state_dtype, "cpu")
    seen: list[tuple[int, int]] = []
    for generated in STANDS.values():
        standing = stand(made, prompts, generated)
        seen.clear()
        with torch.inference_mode(), recorded(lambda call: asked_for(seen)) as calls:
            made.step(len(prompts))
        kernels = [call for call in calls if call.kind == "kernel"]
        assert [(c.name, bytes_moved(c, standing)) for c in kernels] == list(
            zip((c.name for c in kernels), seen, strict=True)
        )


@pytest.mark.parametrize("sharing", PROMPTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_plan_without_memory_is_what_the_step_launches(kind: str, sharing: str) -> None:
    prompts = PROMPTS[sharing]
    rows = len(prompts)
    plan = planned(backend(CONFIGS[kind], prompts, torch.float32, "meta"), rows, standing_of(prompts))
    made = backend(CONFIGS[kind], prompts, torch.float32, "cuda" if torch.cuda.is_available() else "cpu")
    stand(made, prompts, (1, 9, 140))
    with torch.inference_mode(), recorded() as calls:
        made.step(rows)
    assert Counter(call.name for call in calls) == {part.name: part.launches for part in plan}
    if made.graphs:
        torch.cuda.synchronize()  # nothing of that step may end up in the graph's trace
        assert launches_of(graph_kernels(made, rows), plan) == planned_launches(plan)


def standing_of(prompts: tuple[int, ...]) -> Standing:
    prompt = np.array(prompts)
    return Standing(prompt, np.array(LENGTHS)[prompt], np.array((4, 1, 0)), np.array((1, 9, 140)))


def test_a_plan_of_a_real_shape_counts_weights_keys_and_states_once() -> None:
    teacher = dataclasses.replace(CONFIGS["teacher"], layers=("attention",) * 3, context=5000)
    cell = Cell(64, 1000, 512)
    plan = plan_step(teacher, CODEC, cell, torch.bfloat16, torch.float32)
    attend = next(part for part in plan if part.name == "attention_decode.attend")
    keys = 3 * 64 * (1000 + 257) * 2 * 2 * 16 * 2
    assert attend.launches == 3 and keys < attend.read < 1.05 * keys
    shared = plan_step(teacher, CODEC, Cell(64, 1000, 512, 64), torch.bfloat16, torch.float32)
    assert sum(p.read for p in shared) < sum(p.read for p in plan) - 3 * 62 * 1000 * 2 * 2 * 16 * 2
    weights = 2 * 3 * (32 * 128 + 64 * 32 + 3 * 24 * 32) + 2 * 37 * 32
    products = [part for part in plan if part.kind == "product"]
    assert sum(p.launches for p in products) == 3 * 4 + 1
    assert weights < sum(p.read for p in products) < weights + 64 * 2 * 13 * 128
    half = plan_step(CONFIGS["discrete"], CODEC, cell, torch.bfloat16, torch.float16)
    full = plan_step(CONFIGS["discrete"], CODEC, cell, torch.bfloat16, torch.float32)
    state = 64 * 4 * 16 * 16
    assert 2 * state <= sum(p.read for p in full) - sum(p.read for p in half) < 4 * state


def test_a_plan_needs_neither_interpreter_nor_gpu() -> None:
    """As on a GPU machine, where kernels are to be compiled and nothing is interpreted."""
    code = (
        "import torch; from harness.bench import plan; from harness.bench.cell import Cell;"
        "from harness.bench.regress_workload import tiny_hybrid as made;"
        "print(plan.plan_step(made().config, made().codec, Cell(2, 3, 20), torch.float32, torch.float16))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    model = tiny_hybrid()
    assert ran.stdout.strip() == str(plan_step(model.config, model.codec, Cell(2, 3, 20), torch.float32, torch.float16))


def test_a_model_that_the_engine_cannot_run_has_no_plan() -> None:
    odd = dataclasses.replace(CONFIGS["discrete"], mamba=dataclasses.replace(DISCRETE, state=24))
    with pytest.raises(InputError, match=r"mamba.state = 24 is no power of two"):
        plan_step(odd, CODEC, Cell(2, 3, 4), torch.float32, torch.float32)


def test_a_kernel_without_a_count_is_named() -> None:
    standing = standing_of((0, 1, 2))
    with pytest.raises(ValueError, match=r"new\.kernel: its bytes are not counted; add a count to harness"):
        bytes_moved(Call("kernel", "new.kernel", {"grid": (1,)}), standing)


def test_a_trace_falls_into_the_plans_groups() -> None:
    plan = plan_step(CONFIGS["hybrid"], CODEC, Cell(4, 8, 16), torch.float32, torch.float32)
    trace = [("_rmsnorm_kernel", 2.0)] * 14 + [
        ("nvjet_tst_128x64_64x8_2x1_v_bz_TNT", 40.0),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_warpgroupsize1x1x1_execute_segment_k_off", 30.0),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, __nv_bfloat16>(cublasLt::cublasSplitKParams)", 10.0),
        ("void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false>", 4.0),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<long>>(int)", 1.0),
        ("Memcpy DtoH (Device -> Pinned)", 1.0),
        ("_attend", 100.0),
        ("_step_kernel", 5.0),
        ("_step_kernel", 5.0),
    ]
    parts = {part.name: part for part in grouped(trace, 2, plan)}
    states = "mamba1_step.step_kernel + mamba2_step.step_kernel"  # the trace does not say which
    assert list(parts) == ["attention_decode.attend", PRODUCTS, "rmsnorm.rmsnorm_kernel", states, OTHERS]
    assert (parts[PRODUCTS].launches, parts[PRODUCTS].us) == (1.5, 42.0)
    assert (parts["rmsnorm.rmsnorm_kernel"].launches, parts["rmsnorm.rmsnorm_kernel"].us) == (7, 14.0)
    assert parts[states].launches == 1
    assert planned_launches(plan)[states] == 2
    norms = next(p for p in plan if p.name == "rmsnorm.rmsnorm_kernel")
    assert parts["rmsnorm.rmsnorm_kernel"].gb_per_s == pytest.approx((norms.read + norms.written) / 14e-6 / 1e9)
    assert launches_of((name for name, _ in trace), plan) == {
        "rmsnorm.rmsnorm_kernel": 14, "attention_decode.attend": 1, states: 2, PRODUCTS: 3,
    }  # fmt: skip
