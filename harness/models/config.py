"""What a decoder is made of: one config for Transformer, Mamba and hybrid, decided by a list of layers.

``config.json`` of our layout is this record as JSON. Unknown keys are errors that name the key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from harness.records import InputError, build

LayerKind = Literal["attention", "mamba1", "mamba2", "discrete_mamba2"]


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
        _check_least(self, "attention.", heads=1, head_dim=2)
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise InputError(f"attention.kv_heads = {self.kv_heads}: must divide attention.heads = {self.heads}")
        if self.head_dim % 2:
            raise InputError(f"attention.head_dim = {self.head_dim}: must be even for RoPE")


@dataclasses.dataclass(frozen=True, slots=True)
class MambaConfig:
    """Mamba-2 mixer: ``heads`` x ``head_dim`` inner channels, state ``state`` a channel, ``groups`` rows of B and C.

    ``gated_norm`` is mamba_ssm's RMSNorm behind the gate (the discrete form has none). ``dt_bias`` gives
    the discrete form a bias for its decay, which Llamba lacks; the continuous form always has one.
    With ``kv_heads`` only so many heads of x and groups of B come out of the projection and the
    convolution and are then repeated to ``heads``, as in MambaInLlama's Mamba-2; ``groups`` counts C's
    rows alone. ``norm_groups`` parts of the gated norm each have a mean of their own (mamba_ssm: one a group).
    """

    heads: int
    head_dim: int
    state: int
    groups: int
    conv: int = 4
    gated_norm: bool = False
    chunk: int = 64
    dt_bias: bool = False
    kv_heads: int | None = None
    norm_groups: int = 1

    def __post_init__(self) -> None:
        _check_least(self, "mamba.", heads=1, head_dim=1, state=1)
        if self.groups < 1 or self.heads % self.groups:
            raise InputError(f"mamba.groups = {self.groups}: must divide mamba.heads = {self.heads}")
        if self.conv < 2 or self.chunk < 1:
            raise InputError(f"mamba.conv = {self.conv}, chunk = {self.chunk}: need conv >= 2 and chunk >= 1")
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise InputError(f"mamba.kv_heads = {self.kv_heads}: must divide mamba.heads = {self.heads}")
        if self.norm_groups < 1 or self.inner % self.norm_groups:
            raise InputError(f"mamba.norm_groups = {self.norm_groups}: must divide heads * head_dim = {self.inner}")

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def conv_parts(self) -> tuple[int, int, int]:
        """Channels of x, B and C in the convolution."""
        x_heads, b_groups = (self.heads, self.groups) if self.kv_heads is None else (self.kv_heads, self.kv_heads)
        return x_heads * self.head_dim, b_groups * self.state, self.groups * self.state

    @property
    def conv_channels(self) -> int:
        return sum(self.conv_parts)

    @property
    def conv_shape(self) -> tuple[int, ...]:
        """What a row keeps of the convolution's input: the last conv - 1 tokens."""
        return self.conv - 1, self.conv_channels

    @property
    def ssm_shape(self) -> tuple[int, ...]:
        return self.heads, self.head_dim, self.state


@dataclasses.dataclass(frozen=True, slots=True)
class Mamba1Config:
    """Mamba-1 mixer: ``inner`` channels of ``state`` numbers each, a step size of rank ``dt_rank``.

    With ``xb`` (MambaInLlama's d_xb, the teacher's key-value width) the heads have ``state`` channels: x and B have
    xb / state of them, repeated to the inner / state of C and z, and B, C and dt come from the layer's
    input. Without it x has ``inner`` channels and one row of B and C, which with dt come out of
    the convolution (mamba_ssm). ``dt_bias_twice``: MambaInLlama's checkpoints are trained with the bias
    inside dt's projection and once more before the softplus.
    """

    inner: int
    dt_rank: int
    state: int = 16
    xb: int | None = None
    conv: int = 4
    dt_bias_twice: bool = False

    def __post_init__(self) -> None:
        _check_least(self, "mamba1.", inner=1, dt_rank=1, state=1, conv=2)
        if self.xb is not None and (self.xb < 1 or self.inner % self.xb or self.xb % self.state):
            raise InputError(
                f"mamba1.xb = {self.xb}: must divide mamba1.inner = {self.inner}"
                f" and be a multiple of mamba1.state = {self.state}"
            )

    @property
    def raw(self) -> int:
        """Channels of x before heads are repeated."""
        return self.inner if self.xb is None else self.xb

    @property
    def conv_shape(self) -> tuple[int, ...]:
        """What a row keeps of the convolution's input: a ring of conv tokens, x not yet repeated."""
        return self.conv, self.raw

    @property
    def ssm_shape(self) -> tuple[int, ...]:
        return self.inner, self.state


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
    mamba1: Mamba1Config | None = None
    norm_eps: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        _check_least(self, "", vocab_size=1, width=1, mlp=0, context=0)
        if not self.layers:
            raise InputError("layers = []: a decoder needs at least one layer")
        if "attention" in self.layers and self.attention is None:
            raise InputError("attention is missing: layers name attention, so give its heads, kv_heads and head_dim")
        if set(self.layers) - {"attention", "mamba1"} and self.mamba is None:
            raise InputError("mamba is missing: layers name a mamba layer, so give heads, head_dim, state and groups")
        if "mamba1" in self.layers and self.mamba1 is None:
            raise InputError("mamba1 is missing: layers name mamba1, so give its inner and dt_rank")

    def recurrent(self, kind: LayerKind) -> MambaConfig | Mamba1Config:
        """The record of a layer kind that is not attention."""
        record = self.mamba1 if kind == "mamba1" else self.mamba
        assert record is not None, "__post_init__ holds it"
        return record

    @classmethod
    def load(cls, path: Path) -> DecoderConfig:
        """Read ``config.json``; errors name the file and the field."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not JSON ({error.msg}, line {error.lineno}); write it anew") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); a model folder holds config.json") from error
        with named(str(path), path):
            return build(cls, data, str(path))

    def to_json(self) -> str:
        return json.dumps(_without_none(dataclasses.asdict(self)), indent=1) + "\n"


@contextlib.contextmanager
def named(where: str, within: Path) -> Iterator[None]:
    """Puts ``where`` before errors that do not begin with a path in ``within``: our records know of no file."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(str(within)):
            raise
        raise InputError(f"{where}: {error}") from error


def _check_least(record: Any, where: str, **least: int) -> None:
    for field, n in least.items():
        if getattr(record, field) < n:
            raise InputError(f"{where}{field} = {getattr(record, field)}: must be at least {n}")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value
