"""Rivals of ``ring_kernels.py``: vLLM's ReplaySSM (Triton) and FlashInfer's checkpointing_ssu (CUDA).

Both hold the inputs since the last commit in a ring and write the state every K-th step, as ``mamba2_step`` does.
Each class calls one as vLLM's MambaMixer2 does, and gives it z besides, which that layer takes to its norm.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import softplus

PADDING = 1  # slots before the rows' own: both callers keep slot 0 for padding


class _Platform:
    """What vLLM's files ask of the machine: no other vendor's, and its compute capability."""

    def __getattr__(self, _: str) -> Callable[..., bool]:
        return lambda: False

    def is_device_capability_family(self, family: int) -> bool:
        return torch.cuda.is_available() and 10 * torch.cuda.get_device_capability()[0] == family


@functools.cache
def _replayssm() -> tuple[Callable, dict[str, tuple]]:
    """vLLM's function and the table that overrides its launches, without the rest of vLLM.

    Its files import the engine's platform, log and settings; what they use of them here is set below.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("vllm is not installed")

    def module(name: str, **content: Any) -> None:
        made = sys.modules[name] = types.ModuleType(name)
        made.__dict__.update(content)

    folders, name = list(spec.submodule_search_locations), "vllm"
    module(name, __path__=folders, envs=None, _custom_ops=None)
    for part in ("model_executor", "layers", "mamba", "ops"):
        folders, name = [f"{folder}/{part}" for folder in folders], f"{name}.{part}"
        module(name, __path__=folders)
    for part in ("utils", "v1", "v1.attention", "v1.attention.backends"):
        module(f"vllm.{part}", __path__=[])
    module("vllm.envs")
    module("vllm._custom_ops")
    module("vllm.logger", init_logger=logging.getLogger)
    module("vllm.platforms", current_platform=_Platform())
    triton = importlib.import_module("triton")  # not before ``step_kernels`` has chosen the interpreter
    module("vllm.triton_utils", HAS_TRITON=True, triton=triton, tl=triton.language)
    module("vllm.utils.platform_utils", get_device_name_as_file_name=None)
    module("vllm.v1.attention.backends.utils", NULL_BLOCK_ID=0)
    config = importlib.import_module(f"{name}.replayssm_config")
    function = importlib.import_module(f"{name}.selective_state_update_replayssm_output_only")
    return function.selective_state_update_replayssm_output_only, config._overrides


@functools.cache
def _checkpointing_ssu() -> tuple[Callable, Callable]:
    """FlashInfer's function, whose first call compiles it for the shape, and the one that allocates its scratch."""
    if importlib.util.find_spec("flashinfer") is None:
        raise ImportError("flashinfer is not installed")
    functions = importlib.import_module("flashinfer.mamba.checkpointing_ssu")
    return functions.checkpointing_ssu, functions.allocate_checkpointing_ssu_scratch


class Rival:
    """A layer's weights, one step's inputs and the memory of ``cell.rows`` rows.

    x, B and C are parts of one tensor, as the convolution leaves them; dt is the end of the projection, z its start.
    The rings hold ``entries`` inputs a slot.
    """

    name: str

    def __init__(self, cell: Any, state_dtype: torch.dtype, length: int, entries: int, seed: int) -> None:
        self.cell, self.state_dtype, self.length, self.entries = cell, state_dtype, length, entries
        self.random = torch.Generator(cell.device).manual_seed(seed)
        (heads, dim, size), rows, slots = cell.shape, cell.rows, cell.rows + PADDING
        exact = torch.float32
        self.a = self._draw(heads, dtype=exact).exp().neg()[:, None, None].expand(heads, dim, size)
        self.bias, self.d = (self._draw(heads, dtype=exact)[:, None].expand(heads, dim) for _ in range(2))
        self.channels = self._draw(rows, sum(cell.parts))
        self.projected = self._draw(rows, sum(cell.parts) + cell.inner + heads)
        x, b, c = self.channels.split(cell.parts, dim=1)
        self.x, self.b, self.c = x.view(rows, heads, dim), *(t.view(rows, cell.groups, size) for t in (b, c))
        self.z = self.projected[:, : cell.inner].view(rows, heads, dim)
        self.dt = self.projected[:, -heads:, None].expand(rows, heads, dim)
        self.out = torch.empty(rows, heads, dim, device=cell.device, dtype=cell.dtype)
        self.state = self._draw(slots, *cell.shape, dtype=state_dtype)
        self.x_ring = self._draw(slots, heads, entries, dim)
        self.b_ring = self._draw(slots, cell.groups, entries, size)
        self.dt_ring = softplus(self._draw(slots, heads, entries, dtype=exact))
        self.slots = torch.arange(PADDING, slots, device=cell.device, dtype=torch.int32)

    def _draw(self, *size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        drawn = torch.randn(size, generator=self.random, device=self.cell.device, dtype=torch.float32)
        return drawn.to(dtype or self.cell.dtype)

    def draw(self) -> None:
        """New inputs, in place."""
        for t in (self.channels, self.projected):
            t.copy_(self._draw(*t.shape))

    def at(self, phase: torch.Tensor) -> None:
        """Put row s at phase[s] mod K."""
        raise NotImplementedError

    def advance(self) -> None:
        """Move the cursors on by one step; vLLM does so once a model step, for all layers."""
        raise NotImplementedError

    def filled(self) -> torch.Tensor:
        """[rows]: entries that a step has to replay."""
        raise NotImplementedError

    def order(self, entry: int) -> torch.Tensor:
        """[rows]: where in the ring the entry-th of them lies, the oldest first."""
        raise NotImplementedError

    def run(self) -> torch.Tensor:
        raise NotImplementedError

    @classmethod
    def launches(cls, cell: Any) -> list[tuple[str, Any]]:
        """Names and settings of the launches to time, after the rival's own choice."""
        raise NotImplementedError

    @classmethod
    def use(cls, settings: Any) -> None:
        """Launch so from now on, which may change the process's environment; None: as the rival itself chooses."""
        raise NotImplementedError

    @classmethod
    @contextlib.contextmanager
    def using(cls, settings: Any) -> Iterator[None]:
        """``use``, and its own choice again afterwards."""
        cls.use(settings)
        try:
            yield
        finally:
            cls.use(None)


class ReplaySSM(Rival):
    """vLLM's selective_state_update_replayssm_output_only: two launches.

    The last of K steps commits and takes its own input along; the others append it. Rows have 0 ... K - 1 to replay.
    """

    name = "replayssm"

    def __init__(self, cell: Any, state_dtype: torch.dtype, length: int, seed: int = 0) -> None:
        super().__init__(cell, state_dtype, length, length, seed)
        self.products = torch.empty(cell.rows, cell.groups, length, device=cell.device)
        self.at(torch.arange(cell.rows, device=cell.device))

    def at(self, phase: torch.Tensor) -> None:
        self.position = (phase % self.length).to(torch.int32)
        self.commits = (self.position == self.length - 1).to(torch.int8)

    def advance(self) -> None:
        self.at(self.position + 1)

    def filled(self) -> torch.Tensor:
        return self.position

    def order(self, entry: int) -> torch.Tensor:
        return torch.full_like(self.position, entry)

    def run(self) -> torch.Tensor:
        update, _ = _replayssm()
        return update(
            *(self.state, self.x, self.dt, self.a, self.b, self.c, self.d, self.bias, self.z),
            dt_softplus=True,
            x_cache=self.x_ring,
            dt_cache=self.dt_ring,
            B_cache=self.b_ring,
            bc_pre=self.products,
            write_pos=self.position,
            is_flush=self.commits,
            max_cache_len=self.length,
            state_batch_indices=self.slots[:, None],
            null_block_id=0,
            out=self.out,
        )

    @classmethod
    def launches(cls, cell: Any) -> list[tuple[str, Any]]:
        """Around its own on Hopper, (16, 1, 64, all, 2), and on Blackwell, (64, 1, 32, 64, 2).

        Dims, warps, columns read at once, the same at a commit, stages. Stages are left at 2: its loops are unrolled,
        so Triton makes the same machine code of 1 to 4 (seen with 3.6 for sm_90, tile by tile).
        """
        tiles, columns = ((16, 1), (32, 1), (32, 2), (64, 1), (64, 2), (64, 4)), (32, 64, 128)
        every = [(*tile, read, commit, 2) for tile, read, commit in itertools.product(tiles, columns, columns)]
        name = "dims {}, warps {}, columns {}, at a commit {}, stages {}"
        return [(name.format(*e), e) for e in every if max(e[2:4]) <= cell.shape[2]]

    @classmethod
    def use(cls, settings: Any) -> None:
        _, overrides = _replayssm()
        overrides.clear()
        if settings is not None:
            overrides["mamba2_output_only"] = settings


class CheckpointingSSU(Rival):
    """FlashInfer's checkpointing_ssu: one launch, or two that overlap.

    A ring of K + 1. A step that finds K to replay commits those without its own input, which begins the next K: rows
    have 1 ... K to replay.
    """

    name = "checkpointing_ssu"
    options: Any = None

    def __init__(self, cell: Any, state_dtype: torch.dtype, length: int, seed: int = 0) -> None:
        super().__init__(cell, state_dtype, length, length + 1, seed)
        _, allocate = _checkpointing_ssu()
        self.scratch = allocate(cell.rows, cell.shape[0], 1, length, cell.dtype, cell.device)
        slots = torch.arange(cell.rows + PADDING, device=cell.device, dtype=torch.int32)
        self.start, self.count = slots % self.entries, torch.ones_like(slots)
        self.at(torch.arange(cell.rows, device=cell.device))

    def at(self, phase: torch.Tensor) -> None:
        self.count[PADDING:] = 1 + phase % self.length

    def advance(self) -> None:
        full = self.count + 1 > self.length
        self.start.copy_(torch.where(full, (self.start + self.count) % self.entries, self.start))
        self.count.copy_(torch.where(full, 1, self.count + 1))

    def filled(self) -> torch.Tensor:
        return self.count[PADDING:]

    def order(self, entry: int) -> torch.Tensor:
        return (self.start[PADDING:] + entry) % self.entries

    def run(self) -> torch.Tensor:
        update, _ = _checkpointing_ssu()
        memory = (self.state, self.x_ring, self.b_ring, self.dt_ring, self.start, self.count)
        x, dt, b, c, out, z = (t[:, None] for t in (self.x, self.dt, self.b, self.c, self.out, self.z))
        update(
            *(*memory, x, dt, self.a, b, c, out),
            D=self.d,
            z=z,
            dt_bias=self.bias,
            dt_softplus=True,
            state_batch_indices=self.slots,
            pad_slot_id=0,
            **dict(zip(("cb_scaled", "cumAdt_vec", "cb_old"), self.scratch, strict=True)),
            **(self.options or {}),
        )
        return self.out

    @classmethod
    def launches(cls, cell: Any) -> list[tuple[str, Any]]:
        """Of what its own tuner tries: every kind, at fewer numbers of blocks."""
        together = cell.shape[0] // cell.groups
        heads = [together >> n for n in range(together.bit_length()) if 4 <= together >> n <= 16 or together == 1]
        splits = [split for split in (1, 2) if cell.shape[1] // split >= 32]
        one = [(f"one kernel, split {s}", {"algorithm": "monolith", "d_split": s}) for s in splits]
        two = [
            (
                f"two kernels, split {s}, heads {h}, stages {n}, blocks {b}",
                {"algorithm": "two-kernel", "d_split": s, "precompute_heads_per_cta": h, "stages": n, "blocks": b},
            )
            for s, h, n, b in itertools.product(splits, heads, (1, 2), (4, 6, 8, 12, 16, 32))
        ]
        return one + two

    @classmethod
    def use(cls, settings: Any) -> None:
        cls.options = dict(settings or {})
        for option, variable in (("stages", "PIPELINE_STAGES"), ("blocks", "CTA_PER_SM")):
            os.environ[f"FLASHINFER_SSU_MAIN_{variable}"] = str(cls.options.pop(option, 0))  # 0: its own choice
