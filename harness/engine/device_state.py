"""What the native engine keeps on the device: slots, pages, states and rings, all allocated before the clock starts.

Row s of every vector is slot s. A step reads all that varies (positions, pages, tiles, who runs) from these tensors, so
that one captured step serves whatever the host deals to the slots between looks. Prompts are prefilled once into places
of their own; forking copies no key, value or SSM state (``kernels.mamba2_ring``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from harness.kernels.attention_decode import Prompts
from harness.kernels.attention_plan import plan as attention_plan
from harness.kernels.attention_plan import prompt_tiles, tile_count
from harness.kernels.mamba1_conv import Places
from harness.kernels.mamba1_step import FP16_MAX
from harness.kernels.mamba2_ring import Memory, Rows, ring_length
from harness.kernels.sample_step import SampleRows, sample_rows
from harness.models.config import DecoderConfig, Mamba1Config, MambaConfig
from harness.models.state import AttentionState, PageTable, StatePlan, put

# Queries of one prompt that read its pages together: what a tile of a product holds.
TILE_QUERIES = 64


class MambaSlots:
    """One Mamba-2 layer's memory: rings and states of slots, snapshots and convolution tails of prompts."""

    def __init__(
        self, config: MambaConfig, discrete: bool, plan: StatePlan, dtype: torch.dtype, state_dtype: torch.dtype,
        device: torch.device,
    ) -> None:  # fmt: skip
        shape, parts = (config.heads, config.head_dim, config.state), config.conv_parts
        length = ring_length(shape, parts[0] + parts[1], state_dtype, dtype)
        prompts = len(plan.prompt_tokens)
        self.slots = plan.slots
        self.memory = Memory.allocate(
            plan.slots, prompts, shape, parts, length, config.conv, discrete, dtype, state_dtype, device
        )
        self.tails = torch.zeros(prompts, config.conv - 1, config.conv_channels, dtype=dtype, device=device)

    def write_prompts(self, places: torch.Tensor, conv: torch.Tensor, ssm: torch.Tensor) -> None:
        """``Decoder.prefill`` hands over the convolution's last inputs and the states behind n prompts: [n, ...]."""
        self.tails[places] = conv
        self.memory.write(self.slots + places, ssm)

    def fork(self, prompts: torch.Tensor, slots: torch.Tensor, position0: torch.Tensor) -> None:
        self.memory.fork_conv(self.tails[prompts], slots, position0)

    def move(self, source: int, target: int) -> None:
        self.memory.move(source, target)

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes + self.tails.nbytes


class Mamba1Slots:
    """One Mamba-1 layer's places: those of slots, of prompts behind them, and a last one that padding writes to.

    ``ring`` [places, conv, xb] holds raw inputs, ``ssm`` [places, inner, N] states, both written at each step; a row's
    first step reads its prompt's place and writes its own (``DeviceState.places``), so forking copies nothing.
    """

    def __init__(
        self, config: Mamba1Config, plan: StatePlan, dtype: torch.dtype, state_dtype: torch.dtype, device: torch.device
    ) -> None:
        self.slots = plan.slots
        places = scratch_place(plan) + 1
        self.ring = torch.zeros(places, *config.conv_shape, dtype=dtype, device=device)
        self.ssm = torch.zeros(places, *config.ssm_shape, dtype=state_dtype, device=device)
        self.saturated = torch.zeros(1, dtype=torch.int32, device=device)

    def write_prompts(self, places: torch.Tensor, conv: torch.Tensor, ssm: torch.Tensor) -> None:
        """``Decoder.prefill`` hands over the rings and states behind n prompts: [n, ...]."""
        self.ring[self.slots + places] = conv
        if self.ssm.dtype == torch.float16:
            self.saturated.add_((ssm.abs() > FP16_MAX).sum())
            ssm = ssm.clamp(-FP16_MAX, FP16_MAX)
        self.ssm[self.slots + places] = ssm.to(self.ssm.dtype)

    def move(self, source: int, target: int) -> None:
        self.ring[target], self.ssm[target] = self.ring[source], self.ssm[source]

    @property
    def nbytes(self) -> int:
        return self.ring.nbytes + self.ssm.nbytes + self.saturated.nbytes


LayerSlots: TypeAlias = AttentionState | MambaSlots | Mamba1Slots


def scratch_place(plan: StatePlan) -> int:
    """The place behind those of slots and prompts."""
    return plan.slots + len(plan.prompt_tokens)


class DeviceState:
    """State of ``plan.slots`` slots and of all prompts; ``cascade``: rows of a prompt read its pages together.

    ``draw`` holds what sampling knows of a slot: its sample number, the tokens generated and, as ``position``, those of
    them that lie behind the prompt while a step's layers run.
    """

    def __init__(
        self, config: DecoderConfig, plan: StatePlan, draw: SampleRows, dtype: torch.dtype, state_dtype: torch.dtype,
        device: torch.device, cascade: bool,
    ) -> None:  # fmt: skip
        self.plan, self.device, self.state_dtype, self.cascade = plan, device, state_dtype, cascade
        self.layers: list[LayerSlots] = []
        for kind in config.layers:
            if kind == "attention":
                self.layers.append(AttentionState(config, plan, dtype, device))
            elif kind == "mamba1":
                assert config.mamba1 is not None
                self.layers.append(Mamba1Slots(config.mamba1, plan, dtype, state_dtype, device))
            else:
                assert config.mamba is not None
                discrete = kind == "discrete_mamba2"
                self.layers.append(MambaSlots(config.mamba, discrete, plan, dtype, state_dtype, device))
        self.attends = any(isinstance(layer, AttentionState) for layer in self.layers)
        self.pages = PageTable(plan)
        self.prompt_of = np.full(plan.slots, -1, dtype=np.int64)
        self.prompt_tokens = np.asarray(plan.prompt_tokens, dtype=np.int64)
        self.first_page = np.concatenate(([0], np.cumsum(plan.prompt_pages()))).astype(np.int64)

        def vector() -> torch.Tensor:
            return torch.zeros(plan.slots, dtype=torch.int32, device=device)

        self.draw = draw
        self.prompt_length, self.prompt_page = vector(), vector()
        running = torch.zeros(plan.slots, dtype=torch.bool, device=device)
        self.rows = Rows(vector(), self.prompt_length, draw.sample, vector(), running)
        self.places: Places | None = None
        if any(isinstance(layer, Mamba1Slots) for layer in self.layers):
            self.own = torch.arange(plan.slots, device=device)
            self.scratch = torch.tensor(scratch_place(plan), device=device)
            self.places = Places(self.own.clone(), self.own.clone())
        self.table = torch.full((plan.slots, plan.slot_pages), self.pages.scratch, dtype=torch.int32, device=device)
        a = config.attention
        self.members = 1 if a is None else max(1, TILE_QUERIES * a.kv_heads // a.heads)
        self.tiles = tile_count(plan.slots, len(plan.prompt_tokens), self.members) if cascade and self.attends else 0
        self.tile_rows = torch.full((self.tiles, self.members), -1, dtype=torch.int32, device=device)
        self.tile_page, self.tile_tokens = (torch.zeros(self.tiles, dtype=torch.int32, device=device) for _ in range(2))

    def saturated(self) -> int:
        """Entries of fp16 states that were clamped to its range since the state was made, warm-up included."""
        counters = [
            layer.memory.saturated if isinstance(layer, MambaSlots) else layer.saturated
            for layer in self.layers
            if not isinstance(layer, AttentionState)
        ]
        return int(torch.cat(counters).sum()) if counters else 0

    def prompts(self, layer: AttentionState) -> Prompts:
        """The prompts of one layer as ``attention_decode`` takes them."""
        tiles = (self.tile_rows, self.tile_page, self.tile_tokens) if self.tiles else (None, None, None)
        return Prompts(layer.prompt_k, layer.prompt_v, self.prompt_page, self.prompt_length, *tiles)

    def fork(self, prompts: Sequence[int], slots: Sequence[int]) -> None:
        """Hand prefilled prompts to free slots (one prompt a slot; a prompt may go to many)."""
        chosen = np.asarray(prompts)
        self.prompt_of[list(slots)] = chosen
        slot, prompt = put(np.asarray(slots), self.device), put(chosen, self.device)
        self.prompt_length[slot] = put(self.prompt_tokens[chosen].astype(np.int32), self.device)
        self.prompt_page[slot] = put(self.first_page[chosen].astype(np.int32), self.device)
        self.rows.snapshot[slot] = put((self.plan.slots + chosen).astype(np.int32), self.device)
        for layer in self.layers:
            if isinstance(layer, MambaSlots):
                layer.fork(prompt, slot, self.prompt_length[slot])

    def release(self, slot: int) -> None:
        self.prompt_of[slot] = -1
        self.pages.release(slot)

    def move(self, source: int, target: int) -> None:
        """Give a free slot the place of another row (the rows in use stay a prefix)."""
        self.prompt_of[target], self.prompt_of[source] = self.prompt_of[source], -1
        self.pages.move(source, target)
        for vector in (self.prompt_length, self.prompt_page, self.rows.snapshot):
            vector[target] = vector[source]
        for layer in self.layers:
            if not isinstance(layer, AttentionState):
                layer.move(source, target)

    def plan_window(self, tokens: np.ndarray) -> None:
        """Reserve pages for ``tokens`` generated tokens of each slot in use and upload who reads what."""
        if not self.attends:
            return
        live = np.flatnonzero(self.prompt_of >= 0)
        self.pages.reserve(live, tokens[live])
        self.table.copy_(put(self.pages.table.astype(np.int32), self.device))
        if self.tiles:
            laid_out = prompt_tiles(self.prompt_of, self.first_page[:-1], self.prompt_tokens, self.members, self.tiles)
            for buffer, new in zip((self.tile_rows, self.tile_page, self.tile_tokens), laid_out, strict=True):
                buffer.copy_(put(new, self.device))

    def begin_layers(self, rows: int) -> None:
        """Behind the draw: who runs and at which position, computed on the device."""
        torch.add(self.prompt_length[:rows], self.draw.position[:rows], out=self.rows.position[:rows])
        torch.logical_not(self.draw.ended[:rows], out=self.rows.running[:rows])
        if self.places is not None:
            ended, own = self.draw.ended[:rows], self.own[:rows]
            # A row's first step reads its prompt's place.
            source = torch.where(self.draw.position[:rows] == 0, self.rows.snapshot[:rows], own)
            torch.where(ended, self.scratch, source, out=self.places.source[:rows])
            torch.where(ended, self.scratch, own, out=self.places.target[:rows])


def planned_bytes(
    config: DecoderConfig, prompts: Sequence[int], new_tokens: int, slots: int, dtype: torch.dtype,
    state_dtype: torch.dtype,
) -> int:  # fmt: skip
    """What ``slots`` slots take on the device, prompts, logits and a step's largest temporaries with them."""
    meta = torch.device("meta")
    plan = StatePlan(slots, new_tokens, tuple(prompts))
    state = DeviceState(config, plan, sample_rows(slots, 1, [], meta), dtype, state_dtype, meta, cascade=True)
    total = sum(
        layer.k.nbytes + layer.v.nbytes + layer.prompt_k.nbytes + layer.prompt_v.nbytes
        if isinstance(layer, AttentionState)
        else layer.nbytes
        for layer in state.layers
    )
    total += (slots + len(prompts)) * config.vocab_size * dtype.itemsize
    if config.attention is not None and state.attends:
        a = config.attention
        room = attention_plan(
            max(1, slots),
            a.heads,
            a.kv_heads,
            a.head_dim,
            dtype,
            new_tokens,
            meta,
            state.tiles,
            max(prompts, default=0),
        )
        total += sum(t.nbytes for t in (room.value, room.top, room.total))
        total += slots * (a.heads + 2 * a.kv_heads) * a.head_dim * dtype.itemsize
    widest = 3 * config.mlp + 2 * config.width
    if config.mamba is not None:
        widest = max(widest, config.mamba.conv_channels + 2 * config.mamba.inner + config.mamba.heads)
    if config.mamba1 is not None:
        # Its first projection, then dt behind its own and u or y beside that.
        widest = max(widest, 2 * config.mamba1.raw + 4 * config.mamba1.inner + config.mamba1.dt_rank)
    return total + slots * widest * dtype.itemsize
