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
        self.plan, self.device, self.state_dtype = plan, device, state_dtype
        self.layers: list[AttentionState | MambaState] = [
            AttentionState(config, plan, dtype, device)
            if kind == "attention"
            else MambaState(config.recurrent(kind), plan, dtype, state_dtype, device)
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
            live = np.flatnonzero(self.prompt_of[:rows] >= 0)
            self.table.reserve(live, generated[live] + steps)
            sources, targets = (torch.as_tensor(t, device=self.device) for t in self.table.repack())
            if len(sources):
                for layer in self.layers:
                    if isinstance(layer, AttentionState):
                        layer.move_pages(sources, targets)
        self._window = _Window(self, rows)

    def step_index(self, generated: torch.Tensor, running: torch.Tensor) -> StepIndex:
        """Index of one step: ``generated`` int64 [rows], ``running`` bool [rows] (others write to scratch)."""
        assert self._window is not None, "plan_window comes before step_index"
        return self._window.step(generated, running)


class _Window:
    """The page layout that holds from one look to the next."""

    prompt_ranges: list[tuple[int, int, torch.Tensor, torch.Tensor]]

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
        prompt_pieces, total = self._prompts(state, rows, used)
        # One column at least, of "none": rows may all be at rest.
        width = max(1, int(state.table.count[:rows].max()))
        own = np.where(state.table.held()[:rows, :width], state.table.table[:rows, :width], total)
        self.pieces = self._put(np.concatenate((own, np.where(prompt_pieces < 0, total, prompt_pieces)), axis=1))

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device)

    def _prompts(self, state: DecodeState, rows: int, offset: int) -> tuple[np.ndarray, int]:
        """Lay out the prompt pages in use: ``prompt_ranges`` says which rows a page serves.

        Returns each row's pieces [rows, pages of the longest prompt] (-1: none), counted from
        ``offset``, and the number of pieces in all.
        """
        prompt_of = state.prompt_of[:rows]
        live = np.flatnonzero(prompt_of >= 0)
        first_page, page_count = state.first_prompt_page, np.diff(state.first_prompt_page)
        # Place of each live row among the rows of its prompt.
        order = live[np.argsort(prompt_of[live], kind="stable")]
        prompts, starts, counts = np.unique(prompt_of[order], return_index=True, return_counts=True)
        place = np.zeros(rows, dtype=np.int64)
        place[order] = np.arange(len(order)) - np.repeat(starts, counts)

        # All (row, page) pairs: which page, which row, and how many of its tokens are valid.
        spread = np.arange(int(page_count[prompts].max()) if len(prompts) else 0)
        has = spread < page_count[prompt_of[live]][:, None]
        pair_row = np.broadcast_to(live[:, None], has.shape)[has]
        pair_page = (first_page[prompt_of[live]][:, None] + spread)[has]
        pair_valid = np.minimum(PAGE_TOKENS, state.prompt_tokens[prompt_of[live]][:, None] - spread * PAGE_TOKENS)[has]
        pieces = np.full((rows, len(spread)), -1, dtype=np.int64)
        column = np.broadcast_to(spread, has.shape)[has]
        self.prompt_ranges = []
        for first, last in contiguous_ranges(pair_page, most=2):
            inside = (pair_page >= first) & (pair_page < last)
            row, page = pair_row[inside], pair_page[inside] - first
            most = int(place[row].max()) + 1
            served = np.full((last - first, most), rows, dtype=np.int64)
            served[page, place[row]] = row
            valid = np.zeros(last - first, dtype=np.int64)
            valid[page] = pair_valid[inside]
            pieces[row, column[inside]] = offset + page * most + place[row]
            self.prompt_ranges.append((first, last, self._put(served), self._put(valid)))
            offset += (last - first) * most
        return pieces, offset

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
