"""The mixers that several formats share, under the names of mamba_ssm's modules.

Their Mamba-2 has rows [z | x | B | C | dt] in ``in_proj``, ours [x | B | C | z | dt]; the rest goes by name alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.models.checkpoints.mapping import Entry, conv, rows, same
from harness.models.config import DecoderConfig

# For models that have no position anywhere: as good as no limit.
UNBOUNDED_CONTEXT = 1 << 20


def mamba2(config: DecoderConfig, i: int, source: str) -> Iterator[Entry]:
    """Continuous Mamba-2 of layer ``i``, its tensors under ``source``."""
    assert config.mamba is not None
    m, block = config.mamba, f"blocks.{i}.mixer"
    sizes = (m.inner, m.conv_channels, m.heads)
    yield rows(f"{block}.in_proj.weight", f"{source}.in_proj.weight", sizes, (1, 0, 2), config.width)
    yield from conv(block, f"{source}.conv1d", m.conv_channels, m.conv)
    for name in ("D", "dt_bias", "A_log"):
        yield same(f"{block}.{name}", f"{source}.{name}", m.heads)
    if m.gated_norm:
        yield same(f"{block}.norm.weight", f"{source}.norm.weight", m.inner)
    yield same(f"{block}.out.weight", f"{source}.out_proj.weight", config.width, m.inner)


def merged_attention(config: DecoderConfig, i: int, source: str) -> Iterator[Entry]:
    """Attention of layer ``i`` with ``in_proj`` rows [q | k | v], as ours."""
    assert config.attention is not None
    a, block = config.attention, f"blocks.{i}.mixer"
    heads = a.heads + 2 * a.kv_heads
    yield same(f"{block}.qkv.weight", f"{source}.in_proj.weight", heads * a.head_dim, config.width)
    yield same(f"{block}.out.weight", f"{source}.out_proj.weight", config.width, a.heads * a.head_dim)
