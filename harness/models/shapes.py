"""Exact shapes for random weights: speed without a checkpoint, never an accuracy.

Llama-3.2 shapes are its public config values; Llamba's are arXiv 2502.14458, table 1.
"""

from __future__ import annotations

from harness.models.config import AttentionConfig, DecoderConfig, LayerKind, MambaConfig, RopeScaling

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


SHAPES: dict[str, DecoderConfig] = {
    "tiny-teacher": _tiny(_all("attention", 8)),
    "tiny-hybrid": _tiny(_HYBRID),
    "tiny-mamba": _tiny(_all("discrete_mamba2", 8)),
    "llama-3.2-1b": _llama(16, 2048, 32, 64),
    "llama-3.2-3b": _llama(28, 3072, 24, 128),
    "llamba-1b": _llamba(16, 2048, 64),
    "llamba-3b": _llamba(28, 3072, 96),
}
