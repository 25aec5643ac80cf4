"""Llamba (arXiv 2502.14458; cartesia-ai): config.json with model_type "llamba", tensors under ``backbone.``.

Traps: ``in_proj`` rows are [x | B | C | z | A_log], ours already, and not mamba_ssm's; ``z_bias`` is a parameter and no
bias of a projection; the head count is ``n_v_heads`` and the head dim what it leaves of the width (32 x 96 in the 3B,
not its teacher's 24 x 128); the blocks' norms have eps 1e-5 whatever ``norm_epsilon`` says of the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.models.checkpoints.fields import Fields, special_tokens
from harness.models.checkpoints.hf_llama import around
from harness.models.checkpoints.mapping import Entry, Plan, conv, same
from harness.models.checkpoints.mixers import UNBOUNDED_CONTEXT
from harness.models.checkpoints.source import TensorSource
from harness.models.config import DecoderConfig, LayerKind, MambaConfig
from harness.records import InputError

NAME = "llamba"
DECIDED_BY = 'config.json with model_type "llamba"'
_BLOCK_EPS = 1e-5


def recognises(folder: Path, config: Fields) -> bool:
    return config.data.get("model_type") == NAME


def plan(folder: Path, config: Fields, source: TensorSource) -> Plan:
    decoder = _config(folder, config)
    twins = (("lm_head.weight", "backbone.embedding.weight"),) if decoder.tied else ()
    return Plan(decoder, tuple(_entries(decoder)), twins)


def _config(folder: Path, config: Fields) -> DecoderConfig:
    ssm, mlp = config.inside("ssm_cfg"), config.inside("mlp_cfg")
    ssm.known("d_state", "n_v_heads", "n_qk_heads", "d_conv", "expand", "chunk_size", "activation", "bias", "conv_bias")
    ssm.only("activation", "identity")
    ssm.only("bias", False)
    ssm.only("conv_bias", True)
    mlp.only("act_fn", "silu")
    mlp.only("bias", False)
    config.only("lm_head_bias", False)
    config.only("norm_epsilon", _BLOCK_EPS)
    width = config.size("d_model")
    inner, heads = ssm.size("expand", 1) * width, ssm.size("n_v_heads", 32)
    if inner % heads:
        raise InputError(f"{ssm.where}: n_v_heads = {heads}: must divide expand * d_model = {inner}")
    layers: tuple[LayerKind, ...] = tuple("discrete_mamba2" for _ in range(config.layers("n_layer", 32)))
    eos, bos = special_tokens(folder, config)
    return DecoderConfig(
        vocab_size=config.padded_vocabulary(),
        width=width,
        layers=layers,
        mlp=mlp.size("intermediate_size"),
        context=config.size("max_position_embeddings", UNBOUNDED_CONTEXT),
        eos=eos,
        bos=bos,
        mamba=MambaConfig(
            heads=heads,
            head_dim=inner // heads,
            state=ssm.size("d_state", 64),
            groups=ssm.size("n_qk_heads", 32),
            conv=ssm.size("d_conv", 4),
            chunk=ssm.size("chunk_size", 128),
        ),
        norm_eps=_BLOCK_EPS,
        tied=config.get("tie_embeddings", bool, False),
    )


def _entries(config: DecoderConfig) -> Iterator[Entry]:
    assert config.mamba is not None
    v, w, m = config.vocab_size, config.width, config.mamba
    yield same("embedding.weight", "backbone.embedding.weight", v, w)
    yield same("norm.weight", "backbone.final_layernorm.weight", w)
    if not config.tied:
        yield same("head.weight", "lm_head.weight", v, w)
    for i in range(len(config.layers)):
        block, mixer = f"blocks.{i}.mixer", f"backbone.layers.{i}.mixer"
        yield same(f"{block}.in_proj.weight", f"{mixer}.in_proj.weight", m.conv_channels + m.inner + m.heads, w)
        yield from conv(block, f"{mixer}.conv1d", m.conv_channels, m.conv)
        yield same(f"{block}.z_bias", f"{mixer}.z_bias", m.inner)
        yield same(f"{block}.D", f"{mixer}.D", m.heads)
        yield same(f"{block}.out.weight", f"{mixer}.out_proj.weight", w, m.inner)
        yield from around(config, i, "backbone")
