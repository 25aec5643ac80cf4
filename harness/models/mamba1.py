"""The Mamba-1 mixer in MambaInLlama's grouped form (arXiv 2408.15237) and in mamba_ssm's (arXiv 2312.00752).

Like the other mixers it runs whole sequences (``forward``), packed prompts (``prefill``) or one token a row
(``step``), and the three agree. A_log, D and dt_bias keep fp32 whatever the model is cast to: a decay
rounded to 8 bits is another decay, applied at every token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from harness.kernels.causal_conv import causal_conv, causal_conv_packed, causal_conv_triton
from harness.kernels.mamba1_conv import Conv, mamba1_conv_step, repeat_heads, working_dtype
from harness.kernels.mamba1_step import Mixer, mamba1_step
from harness.kernels.selective_scan import selective_scan, selective_scan_packed, selective_scan_triton
from harness.kernels.sequences import taken
from harness.models.config import Mamba1Config
from harness.models.packing import Pack, runs_kernels
from harness.models.state import MambaState, StepIndex

Scan: TypeAlias = Callable[..., tuple[torch.Tensor, torch.Tensor]]
KEPT_WIDE = ("A_log", "D", "dt_bias")


class Mamba1(nn.Module):
    """``in_proj`` rows [x | B | C | z | dt] where the config has ``xb``; else [x | z], ``x_proj`` rows [B | C | dt].

    u = silu(conv(x)), delta = softplus(dt_proj(dt) + dt_bias) (the bias twice if the config says so),
    h <- exp(-delta exp(A_log)) h + delta u B, y = (C . h + D u) silu(z).
    """

    def __init__(self, width: int, config: Mamba1Config) -> None:
        super().__init__()
        self.config = config
        inner, state, rank = config.inner, config.state, config.dt_rank
        if config.xb is None:
            self.in_proj = nn.Linear(width, 2 * inner, bias=False)
            self.x_proj: nn.Linear | None = nn.Linear(inner, 2 * state + rank, bias=False)
        else:
            self.in_proj = nn.Linear(width, 2 * config.xb + 2 * inner + rank, bias=False)
            self.x_proj = None
        self.conv_weight = nn.Parameter(torch.zeros(inner, config.conv))
        self.conv_bias = nn.Parameter(torch.zeros(inner))
        self.dt_proj = nn.Linear(rank, inner, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(inner))
        self.A_log = nn.Parameter(torch.zeros(inner, state))
        self.D = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, width, bias=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Mamba1:
        """As any module's, but a cast to 16 bits leaves ``KEPT_WIDE`` as they were."""
        before = {name: getattr(self, name).data for name in KEPT_WIDE}
        super()._apply(fn, recurse)
        for name, wide in before.items():
            parameter = getattr(self, name)
            if parameter.dtype.itemsize < min(4, wide.dtype.itemsize):
                parameter.data = wide.to(parameter.device, torch.float32)
        return self

    def forward(self, x: torch.Tensor, rope: object = None) -> torch.Tensor:
        raw, z, *given = self.split(self.in_proj(x))
        kind = working_dtype(raw)
        repeated = repeat_heads(raw.to(kind), self.config.inner, self.config.state)
        u = F.silu(causal_conv(repeated, self.conv_weight.to(kind), self.conv_bias.to(kind)))
        return self._scanned(u, z, given, selective_scan)[0]

    def prefill(self, x: torch.Tensor, rope: object, state: MambaState, pack: Pack) -> torch.Tensor:
        raw, z, *given = self.split(self.in_proj(x))
        sequences, size = pack.sequences, self.config.state
        # The kernel holds a state's row in a tile, whose side is a power of two.
        kernels = runs_kernels(x) and size.bit_count() == 1
        conv: Callable[..., torch.Tensor] = causal_conv_triton if kernels else causal_conv_packed
        scan: Scan = selective_scan_triton if kernels else selective_scan_packed
        u = conv(raw, self.conv_weight, self.conv_bias, sequences, True, working_dtype(raw), size)
        y, last = self._scanned(u, z, given, lambda *inputs: scan(*inputs, sequences))
        state.write_prompts(pack.places, taken(raw, pack.rings), last)
        return y

    def _scanned(
        self, u: torch.Tensor, z: torch.Tensor, given: Sequence[torch.Tensor], scan: Scan
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output and last state from the convolution's output; ``given``: dt, B and C where the input has them."""
        kind = u.dtype
        dt, b, c = given or self.from_conv(u.to(z.dtype))
        mixer = self.weights()
        delta = F.softplus(dt.to(kind) + mixer.times * mixer.dt_bias.to(kind))
        y, last = scan(u, delta, -mixer.a_log.to(kind).exp(), b, c)
        y = (y + mixer.d.to(kind) * u) * F.silu(z.to(kind))
        return self.out(y.to(z.dtype)), last

    def step(self, x: torch.Tensor, rope: object, state: MambaState, index: StepIndex) -> torch.Tensor:
        raw, z, *given = self.split(self.in_proj(x))
        ring, ssm = state.rows(index)
        conv = Conv(ring, index.position, self.conv_weight, self.conv_bias)
        if given:
            dt, b, c = given
            return self.out(mamba1_step(raw, dt, b, c, z, ssm, self.weights(), conv))
        u = mamba1_conv_step(raw, conv, self.config.state)
        dt, b, c = self.from_conv(u.to(raw.dtype))
        return self.out(mamba1_step(u, dt, b, c, z, ssm, self.weights()))

    def weights(self) -> Mixer:
        """What the state update takes beside its inputs."""
        return Mixer(self.A_log, self.D, self.dt_bias, 2 if self.config.dt_bias_twice else 1)

    def split(self, projected: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x and z, then dt [..., inner], B and C [..., groups, N] where they come from the layer's input."""
        c = self.config
        if c.xb is None:
            return projected.split((c.inner, c.inner), dim=-1)
        x, b, cc, z, dt = projected.split((c.xb, c.xb, c.inner, c.inner, c.dt_rank), dim=-1)
        return x, z, self.dt_proj(dt), b.unflatten(-1, (-1, c.state)), cc.unflatten(-1, (-1, c.state))

    def from_conv(self, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """dt [..., inner], B and C [..., 1, N] from the convolution's output."""
        assert self.x_proj is not None
        c = self.config
        b, cc, dt = self.x_proj(u).split((c.state, c.state, c.dt_rank), dim=-1)
        return self.dt_proj(dt), b[..., None, :], cc[..., None, :]
