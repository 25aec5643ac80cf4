"""mamba_ssm's MambaLMHeadModel (state-spaces/mamba-*, mamba2-*): config.json with d_model, n_layer and ssm_cfg.

Traps: Mamba-2's ``in_proj`` rows are [z | x | B | C | dt], Mamba-1's ``x_proj`` rows [dt | B | C]; the gated norm has a
mean for each group of B and C; ``fc1`` is [value | gate] and its inner width a multiple of 128; the vocabulary is
padded in the file and not in the config; layers of ``attn_layer_idx`` are attention, their sizes in ``attn_cfg``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from harness.models.checkpoints.fields import Fields, shown, special_tokens
from harness.models.checkpoints.mapping import Entry, Plan, conv, rows, same
from harness.models.checkpoints.mixers import UNBOUNDED_CONTEXT, mamba2, merged_attention
from harness.models.checkpoints.source import TensorSource
from harness.models.config import AttentionConfig, DecoderConfig, LayerKind, Mamba1Config, MambaConfig
from harness.records import InputError

NAME = "mamba-ssm"
DECIDED_BY = "config.json with d_model, n_layer and ssm_cfg, without model_type"
_EPS = 1e-5
# Rotation tables are made for this many positions; the model itself has no limit.
_ATTENTION_CONTEXT = 1 << 15
# How weights were first drawn, and which kernel runs: not part of the maths.
_DRAWN = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init")
_NO_MATTER = ("layer", *_DRAWN, "use_fast_path", "use_mem_eff_path", "process_group", "sequence_parallel")


def recognises(folder: Path, config: Fields) -> bool:
    return "model_type" not in config.data and config.data.keys() >= {"d_model", "n_layer", "ssm_cfg"}


def plan(folder: Path, config: Fields, source: TensorSource) -> Plan:
    decoder = _config(folder, config)
    twins = (("lm_head.weight", "backbone.embedding.weight"),) if decoder.tied else ()
    return Plan(decoder, tuple(_entries(decoder)), twins)


def _config(folder: Path, config: Fields) -> DecoderConfig:
    config.only("rms_norm", True)
    width, depth = config.size("d_model"), config.layers("n_layer")
    ssm = config.inside("ssm_cfg")
    kind: LayerKind = "mamba2" if ssm.get("layer", str, "Mamba1") == "Mamba2" else "mamba1"
    ssm.only("layer", "Mamba1", "Mamba2")
    kept = config.layer_numbers("attn_layer_idx", depth, [])
    eos, bos = special_tokens(folder, config)
    return DecoderConfig(
        vocab_size=config.padded_vocabulary(),
        width=width,
        layers=tuple("attention" if i in kept else kind for i in range(depth)),
        mlp=-(-config.size("d_intermediate", 0, least=0) // 128) * 128,
        context=_ATTENTION_CONTEXT if kept else UNBOUNDED_CONTEXT,
        eos=eos,
        bos=bos,
        attention=_attention(config.inside("attn_cfg"), width) if kept else None,
        mamba=_mamba2(ssm, width) if kind == "mamba2" else None,
        mamba1=_mamba1(ssm, width) if kind == "mamba1" else None,
        norm_eps=_EPS,
        tied=config.get("tie_embeddings", bool, True),
    )


def _attention(attn: Fields, width: int) -> AttentionConfig:
    sizes = ("num_heads", "num_heads_kv", "head_dim", "rotary_emb_dim", "rotary_emb_base")
    attn.known(*sizes, "causal", "d_conv", "mlp_dim", "softmax_scale", "rotary_emb_interleaved", *_BIASES)
    heads = attn.size("num_heads")
    head_dim = attn.size("head_dim", width // heads)
    attn.only("d_conv", 0)
    attn.only("mlp_dim", 0)
    attn.only("rotary_emb_interleaved", False)
    # Their defaults are a bias, no mask and no rotation, so the fields must be there.
    for name, value in (*((bias, False) for bias in _BIASES), ("causal", True), ("rotary_emb_dim", head_dim)):
        if attn.get(name, type(value)) != value:
            raise InputError(f"{attn.where}: {name} = {shown(attn.data[name])}; only {value!r} can be run")
    if attn.data.get("softmax_scale") is not None:
        raise InputError(f"{attn.where}: softmax_scale = {shown(attn.data['softmax_scale'])}; only null can be run")
    base = attn.positive("rotary_emb_base", 10000.0)
    return AttentionConfig(heads, attn.size("num_heads_kv", heads), head_dim, base)


_BIASES = ("qkv_proj_bias", "out_proj_bias")


def _mamba2(ssm: Fields, width: int) -> MambaConfig:
    ssm.known(
        *("d_state", "d_conv", "expand", "headdim", "ngroups", "chunk_size", "rmsnorm", "norm_before_gate"),
        *("D_has_hdim", "d_ssm", "dt_limit", "bias", "conv_bias", *_NO_MATTER),
    )
    inner, head_dim = ssm.size("expand", 2) * width, ssm.size("headdim", 64)
    ssm.only("rmsnorm", True)
    ssm.only("norm_before_gate", False)
    ssm.only("D_has_hdim", False)
    ssm.only("d_ssm", inner)
    ssm.only("dt_limit", [0.0, math.inf])
    ssm.only("bias", False)
    ssm.only("conv_bias", True)
    if inner % head_dim:
        raise InputError(f"{ssm.where}: headdim = {head_dim}: must divide expand * d_model = {inner}")
    groups = ssm.size("ngroups", 1)
    return MambaConfig(
        heads=inner // head_dim,
        head_dim=head_dim,
        state=ssm.size("d_state", 128),
        groups=groups,
        conv=ssm.size("d_conv", 4),
        gated_norm=True,
        chunk=ssm.size("chunk_size", 256),
        norm_groups=groups,
    )


def _mamba1(ssm: Fields, width: int) -> Mamba1Config:
    ssm.known("d_state", "d_conv", "expand", "dt_rank", "bias", "conv_bias", *_NO_MATTER)
    ssm.only("bias", False)
    ssm.only("conv_bias", True)
    inner = ssm.size("expand", 2) * width
    return Mamba1Config(inner, ssm.dt_rank(width), ssm.size("d_state", 16), conv=ssm.size("d_conv", 4))


def _entries(config: DecoderConfig) -> Iterator[Entry]:
    v, w, m = config.vocab_size, config.width, config.mlp
    yield same("embedding.weight", "backbone.embedding.weight", v, w)
    yield same("norm.weight", "backbone.norm_f.weight", w)
    if not config.tied:
        yield same("head.weight", "lm_head.weight", v, w)
    mixers = {"mamba1": _mamba1_entries, "mamba2": mamba2, "attention": merged_attention}
    for i, kind in enumerate(config.layers):
        layer, block = f"backbone.layers.{i}", f"blocks.{i}"
        yield from mixers[kind](config, i, f"{layer}.mixer")
        yield same(f"{block}.mixer_norm.weight", f"{layer}.norm.weight", w)
        if m:
            yield same(f"{block}.mlp_norm.weight", f"{layer}.norm2.weight", w)
            yield rows(f"{block}.mlp.gate_up.weight", f"{layer}.mlp.fc1.weight", (m, m), (1, 0), w)
            yield same(f"{block}.mlp.down.weight", f"{layer}.mlp.fc2.weight", w, m)


def _mamba1_entries(config: DecoderConfig, i: int, source: str) -> Iterator[Entry]:
    assert config.mamba1 is not None
    m, w, block = config.mamba1, config.width, f"blocks.{i}.mixer"
    yield same(f"{block}.in_proj.weight", f"{source}.in_proj.weight", 2 * m.inner, w)
    yield from conv(block, f"{source}.conv1d", m.inner, m.conv)
    sizes = (m.dt_rank, m.state, m.state)
    yield rows(f"{block}.x_proj.weight", f"{source}.x_proj.weight", sizes, (1, 2, 0), m.inner)
    yield same(f"{block}.dt_proj.weight", f"{source}.dt_proj.weight", m.inner, m.dt_rank)
    yield same(f"{block}.dt_bias", f"{source}.dt_proj.bias", m.inner)
    yield same(f"{block}.A_log", f"{source}.A_log", m.inner, m.state)
    yield same(f"{block}.D", f"{source}.D", m.inner)
    yield same(f"{block}.out.weight", f"{source}.out_proj.weight", w, m.inner)
