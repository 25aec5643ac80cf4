"""The parts of a block: norm, MLP, attention and Mamba-2 (Mamba-1 lies beside), each mixer with its three ways to run.

``forward`` takes whole sequences (training, and the reference), ``prefill`` whole prompts packed end to end while
leaving behind what decoding needs, ``step`` one token for each row. The three agree: tests hold it.
Activations are [batch, time, width], [tokens, width] in a prefill or [rows, width] in a step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from harness.kernels import attention as attention_ops
from harness.kernels.causal_conv import causal_conv, causal_conv_packed, causal_conv_step, causal_conv_triton
from harness.kernels.rope import rotate
from harness.kernels.sequences import taken
from harness.kernels.ssd import ssd_chunked, ssd_packed, ssd_step, ssd_triton
from harness.models.config import AttentionConfig, DecoderConfig, LayerKind, Mamba1Config, MambaConfig
from harness.models.mamba1 import Mamba1
from harness.models.packing import Pack, runs_kernels
from harness.models.state import AttentionState, MambaState, StepIndex


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the mean in fp32 at least (Zhang and Sennrich, 2019).

    Each of ``groups`` equal parts of x has its own mean.
    """

    def __init__(self, width: int, eps: float, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.groups = eps, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(x.dtype)
        if self.groups == 1:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        parts = x.unflatten(-1, (self.groups, -1))
        return F.rms_norm(parts, parts.shape[-1:], None, self.eps).flatten(-2) * weight


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), gate and up in one product (Shazeer, 2020)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Attention(nn.Module):
    """Grouped-query attention with RoPE; ``qkv`` rows are q, k, v in this order."""

    def __init__(self, width: int, config: AttentionConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.qkv = nn.Linear(width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(self.heads * self.head_dim, width, bias=False)

    def _project(self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """q, k, v [..., heads, dim], q and k turned; ``rope`` cos and sin broadcast over the heads."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        turned, v = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=-2)
        q, k = rotate(turned, *rope).split((self.heads, self.kv_heads), dim=-2)
        return q, k, v

    def forward(self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        q, k, v = (t.transpose(1, 2).to(x.dtype) for t in self._project(x, rope))
        y = attention_ops.causal_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(-2))

    def prefill(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], state: AttentionState, pack: Pack
    ) -> torch.Tensor:
        q, k, v = (t.to(x.dtype) for t in self._project(x, rope))
        state.write_prompts(pack.pages, k, v)
        return self.out(attention_ops.packed_attention(q, k, v, pack.groups).flatten(-2))

    def step(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], state: AttentionState, index: StepIndex
    ) -> torch.Tensor:
        q, k, v = self._project(x, rope)
        state.append(k, v, index)
        y = attention_ops.paged_attention(q, state.pages(index), index.pieces)
        return self.out(y.flatten(-2))


class Mamba2(nn.Module):
    """Mamba-2 mixer, ``in_proj`` rows [x | B | C | z | dt].

    Continuous (mamba_ssm): SiLU behind the convolution, dt = softplus(dt + dt_bias),
    log a = -exp(A_log) dt, input dt x, gate silu(z), with an RMSNorm behind the gate where
    ``gated_norm``. Discrete (Llamba, arXiv 2502.14458): no activation, log a = -softplus(dt) or, where
    the config gives it a bias, -softplus(dt + dt_bias); input x, gate silu(z + z_bias).
    Both: y = S C + D x. States of prompts and rows are kept by the caller.
    """

    def __init__(self, width: int, config: MambaConfig, discrete: bool, eps: float) -> None:
        super().__init__()
        self.config, self.discrete = config, discrete
        inner, heads, channels = config.inner, config.heads, config.conv_channels
        self.in_proj = nn.Linear(width, channels + inner + heads, bias=False)
        self.conv_weight = nn.Parameter(torch.zeros(channels, config.conv))
        self.conv_bias = nn.Parameter(torch.zeros(channels))
        self.D = nn.Parameter(torch.ones(heads))
        self.dt_bias = nn.Parameter(torch.zeros(heads)) if config.dt_bias or not discrete else None
        if discrete:
            self.z_bias = nn.Parameter(torch.zeros(inner))
        else:
            self.A_log = nn.Parameter(torch.zeros(heads))
        self.norm = RMSNorm(inner, eps, config.norm_groups) if config.gated_norm else None
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor, rope: object = None) -> torch.Tensor:
        raw, z, dt = self._split(self.in_proj(x))
        mixed = causal_conv(raw, self.conv_weight.to(raw.dtype), self.conv_bias.to(raw.dtype))
        xs, b, c = self._channels(mixed if self.discrete else F.silu(mixed))
        scale, log_a = self._discretise(dt)
        scaled = xs if scale is None else (xs * scale[..., None]).to(xs.dtype)
        y, _ = ssd_chunked(scaled, log_a, b, c, self.config.chunk)
        return self._finish(self._skipped(y, xs), z)

    def prefill(self, x: torch.Tensor, rope: object, state: MambaState, pack: Pack) -> torch.Tensor:
        raw, z, dt = self._split(self.in_proj(x))
        conv, scan = (causal_conv_triton, ssd_triton) if runs_kernels(x) else (causal_conv_packed, ssd_packed)
        mixed = conv(raw, self.conv_weight, self.conv_bias, pack.sequences, not self.discrete, raw.dtype)
        xs, b, c = self._channels(mixed)
        scale, log_a = self._discretise(dt)
        y, last = scan(xs, log_a, b, c, pack.sequences, scale, self.D)
        state.write_prompts(pack.places, taken(raw, pack.tails), last)
        return self._finish(y, z)

    def step(self, x: torch.Tensor, rope: object, state: MambaState, index: StepIndex) -> torch.Tensor:
        raw, z, dt = self._split(self.in_proj(x))
        conv, ssm = state.rows(index)
        mixed = causal_conv_step(raw, conv, self.conv_weight.to(raw.dtype), self.conv_bias.to(raw.dtype))
        xs, b, c = self._channels(mixed if self.discrete else F.silu(mixed))
        scale, log_a = self._discretise(dt)
        y = ssd_step(xs if scale is None else xs * scale[..., None], log_a, b, c, ssm)
        return self._finish(self._skipped(y, xs), z)

    def _split(self, projected: torch.Tensor) -> tuple[torch.Tensor, ...]:
        c = self.config
        return projected.split((c.conv_channels, c.inner, c.heads), dim=-1)

    def _channels(self, mixed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x [..., heads, dim], B and C [..., groups, N] from the convolution's output."""
        c = self.config
        x, b, cc = mixed.split(c.conv_parts, dim=-1)
        x = x.unflatten(-1, (-1, c.head_dim))
        if c.kv_heads is not None:
            x = x.repeat_interleave(c.heads // c.kv_heads, dim=-2)
        return x, b.unflatten(-1, (-1, c.state)), cc.unflatten(-1, (-1, c.state))

    def _discretise(self, dt: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """What the recurrence's input is multiplied by (None for 1), and the log decay; fp32 at least."""
        dt = dt if dt.dtype == torch.float64 else dt.float()
        step = F.softplus(dt if self.dt_bias is None else dt + self.dt_bias.to(dt.dtype))
        if self.discrete:
            return None, -step
        return step, -self.A_log.to(dt.dtype).exp() * step

    def _skipped(self, y: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        return y + self.D.to(xs.dtype)[:, None] * xs

    def _finish(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        y = y.flatten(-2).to(z.dtype) * F.silu(z + self.z_bias.to(z.dtype) if self.discrete else z)
        return self.out(y if self.norm is None else self.norm(y))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)) where the model has an MLP."""

    def __init__(self, config: DecoderConfig, kind: LayerKind) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.width, config.norm_eps)
        if kind == "attention":
            assert config.attention is not None
            self.mixer: Attention | Mamba1 | Mamba2 = Attention(config.width, config.attention)
        elif isinstance(record := config.recurrent(kind), Mamba1Config):
            self.mixer = Mamba1(config.width, record)
        else:
            self.mixer = Mamba2(config.width, record, kind == "discrete_mamba2", config.norm_eps)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps) if config.mlp else None
        self.mlp = SwiGLU(config.width, config.mlp) if config.mlp else None

    def forward(self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.feed(x + self.mixer(self.mixer_norm(x), rope))

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self.mlp(self.mlp_norm(x))
