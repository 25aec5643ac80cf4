"""Exact shapes for random weights: speed without a checkpoint, never an accuracy.

Llama-3.2 shapes are its public config values; Llamba's are arXiv 2502.14458, table 1; Mamba2-1.3B's those
of arXiv 2405.21060. MambaInLlama's are Llama's with Mamba-1 in most layers; their published parameter counts
(1.29 and 3.45 billion) leave 4 of 16 and 6 of 28 layers to attention. The 3B keeps those of M1's conversion
script (arXiv 2504.10449); which four the 1B keeps is not published, so every fourth stands here, as in the
authors' other models with a quarter of attention (arXiv 2408.15237). Speed does not depend on it.
"""

from __future__ import annotations

import dataclasses

from harness.models.config import AttentionConfig, DecoderConfig, LayerKind, Mamba1Config, MambaConfig, RopeScaling

_LLAMA3_ROPE = RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
_TINY_ATTENTION = AttentionConfig(heads=8, kv_heads=8, head_dim=32)
_TINY_MAMBA = MambaConfig(heads=8, head_dim=32, state=32, groups=8, dt_bias=True)
_HYBRID: tuple[LayerKind, ...] = tuple("attention" if i in (2, 6) else "discrete_mamba2" for i in range(8))


def _all(kind: LayerKind, depth: int) -> tuple[LayerKind, ...]:
    return (kind,) * depth


def _tiny(layers: tuple[LayerKind, ...]) -> DecoderConfig:
    return DecoderConfig(512, 256, layers, 336, 1280, (2,), 1, _TINY_ATTENTION, _TINY_MAMBA)


def _llama(depth: int, width: int, heads: int, head_dim: int) -> DecoderConfig:
    attention = AttentionConfig(heads, 8, head_dim, 500000.0, _LLAMA3_ROPE)
    layers = _all("attention", depth)
    return DecoderConfig(128256, width, layers, 8192, 8192, (128001, 128009), 128000, attention)


def _llamba(depth: int, width: int, head_dim: int) -> DecoderConfig:
    mamba = MambaConfig(heads=32, head_dim=head_dim, state=64, groups=32, chunk=128)
    layers = _all("discrete_mamba2", depth)
    return DecoderConfig(128256, width, layers, 8192, 8192, (128001, 128009), 128000, None, mamba)


def _mamba_in_llama(llama: DecoderConfig, kept: tuple[int, ...]) -> DecoderConfig:
    """``llama`` with Mamba-1 of its key and value width in all layers but ``kept``."""
    assert llama.attention is not None
    kv = llama.attention.kv_heads * llama.attention.head_dim
    mamba1 = Mamba1Config(inner=llama.width, dt_rank=llama.width // 16, xb=kv, dt_bias_twice=True)
    layers: tuple[LayerKind, ...] = tuple("attention" if i in kept else "mamba1" for i in range(len(llama.layers)))
    return dataclasses.replace(llama, layers=layers, mamba1=mamba1)


_LLAMA_1B, _LLAMA_3B = _llama(16, 2048, 32, 64), _llama(28, 3072, 24, 128)
# The vocabulary is GPT-NeoX's 50277 (end of text: 0), padded to a multiple of 16.
_MAMBA2_1B3 = DecoderConfig(
    vocab_size=50288,
    width=2048,
    layers=_all("mamba2", 48),
    mlp=0,
    context=8192,
    eos=(0,),
    mamba=MambaConfig(heads=64, head_dim=64, state=128, groups=1, gated_norm=True, chunk=256),
)

SHAPES: dict[str, DecoderConfig] = {
    "tiny-teacher": _tiny(_all("attention", 8)),
    "tiny-hybrid": _tiny(_HYBRID),
    "tiny-mamba": _tiny(_all("discrete_mamba2", 8)),
    "llama-3.2-1b": _LLAMA_1B,
    "llama-3.2-3b": _LLAMA_3B,
    "llamba-1b": _llamba(16, 2048, 64),
    "llamba-3b": _llamba(28, 3072, 96),
    "mamba-in-llama-1b": _mamba_in_llama(_LLAMA_1B, (3, 7, 11, 15)),
    "mamba-in-llama-3b": _mamba_in_llama(_LLAMA_3B, (3, 8, 13, 18, 23, 27)),
    "mamba2-1.3b": _MAMBA2_1B3,
}
