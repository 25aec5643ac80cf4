"""The decode state of one model: its layers' states under one page table, and the index of each step.

The host decides between looks (``fork``, ``release``, ``move``, ``plan_window``); inside a window
everything a step needs is on the device and ``step_index`` moves no data to the host.
"""

from __future__ import annotations

import numpy as np
import torch

from harness.models.config import DecoderConfig
from harness.models.state import (
    PAGE_TOKENS,
    AttentionState,
    MambaState,
    PageTable,
    StatePlan,
    StepIndex,
    contiguous_ranges,
)


class DecodeState:
    """State for ``plan.slots`` slots and ``len(plan.prompt_tokens)`` prompts.

    ``state_dtype`` is that of the SSM states (fp32 unless the model runs in float64), recorded in
    the manifest: a 16-bit state changes accuracy.
    """

    def __init__(
        self,
        config: DecoderConfig,
        plan: StatePlan,
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.plan, self.device = plan, device
        self.layers: list[AttentionState | MambaState] = [
            AttentionState(config, plan, dtype, device)
            if kind == "attention"
            else MambaState(config, plan, dtype, state_dtype, device)
            for kind in config.layers
        ]
        self.attends = any(isinstance(layer, AttentionState) for layer in self.layers)
        self.table = PageTable(plan)
        self.prompt_tokens = np.asarray(plan.prompt_tokens, dtype=np.int64)
        self.first_prompt_page = np.concatenate(([0], np.cumsum(plan.prompt_pages()))).astype(np.int64)
        self.prompt_of = np.full(plan.slots, -1, dtype=np.int64)
        self.prompt_length = torch.zeros(plan.slots, dtype=torch.int64, device=device)
        self._window: _Window | None = None

    def fork(self, prompts: list[int], slots: list[int]) -> None:
        """Hand prefilled prompts to free slots (one prompt a slot; a prompt may go to many)."""
        self.prompt_of[slots] = prompts
        prompt, slot = (torch.tensor(t, device=self.device) for t in (prompts, slots))
        self.prompt_length[slot] = torch.as_tensor(self.prompt_tokens[prompts], device=self.device)
        for layer in self.layers:
            if isinstance(layer, MambaState):
                layer.fork(prompt, slot)

    def release(self, slot: int) -> None:
        self.prompt_of[slot] = -1
        self.table.release(slot)

    def move(self, source: int, target: int) -> None:
        """Give a free slot the place of another row (the rows in use stay a prefix)."""
        self.prompt_of[target], self.prompt_of[source] = self.prompt_of[source], -1
        self.prompt_length[target] = self.prompt_length[source]
        self.table.move(source, target)
        for layer in self.layers:
            if isinstance(layer, MambaState):
                layer.move(source, target)

    def plan_window(self, rows: int, generated: np.ndarray, steps: int) -> None:
        """Reserve what rows [0, rows) need for ``steps`` more tokens and lay out who reads which page.

        ``generated`` int64 [slots]: tokens each slot holds behind its prompt now.
        """
        if self.attends:
            for slot in np.flatnonzero(self.prompt_of[:rows] >= 0):
                self.table.reserve(int(slot), int(generated[slot]) + steps)
        self._window = _Window(self, rows)

    def step_index(self, generated: torch.Tensor, running: torch.Tensor) -> StepIndex:
        """Index of one step: ``generated`` int64 [rows], ``running`` bool [rows] (others write to scratch)."""
        assert self._window is not None, "plan_window comes before step_index"
        return self._window.step(generated, running)


class _Window:
    """The page layout that holds from one look to the next."""

    def __init__(self, state: DecodeState, rows: int) -> None:
        self.rows, self.device = rows, state.device
        self.scratch = state.table.scratch
        self.attends = state.attends
        self.prompt_length = state.prompt_length[:rows]
        if not self.attends:
            return
        self.table = self._put(state.table.table[:rows])
        used, owner, first = state.table.in_use()
        owner[owner >= rows] = -1
        self.used = used
        self.own_rows = self._put(np.where(owner < 0, rows, owner)[:, None])
        self.own_owner = self._put(np.maximum(owner, 0))
        # A page without an owner starts beyond any position, so none of its tokens is valid.
        self.own_first = self._put(np.where(owner < 0, np.iinfo(np.int64).max // 2, first))
        pieces = [list(map(int, state.table.table[s, : state.table.count[s]])) for s in range(rows)]
        self.prompt_ranges, total = self._prompts(state, rows, pieces, used)
        width = max(map(len, pieces))
        flat = np.full((rows, max(width, 1)), total, dtype=np.int64)
        for row, mine in enumerate(pieces):
            flat[row, : len(mine)] = mine
        self.pieces = self._put(flat)

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device)

    def _prompts(
        self, state: DecodeState, rows: int, pieces: list[list[int]], offset: int
    ) -> tuple[list[tuple[int, int, torch.Tensor, torch.Tensor]], int]:
        """Ranges of prompt pages in use with the rows each page serves; adds their pieces to ``pieces``."""
        members: dict[int, list[int]] = {}
        for row in np.flatnonzero(state.prompt_of[:rows] >= 0):
            members.setdefault(int(state.prompt_of[row]), []).append(int(row))
        first_page = state.first_prompt_page
        owner = {page: p for p in members for page in range(first_page[p], first_page[p + 1])}
        ranges = []
        for first, last in contiguous_ranges(list(owner), most=2):
            most = max(len(members[owner[page]]) for page in range(first, last) if page in owner)
            served = np.full((last - first, most), rows, dtype=np.int64)
            valid = np.zeros(last - first, dtype=np.int64)
            for page in range(first, last):
                if page not in owner:
                    continue
                prompt = owner[page]
                mine = members[prompt]
                served[page - first, : len(mine)] = mine
                behind = (page - first_page[prompt]) * PAGE_TOKENS
                valid[page - first] = min(PAGE_TOKENS, state.prompt_tokens[prompt] - behind)
                for place, row in enumerate(mine):
                    pieces[row].append(offset + (page - first) * most + place)
            ranges.append((first, last, self._put(served), self._put(valid)))
            offset += (last - first) * most
        return ranges, offset

    def step(self, generated: torch.Tensor, running: torch.Tensor) -> StepIndex:
        position = self.prompt_length + generated
        if not self.attends:
            none = generated.new_zeros(0)
            return StepIndex(self.rows, position, none, none, 0, none, none, [], none)
        place = (generated // PAGE_TOKENS).clamp_max(self.table.shape[1] - 1)
        page = self.table.gather(1, place[:, None]).squeeze(1).where(running, self.scratch)
        valid = (generated[self.own_owner] + running[self.own_owner] - self.own_first).clamp(0, PAGE_TOKENS)
        return StepIndex(
            rows=self.rows,
            position=position,
            page=page,
            offset=generated % PAGE_TOKENS,
            own_pages=self.used,
            own_rows=self.own_rows,
            own_valid=valid,
            prompt_ranges=self.prompt_ranges,
            pieces=self.pieces,
        )
