"""A student's first weights: the teacher's wherever the shapes allow, a near-identity elsewhere.

Embedding, norms, MLPs and kept attention layers are copied. In a Mamba layer V becomes x, K becomes
B and Q becomes C (each scaled by N^-1/4, so that C.B has the scale of attention's q.k / sqrt(N)), and
the output projection stays (MambaInLlama, arXiv 2408.15237). The convolution starts as the
identity, the gate at silu(1.2785) = 1 and D at 0 (Llamba, arXiv 2502.14458). Half-lives spread from
4 to 1024 tokens over the heads; V is scaled by 1 - a, so that a head sums to a weighted mean, as
attention's does.
"""

from __future__ import annotations

import math

import torch

from harness.models.decoder import Decoder
from harness.models.layers import Attention, Mamba2
from harness.records import InputError

OPEN_GATE = 1.278464542761  # silu(OPEN_GATE) = 1
HALF_LIVES_TOKENS = (4.0, 1024.0)


@torch.no_grad()
def transfer(teacher: Decoder, student: Decoder) -> None:
    """Fill ``student`` from ``teacher``; widths, heads and layer counts must agree."""
    _check(teacher, student)
    student.embedding.weight.copy_(teacher.embedding.weight)
    student.norm.weight.copy_(teacher.norm.weight)
    for source, target in zip(teacher.blocks, student.blocks, strict=True):
        for part in ("mixer_norm", "mlp_norm", "mlp"):
            getattr(target, part).load_state_dict(getattr(source, part).state_dict())
        if isinstance(target.mixer, Attention):
            target.mixer.load_state_dict(source.mixer.state_dict())
        else:
            assert isinstance(source.mixer, Attention) and isinstance(target.mixer, Mamba2)  # _check holds both to it
            _attention_to_mamba(source.mixer, target.mixer)


def _attention_to_mamba(attention: Attention, mamba: Mamba2) -> None:
    c = mamba.config
    q, k, v = attention.qkv.weight.split((c.inner, c.inner, c.inner))
    mamba.in_proj.weight.zero_()
    first, last = (math.log10(h) for h in HALF_LIVES_TOKENS)
    half_life = torch.logspace(first, last, c.heads)
    mean = 1 - torch.exp2(-1 / half_life)
    v = (v.unflatten(0, (c.heads, c.head_dim)) * mean[:, None, None]).flatten(0, 1)
    scale = c.state**-0.25
    mamba.in_proj.weight[: 3 * c.inner].copy_(torch.cat((v, k * scale, q * scale)))
    mamba.conv_weight.zero_()
    mamba.conv_weight[:, -1] = 1
    mamba.conv_bias.zero_()
    mamba.D.zero_()
    mamba.z_bias.fill_(OPEN_GATE)
    assert mamba.dt_bias is not None
    mamba.dt_bias.copy_(torch.expm1(math.log(2) / half_life).log())  # softplus of it is ln 2 / half-life
    mamba.out.weight.copy_(attention.out.weight)


def _check(teacher: Decoder, student: Decoder) -> None:
    t, s = teacher.config, student.config
    for field in ("vocab_size", "width", "mlp", "tied"):
        if getattr(t, field) != getattr(s, field):
            raise InputError(f"student {field} = {getattr(s, field)}: the teacher's is {getattr(t, field)}")
    if len(t.layers) != len(s.layers) or set(t.layers) != {"attention"} or t.attention is None:
        raise InputError("student layers: need as many as the teacher's, and a teacher of attention layers")
    if "attention" in s.layers and s.attention != t.attention:
        raise InputError(f"student attention = {s.attention}: kept layers need the teacher's, {t.attention}")
    if (m := s.mamba) is not None:
        a = t.attention
        if (m.heads, m.head_dim, m.state, m.groups) != (a.heads, a.head_dim, a.head_dim, a.kv_heads) or (
            a.heads != a.kv_heads
        ):
            raise InputError(f"student mamba = {m}: V, K, Q map onto {a.heads} heads and groups of {a.head_dim}")
    if set(s.layers) - {"attention", "discrete_mamba2"} or (s.mamba is not None and not s.mamba.dt_bias):
        raise InputError("student layers: transfer fills discrete_mamba2 layers with dt_bias: true")
