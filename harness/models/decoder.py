"""The one decoder: embedding, blocks from a layer list, norm, head. Teacher, hybrid and student alike.

``forward`` is the reference for whole sequences; ``prefill`` and ``step`` give the same logits from a
``DecodeState``: within 1e-4 (max|a-b| / max|b|) in fp32 and 4e-2 in bf16 (8e-2 with a gated norm).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import nn

from harness.kernels.rope import frequencies, tables
from harness.models.config import DecoderConfig
from harness.models.decode_state import DecodeState
from harness.models.layers import Block, RMSNorm
from harness.models.packing import pack_prompts
from harness.models.state import StatePlan, StepIndex


class HoldsLayers(Protocol):
    """A state with one memory for each layer, of the kind that the layer's mixer writes to."""

    plan: StatePlan

    @property
    def layers(self) -> Sequence[Any]: ...


class Decoder(nn.Module):
    """A causal language model of ``config``; parameters are named as in ``model.safetensors`` of our layout."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        # Its own initialisation would import torch's compiler (1 s); whoever makes a decoder fills its weights.
        self.embedding = nn.Embedding(
            config.vocab_size, config.width, _weight=torch.zeros(config.vocab_size, config.width)
        )
        blocks = nn.ModuleList(Block(config, kind) for kind in config.layers)
        self.blocks = cast("Sequence[Block]", blocks)  # a ModuleList alone would not say of what
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self._rope: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, tokens: torch.Tensor, collect: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Logits [batch, time, vocab] of int64 tokens [batch, time], padded on the right if at all.

        ``collect`` receives the input of the first block and the output of each block, in order.
        """
        x = self.embedding(tokens)
        cos, sin = (t[: tokens.shape[1], None] for t in self.rope_tables(x))
        if collect is not None:
            collect.append(x)
        for block in self.blocks:
            x = block(x, (cos, sin))
            if collect is not None:
                collect.append(x)
        return self.logits(x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(self.norm(x), weight)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], state: HoldsLayers, places: Sequence[int]) -> torch.Tensor:
        """Run whole prompts, packed without padding, into ``places`` of the state; logits [n, vocab] of what follows.

        All of them in one pass: the caller sees to it that memory holds so many tokens (``engine.backend``).
        """
        pack = pack_prompts(prompts, places, state.plan, self.config, self.device)
        x = self.embedding(pack.tokens)
        cos, sin = (t[pack.sequences.position, None] for t in self.rope_tables(x))
        for block, layer in self._with_states(state):
            x = block.feed(x + block.mixer.prefill(block.mixer_norm(x), (cos, sin), layer, pack))
        return self.logits(x[pack.last])

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor, state: DecodeState, index: StepIndex) -> torch.Tensor:
        """Logits [rows, vocab] behind int64 tokens [rows]; the state of rows [0, rows) moves on by one."""
        x = self.embedding(tokens)
        position = index.position.clamp_max(self.config.context - 1)
        cos, sin = (t[position, None] for t in self.rope_tables(x))
        for block, layer in self._with_states(state):
            x = block.feed(x + block.mixer.step(block.mixer_norm(x), (cos, sin), layer, index))
        return self.logits(x)

    def _with_states(self, state: HoldsLayers) -> Iterable[tuple[Block, Any]]:
        """Each block with its layer's state, which is of the kind that its mixer takes."""
        return zip(self.blocks, state.layers, strict=True)

    def new_state(self, plan: StatePlan, state_dtype: torch.dtype | None = None) -> DecodeState:
        """A zeroed state; the SSM state is fp32 unless asked otherwise, float64 in a float64 model."""
        dtype = self.embedding.weight.dtype
        if state_dtype is None:
            state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        return DecodeState(self.config, plan, dtype, state_dtype, self.device)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def rope_tables(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attention = self.config.attention
        if attention is None:
            empty = like.new_zeros(self.config.context, 0)
            return empty, empty
        if self._rope is None or self._rope[0].dtype != like.dtype or self._rope[0].device != like.device:
            scaling = attention.rope_scaling
            # The tables outlive a prefill or step that makes them: training must be able to use them later.
            with torch.inference_mode(False):
                freq = frequencies(
                    attention.head_dim,
                    attention.rope_theta,
                    scaling.factor,
                    scaling.low_freq_factor,
                    scaling.high_freq_factor,
                    scaling.original_context,
                )
                cos, sin = tables(freq, self.config.context, like.dtype)
                self._rope = (cos.to(like.device), sin.to(like.device))
        return self._rope
