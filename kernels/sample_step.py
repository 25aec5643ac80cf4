"""The end of a decode step on the device: draw, then the tests that end a row, then its counters.

token_t is drawn at position = generated; then generated += 1, and the row ends when the token is one of
the end tokens or generated reaches the limit. Rows that ended before keep their token and counters:
their places in the window are not written. ``sample_step`` is the plain twin of ``sample_step_triton``,
which is two launches, three where top-k or top-p is on, with no copy of the logits and no noise in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .random_words import philox_words, row_words, seed_words
from .sample import GROUP, Partials, best_piece, draw_triton, sample, token_of
from .sample_filter import filter_triton


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a run fixes: 64-bit ``seed``, ``temperature`` (0: greedy), ``top_k`` (0: off), ``top_p`` (1: off)."""

    seed: int
    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Device tensors that a step reads and moves on; row i of a step's logits is slot i.

    ``problem`` (64-bit hash), ``sample``, ``generated``, ``position``, ``token`` int64 [slots] and ``ended``
    bool [slots]; ``position`` is ``generated`` before this step, ``token`` the step's input to the model.
    ``eos`` int64 [n], n of 0 to 8. The window: ``step`` int64 [1], the next row of ``tokens`` int64 and
    ``logprobs`` fp32 [steps, slots]; beyond the last nothing is written. The host sets ``step`` to 0.
    """

    problem: torch.Tensor
    sample: torch.Tensor
    generated: torch.Tensor
    position: torch.Tensor
    token: torch.Tensor
    ended: torch.Tensor
    eos: torch.Tensor
    step: torch.Tensor
    tokens: torch.Tensor
    logprobs: torch.Tensor

    def __post_init__(self) -> None:
        slots = self.problem.shape[0]
        vectors = (self.problem, self.sample, self.generated, self.position, self.token)
        for t, shape in [(t, (slots,)) for t in vectors] + [(self.tokens, self.logprobs.shape), (self.step, (1,))]:
            if t.dtype != torch.int64 or t.shape != shape or not t.is_contiguous():
                raise ValueError(f"sampling rows: {t.dtype} {tuple(t.shape)}; want contiguous int64 {tuple(shape)}")
        if self.ended.dtype != torch.bool or self.ended.shape != (slots,) or not self.ended.is_contiguous():
            raise ValueError(f"ended: {self.ended.dtype} {tuple(self.ended.shape)}; want contiguous bool {(slots,)}")
        if self.logprobs.dtype != torch.float32 or self.logprobs.shape[1:] != (slots,):
            raise ValueError(f"logprobs: {self.logprobs.dtype} {tuple(self.logprobs.shape)}; want fp32 [steps, slots]")
        if self.eos.dtype != torch.int64 or self.eos.dim() != 1 or len(self.eos) > EOS_MAX:
            raise ValueError(f"eos: {self.eos.dtype} {tuple(self.eos.shape)}; want int64, at most {EOS_MAX} ids")


EOS_MAX = 8


def sample_rows(slots: int, steps: int, eos: list[int], device: torch.device | str) -> SampleRows:
    """Rows that have all ended, and a window of ``steps``."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=device)

    return SampleRows(
        problem=zeros(slots),
        sample=zeros(slots),
        generated=zeros(slots),
        position=zeros(slots),
        token=zeros(slots),
        ended=torch.ones(slots, dtype=torch.bool, device=device),
        eos=torch.tensor(eos, dtype=torch.int64, device=device),
        step=zeros(1),
        tokens=zeros(steps, slots),
        logprobs=torch.zeros(steps, slots, dtype=torch.float32, device=device),
    )


def sample_step(logits: torch.Tensor, rows: SampleRows, sampling: Sampling) -> None:
    """One step of rows [0, n) from ``logits`` [n, vocab], in plain PyTorch; changes ``rows`` in place."""
    n, s = logits.shape[0], sampling
    generated, ended, at = rows.generated[:n], rows.ended[:n], int(rows.step)
    running = ~ended
    words = row_words(s.seed, generated, rows.sample[:n], rows.problem[:n])
    token, logprob = sample(logits, words, s.temperature, s.top_k, s.top_p)
    rows.position[:n] = generated
    generated += running
    ended |= torch.isin(token, rows.eos) | (generated >= s.max_new_tokens)
    slots = running.nonzero().squeeze(-1)
    rows.token[slots] = token[slots]
    if at < rows.tokens.shape[0]:
        rows.tokens[at, slots] = token[slots]
        rows.logprobs[at, slots] = logprob[slots].float()
    rows.step.add_(1)


@triton.jit(do_not_specialize=["seed_lo", "seed_hi"])
def _finish_kernel(
    score,
    entry,
    top_in,
    total_in,
    filtered_token,
    logits,
    row_stride,
    vocab_size,
    problem,
    sample,
    generated,
    position,
    token_out,
    ended,
    eos,
    eos_count,
    step,
    steps,
    tokens,
    logprobs,
    slots,
    max_new_tokens,
    pieces,
    seed_lo,
    seed_hi,
    inverse_temperature,
    block: tl.constexpr,
    eos_block: tl.constexpr,
    group: tl.constexpr,
    greedy: tl.constexpr,
    filtering: tl.constexpr,
):
    row = tl.program_id(0)
    at = tl.load(generated + row)
    tl.store(position + row, at)
    if tl.load(ended + row).to(tl.int32) != 0:
        return
    base = logits + row.to(tl.int64) * row_stride
    if filtering:
        token = tl.load(filtered_token + row)
    else:
        token = best_piece(score + row * pieces, entry + row * pieces, pieces, block)
        if not greedy:
            r0, r1, _, _ = philox_words(at, tl.load(sample + row), tl.load(problem + row), seed_lo, seed_hi)
            token = token_of(token, base, vocab_size, r0, r1, inverse_temperature, group)
    piece = tl.arange(0, block)
    inside = piece < pieces
    tops = tl.load(top_in + row * pieces + piece, mask=inside, other=float("-inf"))
    totals = tl.load(total_in + row * pieces + piece, mask=inside, other=0.0)
    top = tl.max(tops, axis=0)
    reference = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(totals * tl.exp(tops - reference), axis=0)
    x = tl.load(base + token).to(tl.float32)
    # The draw has raised the step already.
    place = tl.load(step) - 1
    if place < steps:
        tl.store(tokens + place * slots + row, token.to(tl.int64))
        tl.store(logprobs + place * slots + row, x - reference - tl.log(total))
    tl.store(token_out + row, token.to(tl.int64))
    tl.store(generated + row, at + 1)
    end = tl.arange(0, eos_block)
    ends = tl.load(eos + end, mask=end < eos_count, other=-1)
    is_end = tl.max((ends == token).to(tl.int32), axis=0)
    tl.store(ended + row, ((is_end > 0) | (at + 1 >= max_new_tokens)).to(tl.int1))


def sample_step_triton(logits: torch.Tensor, rows: SampleRows, sampling: Sampling) -> None:
    """``sample_step`` on the device, for a CUDA graph: fixed grids, no host sync, workspaces by torch.empty.

    logits [n, vocab] in bf16, fp16 or fp32, rows any stride apart, n at most the slots.
    """
    n, s = logits.shape[0], sampling
    if logits.stride(1) != 1 or not 0 < n <= rows.problem.shape[0]:
        raise ValueError(
            f"logits {tuple(logits.shape)} strides {logits.stride()}; want contiguous rows, at most {len(rows.problem)}"
        )
    seed = seed_words(s.seed)
    counters = (rows.problem, rows.sample, rows.generated, rows.ended)
    partials = draw_triton(logits, *counters, rows.step, seed, s.temperature)
    filtering = s.temperature > 0 and (0 < s.top_k < logits.shape[1] or s.top_p < 1)
    token = None
    if filtering:
        token = filter_triton(partials, logits, *counters, seed, s.temperature, s.top_k, s.top_p)
    finish_triton(partials, token, logits, rows, sampling)


def finish_triton(
    partials: Partials, filtered: torch.Tensor | None, logits: torch.Tensor, rows: SampleRows, sampling: Sampling
) -> None:
    """The token in its group, log probability, window, end tests, counters; ``filtered`` int32 [n] if filters drew."""
    steps, slots = rows.tokens.shape
    pieces = partials.score.shape[1]
    _finish_kernel[(logits.shape[0],)](
        partials.score,
        partials.entry,
        partials.top,
        partials.total,
        partials.entry if filtered is None else filtered,
        logits,
        logits.stride(0),
        logits.shape[1],
        rows.problem,
        rows.sample,
        rows.generated,
        rows.position,
        rows.token,
        rows.ended,
        rows.eos,
        len(rows.eos),
        rows.step,
        steps,
        rows.tokens,
        rows.logprobs,
        slots,
        sampling.max_new_tokens,
        pieces,
        *seed_words(sampling.seed),
        1 / sampling.temperature if sampling.temperature else 0.0,
        block=triton.next_power_of_2(pieces),
        eos_block=EOS_MAX,
        group=GROUP,
        greedy=sampling.temperature == 0,
        filtering=filtered is not None,
        num_warps=4,
        enable_fp_fusion=False,  # score and noise are rounded one by one, as the twin does
    )
