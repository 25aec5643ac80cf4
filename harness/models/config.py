"""What a decoder is made of: one config for Transformer, Mamba and hybrid, decided by a list of layers.

``config.json`` of our layout is this record as JSON. Unknown keys are errors that name the key.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from harness.records import InputError, build

LayerKind = Literal["attention", "mamba2", "discrete_mamba2"]


@dataclasses.dataclass(frozen=True, slots=True)
class RopeScaling:
    """llama3 scaling of RoPE's low frequencies; ``factor`` 1 is plain RoPE."""

    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclasses.dataclass(frozen=True, slots=True)
class AttentionConfig:
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()

    def __post_init__(self) -> None:
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise InputError(f"attention.kv_heads = {self.kv_heads}: must divide attention.heads = {self.heads}")
        if self.head_dim % 2:
            raise InputError(f"attention.head_dim = {self.head_dim}: must be even for RoPE")


@dataclasses.dataclass(frozen=True, slots=True)
class MambaConfig:
    """Mamba-2 mixer: ``heads`` x ``head_dim`` inner channels, state ``state`` a channel, ``groups`` rows of B and C.

    ``gated_norm`` is mamba_ssm's RMSNorm behind the gate (the discrete form has none). ``dt_bias`` gives
    the discrete form a bias for its decay, which Llamba lacks; the continuous form always has one.
    """

    heads: int
    head_dim: int
    state: int
    groups: int
    conv: int = 4
    gated_norm: bool = False
    chunk: int = 64
    dt_bias: bool = False

    def __post_init__(self) -> None:
        if self.groups < 1 or self.heads % self.groups:
            raise InputError(f"mamba.groups = {self.groups}: must divide mamba.heads = {self.heads}")
        if self.conv < 2 or self.chunk < 1:
            raise InputError(f"mamba.conv = {self.conv}, chunk = {self.chunk}: need conv >= 2 and chunk >= 1")

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        return self.inner + 2 * self.groups * self.state


@dataclasses.dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Vocabulary, width and the list of layers; ``mlp`` 0 leaves the MLP (and its norm) out; ``context`` in tokens."""

    vocab_size: int
    width: int
    layers: tuple[LayerKind, ...]
    mlp: int
    context: int
    eos: tuple[int, ...]
    bos: int | None = None
    attention: AttentionConfig | None = None
    mamba: MambaConfig | None = None
    norm_eps: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("layers = []: a decoder needs at least one layer")
        if "attention" in self.layers and self.attention is None:
            raise InputError("attention is missing: layers name attention, so give its heads, kv_heads and head_dim")
        if set(self.layers) - {"attention"} and self.mamba is None:
            raise InputError("mamba is missing: layers name a mamba layer, so give heads, head_dim, state and groups")

    @classmethod
    def load(cls, path: Path) -> DecoderConfig:
        """Read ``config.json``; errors name the file and the field."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not JSON ({error.msg}, line {error.lineno}); write it anew") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); a model folder holds config.json") from error
        return build(cls, data, str(path))

    def to_json(self) -> str:
        return json.dumps(_without_none(dataclasses.asdict(self)), indent=1) + "\n"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value
