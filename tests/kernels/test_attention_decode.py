"""The decode attention kernel against its float64 twin, the twin against softmax written out and the eager engine's.

Everything that is no token of a row is NaN: page tails, pages of nobody, the scratch page, outputs and parts.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton

from harness.kernels import attention_decode as op
from harness.kernels.attention import paged_attention
from harness.kernels.attention_plan import (
    PAGE_TOKENS,
    Launch,
    plan,
    plan_with,
    prompt_tiles,
    splits_for,
    tile_count,
)
from harness.models.config import AttentionConfig, DecoderConfig
from harness.models.decode_state import DecodeState
from harness.models.packing import pack_prompts
from harness.models.state import StatePlan

from .compiling import compile_all, job

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAN = float("nan")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}
DOT, LANES = Launch(1, 64, 4, 2, True), Launch(1, 16, 4, 2, False)


class Case:
    """Rows of ``prompt_of``, each with ``generated`` tokens before this step, on pages in random places."""

    def __init__(
        self, prompt_of, prompts, generated, running=None, kv_heads=2, repeat=2, dim=32, dtype=torch.float32, seed=0
    ):
        self.rng = np.random.default_rng(seed)
        self.prompt_of, self.rows, self.dtype = np.asarray(prompt_of), len(prompt_of), dtype
        self.shape = (self.rows, kv_heads * repeat, dim)
        self.kv_heads = kv_heads
        self.generated = torch.tensor(generated, device=DEVICE)
        self.running = torch.tensor([True] * self.rows if running is None else running, device=DEVICE)
        self.q = self.random(*self.shape)
        self.own = [self.random(2, n + 1, kv_heads, dim) for n in generated]
        self.shared = [self.random(2, n, kv_heads, dim) for n in prompts]
        slot_pages = max(generated) // PAGE_TOKENS + 1
        count = self.rows * slot_pages + 1
        self.k, self.v = self.pools(count)
        self.table = torch.full((self.rows, slot_pages), count - 1, device=DEVICE)
        free = iter(self.rng.permutation(count - 1))
        for row, tokens in enumerate(self.own):
            for place in range(-(-tokens.shape[1] // PAGE_TOKENS)):
                self.table[row, place] = page = int(next(free))
                self.fill((self.k, self.v), page, tokens[:, place * PAGE_TOKENS :])
        tokens_of = np.asarray(prompts, dtype=np.int64)
        first = np.cumsum(-(-tokens_of // PAGE_TOKENS)) + 1
        first = np.concatenate(([1], first))  # page 0 is nobody's
        self.prompt_page, self.prompt_tokens = first[:-1], tokens_of
        pools = self.pools(int(first[-1]))
        for prompt, tokens in enumerate(self.shared):
            for place in range(-(-tokens.shape[1] // PAGE_TOKENS)):
                self.fill(pools, int(first[prompt]) + place, tokens[:, place * PAGE_TOKENS :])
        lengths = np.where(self.prompt_of < 0, 0, tokens_of[self.prompt_of])
        pages = np.where(self.prompt_of < 0, 0, first[self.prompt_of])
        self.prompts = op.Prompts(*pools, *(torch.tensor(t, device=DEVICE).int() for t in (pages, lengths)))

    def random(self, *shape):
        return torch.tensor(self.rng.standard_normal(shape)).to(DEVICE, self.dtype)

    def pools(self, count):
        shape = (2, count, self.kv_heads, PAGE_TOKENS, self.shape[2])
        return torch.full(shape, NAN, dtype=self.dtype, device=DEVICE).unbind()

    def fill(self, pools, page, tokens):
        held = tokens[:, :PAGE_TOKENS].transpose(1, 2)
        for pool, part in zip(pools, held, strict=True):
            pool[page, :, : part.shape[1]] = part

    def tiled(self, members, spare=2):
        """Put the rows into tiles, with ``spare`` empty ones behind them."""
        tiles = tile_count(self.rows, len(self.prompt_tokens), members) + spare
        arrays = prompt_tiles(self.prompt_of, self.prompt_page, self.prompt_tokens, members, tiles)
        rows, page, tokens = (torch.tensor(t, device=DEVICE) for t in arrays)
        rows[tokens == 0] = 0  # what a tile held before it fell empty must not count
        self.prompts = dataclasses.replace(self.prompts, tile_rows=rows, tile_page=page, tile_tokens=tokens)
        return self

    def arguments(self):
        return self.q, self.k, self.v, self.table, self.generated, self.running, self.prompts

    def run(self, own, tiles=None):
        p = plan_with(own, tiles, self.shape, DEVICE)
        for poisoned in (p.value, p.top, p.total):
            poisoned.fill_(NAN)
        out = torch.full((self.rows, self.shape[1] * self.shape[2]), NAN, dtype=self.dtype, device=DEVICE)
        assert op.attention_decode(*self.arguments(), p, out) is out
        return out

    def dense(self, row):
        """Softmax written out, float64 [heads * dim]."""
        parts = [self.shared[self.prompt_of[row]]] if self.prompt_of[row] >= 0 else []
        k, v = torch.cat([*parts, self.own[row]], dim=1).double().transpose(1, 2)
        repeat = self.shape[1] // self.kv_heads
        out = []
        for h in range(self.shape[1]):
            weights = (k[h // repeat] @ self.q[row, h].double() * self.shape[2] ** -0.5).softmax(0)
            out.append(weights @ v[h // repeat])
        return torch.cat(out)

    def check(self, out):
        expected = op.attention_decode_twin(*self.arguments())
        assert torch.isfinite(out).all()
        idle = ~self.running
        assert torch.equal(out[idle], torch.zeros_like(out[idle]))
        error = (out.double() - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)
        assert error[self.running].max() < TOLERANCE[self.dtype]


def with_splits(launch, splits):
    return dataclasses.replace(launch, splits=splits)


BORDERS = {"prompt_of": [0, 1, 2, 0, 1], "prompts": [64, 1, 130], "generated": [0, 62, 63, 64, 130]}
IDLE = {
    "prompt_of": [1, -1, 0, 1],
    "prompts": [65, 7],
    "generated": [5, 0, 70, 3],
    "running": [True, True, False, True],
}


@pytest.mark.parametrize("layout", [BORDERS, {**IDLE, "running": None}])
def test_twin_equals_softmax_written_out(layout):
    case = Case(**layout, kv_heads=3, repeat=2, dtype=torch.float64)
    got = op.attention_decode_twin(*case.arguments())
    for row in range(case.rows):
        torch.testing.assert_close(got[row], case.dense(row), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("splits", [1, 2, 4])
@pytest.mark.parametrize("launch", [DOT, LANES], ids=["dot", "lanes"])
@pytest.mark.parametrize("layout", [BORDERS, IDLE], ids=["borders", "idle"])
def test_rows_that_read_their_prompts_themselves(layout, launch, splits):
    case = Case(**layout, kv_heads=1)
    case.check(case.run(with_splits(launch, splits)))


@pytest.mark.parametrize(("splits", "tile_splits", "members"), [(1, 1, 4), (1, 2, 2), (4, 1, 3)])
@pytest.mark.parametrize("launch", [DOT, LANES], ids=["dot", "lanes"])
@pytest.mark.parametrize("layout", [BORDERS, IDLE], ids=["borders", "idle"])
def test_rows_that_share_tiles(layout, launch, splits, tile_splits, members):
    case = Case(**layout, kv_heads=1).tiled(members)
    case.check(case.run(with_splits(launch, splits), with_splits(DOT, tile_splits)))


@pytest.mark.parametrize(
    ("kv_heads", "repeat", "dim", "dtype"),
    [
        (1, 1, 32, torch.float32),
        (3, 3, 32, torch.bfloat16),
        (3, 1, 64, torch.bfloat16),
        (1, 4, 64, torch.float16),
        (2, 3, 96, torch.float32),
        (2, 3, 96, torch.bfloat16),
        (1, 8, 128, torch.bfloat16),
        (1, 8, 128, torch.float32),
    ],
)
@pytest.mark.parametrize("tiled", [False, True])
def test_shapes_and_dtypes_with_planned_launches(kv_heads, repeat, dim, dtype, tiled):
    case = Case([0, 0, 1], [70, 3], [130, 0, 12], kv_heads=kv_heads, repeat=repeat, dim=dim, dtype=dtype)
    if tiled:
        case.tiled(16 // repeat)
    tiles = case.prompts.tile_rows.shape[0] if tiled else 0
    p = plan(3, case.shape[1], kv_heads, dim, dtype, 192, DEVICE, tiles, prompt_context=70)
    case.check(case.run(p.own, p.tiles))


def test_int32_tables_queries_in_a_wider_row_and_slots_behind_the_rows():
    case = Case(**BORDERS)
    expected = case.run(DOT)
    wide = torch.full((5, 6, 32), NAN, device=DEVICE)
    wide[:, :4] = case.q
    case.q = wide[:, :4]
    case.table, case.generated = (torch.cat((t, t[:2])).int() for t in (case.table, case.generated))
    case.running = torch.cat((case.running, case.running[:2]))
    assert torch.equal(case.run(DOT), expected)


def permuted(case, order):
    """The same rows in other slots; each keeps its pages."""
    case.prompt_of = case.prompt_of[order]
    case.q, case.table, case.generated, case.running = (
        t[order] for t in (case.q, case.table, case.generated, case.running)
    )
    case.prompts = dataclasses.replace(case.prompts, page=case.prompts.page[order], tokens=case.prompts.tokens[order])
    return case


@pytest.mark.parametrize(
    ("own", "tiles"), [(DOT, None), (with_splits(DOT, 2), DOT), (LANES, None)], ids=["dot", "tiles", "lanes"]
)
def test_rows_in_other_slots_and_tiles_are_bitwise_equal(own, tiles):
    layout = {"prompt_of": [0, 0, 1, 0, 0, 1], "prompts": [70, 20], "generated": [3, 64, 190, 0, 12, 60]}
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    case, moved = Case(**layout), permuted(Case(**layout), order)
    if tiles:
        case.tiled(3)
        moved.tiled(3)
        assert sorted(case.prompts.tile_rows[0].tolist()) != sorted(order[moved.prompts.tile_rows[0].tolist()].tolist())
    assert torch.equal(moved.run(own, tiles), case.run(own, tiles)[order])


@pytest.mark.parametrize("tiled", [False, True])
def test_a_row_does_not_depend_on_what_the_others_hold(tiled):
    case = Case(**BORDERS, kv_heads=1)
    if tiled:
        case.tiled(4)
    tiles = DOT if tiled else None
    before = case.run(DOT, tiles)
    case.q[1:] = NAN
    case.generated[1:] = 1
    case.running[3] = False
    assert torch.equal(case.run(DOT, tiles)[0], before[0])


def test_a_longer_table_changes_nothing():
    """Splits go by the row's length, not by the table's width: a graph for long contexts serves short ones."""
    case = Case(**BORDERS, kv_heads=1)
    before = case.run(with_splits(DOT, 2))
    case.table = torch.nn.functional.pad(case.table, (0, 5), value=10**6)
    assert torch.equal(case.run(with_splits(DOT, 2)), before)


def test_large_scores_do_not_overflow():
    case = Case(**BORDERS, kv_heads=1)
    case.q *= 1e4
    for launch in (DOT, LANES):
        out = case.run(with_splits(launch, 2))
        torch.testing.assert_close(out.double(), op.attention_decode_twin(*case.arguments()), rtol=1e-3, atol=1e-3)


def test_tokens_without_a_prompt_and_rows_without_a_token():
    case = Case([-1, -1], [64], [0, 9], running=[False, True], kv_heads=1)
    case.check(case.run(DOT))
    case.check(case.tiled(2).run(DOT, DOT))


def test_equals_the_eager_engine_on_its_own_state():
    attention = AttentionConfig(heads=4, kv_heads=2, head_dim=32)
    config = DecoderConfig(8, 64, ("attention",), mlp=8, context=256, eos=(0,), attention=attention)
    lengths, prompt_of, generated = (70, 64), [0, 1, -1, 0], np.array([63, 64, 0, 5])
    state = DecodeState(config, StatePlan(4, 128, lengths), torch.float32, torch.float32, DEVICE)
    g = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=g).to(DEVICE)

    layer = state.layers[0]
    pages = pack_prompts([[0] * n for n in lengths], (0, 1), state.plan, config, DEVICE).pages
    layer.write_prompts(pages, *random(2, sum(lengths), 2, 32))
    live, running = [0, 1, 3], torch.tensor(prompt_of, device=DEVICE) >= 0
    state.fork([prompt_of[row] for row in live], live)
    for step in range(int(generated.max()) + 1):
        held = np.minimum(step, generated)
        state.plan_window(4, held, 1)
        index = state.step_index(torch.tensor(held, device=DEVICE), running)
        layer.append(*random(2, 4, 2, 32), index)
    q = random(4, 4, 32)
    eager = paged_attention(q, layer.pages(index), index.pieces).flatten(1)
    of = np.maximum(prompt_of, 0)
    tokens = np.where(np.array(prompt_of) < 0, 0, np.array(lengths)[of])
    tiled = prompt_tiles(np.array(prompt_of), state.first_prompt_page, np.array(lengths), 2, 4)
    tables = (state.first_prompt_page[of].astype(np.int32), tokens.astype(np.int32), *tiled)
    prompts = op.Prompts(layer.prompt_k, layer.prompt_v, *(torch.tensor(t, device=DEVICE) for t in tables))
    table, own = (torch.tensor(t, device=DEVICE) for t in (state.table.table, generated))
    for tiles in (None, DOT):
        p = plan_with(with_splits(DOT, 2), tiles, (4, 4, 32), DEVICE)
        out = op.attention_decode(q, layer.k, layer.v, table, own, running, prompts, p)
        torch.testing.assert_close(out[live], eager[live], rtol=1e-5, atol=1e-6)


def test_splits_fill_the_device_and_stop_at_the_context():
    assert [splits_for(rows, 8, 4096) for rows in (1, 16, 64, 256, 512)] == [32, 8, 2, 1, 1]
    assert splits_for(1, 8, 100) == 1
    assert splits_for(1, 1, 10**6) == 64


class TestTiles:
    def test_every_row_with_a_prompt_stands_in_one_tile_of_its_prompt(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            rows, prompts, members = rng.integers(1, 40), rng.integers(1, 12), rng.integers(1, 9)
            prompt_of = rng.integers(-1, prompts, rows)
            page, tokens = np.arange(prompts) * 7, rng.integers(1, 99, prompts)
            tiles = tile_count(rows, prompts, members)
            tile_rows, tile_page, tile_tokens = prompt_tiles(prompt_of, page, tokens, members, tiles)
            assert tile_rows.shape == (tiles, members) and tile_rows.dtype == tile_page.dtype == np.int32
            placed = tile_rows[tile_rows >= 0]
            assert sorted(placed) == np.flatnonzero(prompt_of >= 0).tolist()
            for held, first, count in zip(tile_rows, tile_page, tile_tokens, strict=True):
                of = {int(prompt_of[row]) for row in held if row >= 0}
                assert (count == 0) == (not of) and len(of) <= 1
                for prompt in of:
                    assert (first, count) == (page[prompt], tokens[prompt])

    def test_written_out(self):
        tile_rows, page, tokens = prompt_tiles(np.array([1, 0, -1, 1, 1]), np.array([3, 9]), np.array([50, 80]), 2, 4)
        assert tile_rows.tolist() == [[1, -1], [0, 3], [4, -1], [-1, -1]]
        assert (page.tolist(), tokens.tolist()) == ([3, 9, 9, 0], [50, 80, 80, 0])


class Recorder:
    """Takes a kernel's place and keeps what it was launched with."""

    def __init__(self, kernel, jobs):
        self.kernel, self.jobs = kernel, jobs

    def __getitem__(self, grid):
        def launch(*args, num_warps, **constexprs):
            signature = dict(zip(self.kernel.arg_names, map(triton_type, args), strict=False))
            constexprs |= {name: None for name, kind in signature.items() if kind is None}
            if "widen" in constexprs:
                constexprs["widen"] = False  # a CPU tensor's need
            # Both for the first shape; what differs in the others is no matter of the device.
            for capability in (80, 90) if len(self.jobs) < 6 else (90,):
                self.jobs.append(job(self.kernel, signature, constexprs, capability, num_warps=num_warps))

        return launch


def triton_type(value):
    names = {torch.int64: "*i64", torch.int32: "*i32", torch.bool: "*i1", torch.float32: "*fp32"}
    names |= {torch.float16: "*fp16", torch.bfloat16: "*bf16"}
    return "i32" if isinstance(value, int) else value if value is None else names[value.dtype]


def test_compiles_with_every_stage_in_flight(monkeypatch):
    jobs = []
    for name in ("_attend", "_combine"):
        monkeypatch.setattr(op, name, Recorder(getattr(op, name), jobs))
    for dtype, repeat, dim, members in [
        (torch.bfloat16, 4, 64, 16),
        (torch.bfloat16, 4, 64, 0),
        (torch.float16, 3, 128, 0),
        (torch.float32, 1, 32, 8),
    ]:
        case = Case([0], [3], [2], kv_heads=1, repeat=repeat, dim=dim, dtype=dtype)
        tiles = case.tiled(members).prompts.tile_rows.shape[0] if members else 0
        p = plan(1, repeat, 1, dim, dtype, 4096, DEVICE, tiles, prompt_context=512)
        op.attention_decode(*case.arguments(), p)
    for launched, compiled in zip(jobs, compile_all(jobs), strict=True):
        if launched["name"] == "_attend":
            c = launched["constexprs"]
            element = 4 if launched["signature"]["k"] == "*fp32" else 2
            # A pipeline that fell apart keeps one block in shared memory, or none.
            assert compiled["shared"] >= 2 * (c["stages"] - 1) * c["block"] * c["dim"] * element


def version(package):
    return tuple(map(int, package.__version__.split(".")[:2]))


@pytest.mark.skipif(
    version(triton) < (3, 7) and version(np) >= (2, 4),
    reason="the interpreter of Triton before 3.7 breaks with NumPy 2.4 (constraints/cuda.txt)",
)
def test_device_script_runs_dry(tmp_path):
    script = Path(__file__).parents[2] / "results" / "h100" / "attention_kernels.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), "--dry-run", "--csv", str(tmp_path / "out.csv")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CPU, dry run" in done.stdout
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kernel"] for row in rows} == {"attention_decode", "rope_append", "sdpa"}
