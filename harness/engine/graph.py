"""The native engine on a GPU: a whole decode step, sampling included, is one CUDA graph for each bucket of rows.

Refilling, forking and moving rows change data, never a graph. The host queues a window while the one before it runs
and looks at each as it ends, so that the device does not wait for it. Without a GPU the same step runs uncaptured,
which is how tests hold it against the plain engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from harness.engine.backend import PASS_TOKENS, Window, prefill_into
from harness.engine.device_state import DeviceState
from harness.engine.fused import FusedDecoder
from harness.kernels.random_words import problem_hash
from harness.kernels.sample_step import Sampling, sample_rows, sample_step_triton
from harness.models.resolve import LoadedModel
from harness.models.state import StatePlan, put
from harness.records import Budget

MOST_STEPS = 64  # of a window


@dataclasses.dataclass(frozen=True, slots=True)
class _Launched:
    """A queued window: host copies under way; on a GPU the events of its first step, its last and the copies' end."""

    host: tuple[torch.Tensor, ...]
    events: tuple[torch.cuda.Event, ...] | None


class GraphBackend:
    """``harness.engine.backend.Backend`` over fused kernels; arguments as those of ``EagerBackend``.

    ``state_dtype`` of the SSM states: fp32, or fp16 or bf16 rounded at each commit (``kernels.mamba2_ring``).
    ``fixed_rows``, at least ``slots``: every step runs so many rows, each prompt is prefilled alone and no row reads
    its prompt with another. All that rounds then sees the same shapes, so a chain's bits are the same at any batch up
    to it and in any slot; what fewer rows or shared prompts would save is lost.
    """

    depth = 2

    def __init__(
        self,
        model: LoadedModel,
        budget: Budget,
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        slots: int,
        ignore_eos: bool = False,
        state_dtype: torch.dtype = torch.float32,
        fixed_rows: int | None = None,
    ) -> None:
        self.model, self.budget, self.prompts, self.slots = model, budget, prompts, slots
        assert fixed_rows is None or slots <= fixed_rows, "a batch of at most the fixed rows"
        self.pass_tokens = PASS_TOKENS if fixed_rows is None else 1
        places = slots if fixed_rows is None else fixed_rows
        decoder = model.decoder
        self.device, dtype = decoder.device, decoder.embedding.weight.dtype
        self.draw = sample_rows(places, MOST_STEPS, [] if ignore_eos else list(model.codec.eos), self.device)
        plan = StatePlan(places, budget.max_new_tokens, tuple(map(len, prompts)))
        cascade = budget.samples_per_problem > 1 and fixed_rows is None
        self.state = DeviceState(decoder.config, plan, self.draw, dtype, state_dtype, self.device, cascade)
        self.fused = FusedDecoder(decoder, self.state)
        self.sampling = Sampling(budget.seed, budget.temperature, budget.top_k, budget.top_p, budget.max_new_tokens)
        vocab = decoder.config.vocab_size
        self.prompt_logits = torch.zeros(len(prompts), vocab, dtype=dtype, device=self.device)
        self.logits = torch.zeros(places, vocab, dtype=dtype, device=self.device)
        hashes = np.array([problem_hash(i) for i in ids], dtype=np.uint64).view(np.int64)
        self.prompt_hash = torch.as_tensor(hashes, device=self.device)
        self.reserved = np.zeros(places, dtype=np.int64)  # tokens a slot may hold once all queued windows are done
        self.released: list[int] = []
        self.busy_s: float | None = 0.0 if self.device.type == "cuda" else None  # of the device, in windows
        self.buckets = buckets(slots) if fixed_rows is None else [fixed_rows]
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._capture()

    def prefill(self, prompts: Sequence[int]) -> None:
        prefill_into(self.prompt_logits, self.model.decoder, self.state, self.prompts, prompts, self.pass_tokens)

    def fork(self, prompts: Sequence[int], samples: Sequence[int], slots: Sequence[int]) -> None:
        self._end_released()
        self.state.fork(prompts, slots)
        prompt, slot, sample = (put(np.asarray(t), self.device) for t in (prompts, slots, samples))
        self.logits[slot] = self.prompt_logits[prompt]
        self.draw.problem[slot] = self.prompt_hash[prompt]
        self.draw.sample[slot] = sample
        self.draw.generated.index_fill_(0, slot, 0)
        self.draw.ended.index_fill_(0, slot, False)
        self.reserved[list(slots)] = 0

    def release(self, slot: int) -> None:
        self.state.release(slot)
        self.released.append(slot)

    def _end_released(self) -> None:
        """Rows that only the host knows to have ended (at a stop string, say) stop on the device too."""
        if self.released:
            self.draw.ended.index_fill_(0, put(np.asarray(self.released), self.device), True)
            self.released.clear()

    def move(self, source: int, target: int) -> None:
        self._end_released()
        self.state.move(source, target)
        d = self.draw
        for tensor in (self.logits, d.problem, d.sample, d.generated, d.position, d.token, d.ended):
            tensor[target] = tensor[source]
        d.ended[source] = True
        self.reserved[target] = self.reserved[source]

    def draw_all(self) -> None:
        """One draw of every row that counts for nothing: what sampling costs can be timed by it."""
        rows = dataclasses.replace(
            self.draw, ended=torch.zeros_like(self.draw.ended), generated=torch.zeros_like(self.draw.generated),
            position=torch.zeros_like(self.draw.position), token=torch.zeros_like(self.draw.token),
        )  # fmt: skip
        sample_step_triton(self.logits, rows, self.sampling)

    def window(self, rows: int, steps: int) -> Window:
        return self.collect(self.launch(rows, steps))

    @torch.inference_mode()
    def launch(self, rows: int, steps: int) -> _Launched:
        """At most ``MOST_STEPS`` steps."""
        assert steps <= MOST_STEPS, "the window's buffers are fixed"
        bucket = next(b for b in self.buckets if b >= rows)
        self._end_released()
        self.reserved[:rows] += steps
        self.state.plan_window(self.reserved)
        before = self.draw.generated[:rows].clone()
        self.draw.step.zero_()
        on_gpu = self.device.type == "cuda"
        events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(3)) if on_gpu else None
        if events:
            events[0].record()
        for _ in range(steps):
            if self.graphs:
                self.graphs[bucket].replay()
            else:
                self.step(bucket)
        if events:
            events[1].record()
        count = self.draw.generated[:rows] - before
        parts = (self.draw.tokens[:steps, :rows], self.draw.logprobs[:steps, :rows], count)
        # Copied away in order with the steps: the next window's may be queued before these are looked at.
        host = tuple(torch.empty(t.shape, dtype=t.dtype, pin_memory=on_gpu) for t in parts)
        for target, part in zip(host, parts, strict=True):
            target.copy_(part, non_blocking=True)
        if events:
            events[2].record()
        return _Launched(host, events)

    def collect(self, launched: _Launched) -> Window:
        if launched.events and self.busy_s is not None:
            began, ended, copied = launched.events
            copied.synchronize()
            self.busy_s += began.elapsed_time(ended) / 1000
        return Window(*(t.numpy() for t in launched.host))

    def step(self, rows: int) -> None:
        """One step of rows [0, rows), as captured: a draw from their logits, then all layers."""
        sample_step_triton(self.logits[:rows], self.draw, self.sampling)
        self.state.begin_layers(rows)
        self.fused.step(self.draw.token[:rows], self.logits[:rows])

    @torch.inference_mode()
    def _capture(self) -> None:
        """Capture every bucket, the largest first, into one memory pool. All rows have ended: nothing changes."""
        for rows in self.buckets:
            self.fused.plan(rows)
        if self.device.type != "cuda":
            return
        pool = torch.cuda.graph_pool_handle()
        for rows in reversed(self.buckets):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.step(rows)  # compiles the kernels and lets cuBLAS choose its workspace outside the capture
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self.step(rows)
            self.graphs[rows] = graph


def buckets(slots: int) -> list[int]:
    """Row counts that get a graph: 1, 2, 4, 8, ... with a half step from 32 on, and ``slots`` itself."""
    sizes = {1 << e for e in range(slots.bit_length())} | {3 << e for e in range(4, slots.bit_length())}
    return sorted({s for s in sizes if s < slots} | {slots})
