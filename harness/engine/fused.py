"""One decode step as launches of kernels and matrix products, for any list of attention and Mamba layers.

The same arithmetic as ``Decoder.step`` with the additions, norms, activations and state updates fused around the
products. Weights are the decoder's own. Nothing here reads back to the host or depends on anything but shapes, so that
a CUDA graph can hold the whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F

from harness.engine.device_state import DeviceState, LayerSlots, Mamba1Slots, MambaSlots
from harness.kernels.attention_decode import attention_decode
from harness.kernels.attention_plan import Plan, plan
from harness.kernels.mamba1_conv import Conv, mamba1_conv_step_triton
from harness.kernels.mamba1_step import mamba1_step_triton
from harness.kernels.mamba2_step import Mixer, mamba2_step_triton, mamba2_step_unscaled
from harness.kernels.rmsnorm import Unscaled, rmsnorm_triton
from harness.kernels.rope_append import rope_append
from harness.kernels.swiglu import swiglu_triton
from harness.models.decoder import Decoder
from harness.models.layers import Attention, Mamba2, RMSNorm
from harness.models.mamba1 import Mamba1
from harness.models.state import AttentionState

# A layer's normed input to what its mixer's last product takes, with the norm that may still be owed to it.
MixerStep: TypeAlias = Callable[[torch.Tensor], tuple[torch.Tensor, Unscaled | None]]


class FusedDecoder:
    """``step`` of ``decoder`` over ``state``; the decoder stays the owner of its weights."""

    def __init__(self, decoder: Decoder, state: DeviceState) -> None:
        self.decoder, self.state, self.config = decoder, state, decoder.config
        self.weight = decoder.embedding.weight if decoder.head is None else decoder.head.weight
        self.mixers = [
            self._mixer(block.mixer, layer, number)
            for number, (block, layer) in enumerate(zip(decoder.blocks, state.layers, strict=True))
        ]
        self.cos, self.sin = decoder.rope_tables(torch.empty(0, dtype=torch.float32, device=decoder.device))
        self.plans: dict[int, Plan] = {}
        if decoder.device.type == "cuda":
            for block in decoder.blocks:
                if block.mlp is not None:
                    _turn(block.mlp.gate_up.weight)
                if isinstance(block.mixer, Mamba2) and block.mixer.discrete:
                    _turn(block.mixer.in_proj.weight)

    def plan(self, rows: int) -> None:
        """Make room for steps of ``rows`` rows; before a capture."""
        a = self.config.attention
        if not self.state.attends or rows in self.plans:
            return
        assert a is not None
        sizes = self.state.plan
        self.plans[rows] = plan(
            rows, a.heads, a.kv_heads, a.head_dim, self.weight.dtype, sizes.new_tokens, self.state.device,
            tiles=self.state.tiles, prompt_context=max(sizes.prompt_tokens),
        )  # fmt: skip

    def step(self, tokens: torch.Tensor, logits: torch.Tensor) -> None:
        """Write ``logits`` [rows, vocab] behind int64 tokens [rows] of slots [0, rows)."""
        blocks = self.decoder.blocks
        stream = F.embedding(tokens, self.decoder.embedding.weight)
        branch = _norm(blocks[0].mixer_norm, stream)
        for i, (block, mixer) in enumerate(zip(blocks, self.mixers, strict=True)):
            following = blocks[i + 1].mixer_norm if i + 1 < len(blocks) else self.decoder.norm
            y, unscaled = mixer(branch)
            after = following if block.mlp_norm is None else block.mlp_norm
            branch = _joined(after, y, block.mixer.out.weight, stream, unscaled)
            if block.mlp is not None and block.mlp_norm is not None:
                wide = swiglu_triton(F.linear(branch, block.mlp.gate_up.weight))
                branch = _joined(following, wide, block.mlp.down.weight, stream)
        torch.mm(branch, self.weight.t(), out=logits)

    def _mixer(self, mixer: object, layer: LayerSlots, number: int) -> MixerStep:
        if isinstance(layer, AttentionState):
            return self._attention(mixer, layer)
        return self._mamba2(mixer, layer, number) if isinstance(layer, MambaSlots) else self._mamba1(mixer, layer)

    def _attention(self, mixer: object, layer: AttentionState) -> MixerStep:
        assert isinstance(mixer, Attention)
        state, prompts = self.state, self.state.prompts(layer)

        def run(x: torch.Tensor) -> tuple[torch.Tensor, None]:
            qkv = F.linear(x, mixer.qkv.weight)
            q = rope_append(
                qkv, self.cos, self.sin, layer.k, layer.v, state.table, state.draw.position, state.rows.running,
                state.prompt_length,
            )  # fmt: skip
            y = attention_decode(
                q,
                layer.k,
                layer.v,
                state.table,
                state.draw.position,
                state.rows.running,
                prompts,
                self.plans[x.shape[0]],
            )
            return y, None

        return run

    def _mamba2(self, mixer: object, layer: MambaSlots, number: int) -> MixerStep:
        assert isinstance(mixer, Mamba2)
        weights = Mixer(
            layer=number,
            # Contiguous along the channels, so that a tap's weights are read in whole lines.
            conv_weight=mixer.conv_weight.detach().t().contiguous().t(),
            conv_bias=mixer.conv_bias,
            d=mixer.D,
            a_log=None if mixer.discrete else mixer.A_log,
            dt_bias=mixer.dt_bias,
            z_bias=mixer.z_bias if mixer.discrete else None,
            norm=None if mixer.norm is None else mixer.norm.weight,
            eps=self.config.norm_eps,
            norm_groups=mixer.config.norm_groups,
        )

        def run(x: torch.Tensor) -> tuple[torch.Tensor, Unscaled | None]:
            projected, unscaled = F.linear(x, mixer.in_proj.weight), None
            if mixer.norm is not None and weights.norm_groups == 1:
                y, unscaled = mamba2_step_unscaled(projected, weights, layer.memory, self.state.rows)
            else:
                y = mamba2_step_triton(projected, weights, layer.memory, self.state.rows)
            return y, unscaled

        return run

    def _mamba1(self, mixer: object, layer: Mamba1Slots) -> MixerStep:
        assert isinstance(mixer, Mamba1)
        weights, state, places = mixer.weights(), self.state, self.state.places
        saturated = layer.saturated if layer.ssm.dtype == torch.float16 else None
        conv = Conv(layer.ring, state.rows.position, mixer.conv_weight, mixer.conv_bias)

        def run(x: torch.Tensor) -> tuple[torch.Tensor, None]:
            raw, z, *given = mixer.split(F.linear(x, mixer.in_proj.weight))
            if given:
                dt, b, c = given
                y = mamba1_step_triton(raw, dt, b, c, z, layer.ssm, weights, conv, places, saturated)
            else:
                u = mamba1_conv_step_triton(raw, conv, mixer.config.state, places)
                dt, b, c = mixer.from_conv(u)
                y = mamba1_step_triton(u, dt, b, c, z, layer.ssm, weights, None, places, saturated)
            return y, None

        return run


def _turn(weight: torch.Tensor) -> None:
    """Store a weight [outputs, inputs] along its outputs, its values and shape as they are.

    cuBLAS is up to 5 % faster with the wide product of an MLP so, and a little with that into a Llamba mixer; no faster
    with the others (results/h100/products.csv).
    """
    weight.data = weight.data.t().contiguous().t()


def _joined(
    norm: RMSNorm, y: torch.Tensor, weight: torch.Tensor, stream: torch.Tensor, unscaled: Unscaled | None = None
) -> torch.Tensor:
    """``norm`` of ``stream``, which becomes stream + y weight^T in the product itself unless a norm is owed to y."""
    if unscaled is not None:
        return rmsnorm_triton(F.linear(y, weight), norm.weight, norm.eps, stream, unscaled=unscaled)
    return _norm(norm, stream.addmm_(y, weight.t()))


def _norm(norm: RMSNorm, x: torch.Tensor) -> torch.Tensor:
    return rmsnorm_triton(x, norm.weight, norm.eps)
