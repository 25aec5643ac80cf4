"""MambaInLlama (arXiv 2408.15237) and M1 (arXiv 2504.10449): a Llama config.json with mamba_config.json beside it.

Traps: ``d_inner`` and ``vocab_size`` may be null (expand * d_model, the base model's); ``attn_layers`` says which
layers stay attention; training writes the projections apart (``in_proj_x`` .., ``self_attn.q_proj`` ..), M1 merged
(``in_proj`` rows [z | x | B | C | dt], ``mha.in_proj``); Mamba-1's dt bias counts twice and its x is repeated before
the convolution, Mamba-2's behind it; attention turns with ``rope_theta`` alone, whatever ``rope_scaling`` the base
model's config keeps, since the authors' inference code never reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from harness.models.checkpoints.fields import Fields
from harness.models.checkpoints.hf_llama import around, attention, ends, llama_config, tied_head
from harness.models.checkpoints.mapping import Entry, Plan, conv, rows, same
from harness.models.checkpoints.mixers import mamba2, merged_attention
from harness.models.checkpoints.source import TensorSource
from harness.models.config import DecoderConfig, LayerKind, Mamba1Config, MambaConfig, RopeScaling
from harness.records import InputError

NAME = "mamba-in-llama"
MAMBA_CONFIG = "mamba_config.json"
DECIDED_BY = f"config.json with {MAMBA_CONFIG} beside it"
# Of Mamba-2's gated norm, whatever the others have.
_GATED_EPS = 1e-5
_NO_MATTER = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path", "use_mem_eff_path")


def recognises(folder: Path, config: Fields) -> bool:
    return (folder / MAMBA_CONFIG).is_file()


def plan(folder: Path, config: Fields, source: TensorSource) -> Plan:
    decoder = _config(folder, config, Fields.read(folder / MAMBA_CONFIG))
    return Plan(decoder, tuple(_entries(decoder, source)), tied_head(decoder))


def _config(folder: Path, config: Fields, mamba: Fields) -> DecoderConfig:
    depth = config.layers("num_hidden_layers")
    kept = mamba.layer_numbers("attn_layers", depth)
    ssm = mamba.inside("ssm_cfg")
    # Mamba-2 alone has groups of its own.
    kind: LayerKind = "mamba2" if "ngroups" in ssm.data else "mamba1"
    llama = llama_config(folder, config)
    assert llama.attention is not None
    mamba.only("hidden_act", "silu")
    for name, value in (
        *(("d_model", llama.width), ("n_layer", depth), ("intermediate_size", llama.mlp)),
        *(("rms_norm_eps", llama.norm_eps), ("vocab_size", llama.vocab_size)),
    ):
        mamba.only(name, value)
    plain = dataclasses.replace(llama.attention, rope_scaling=RopeScaling())
    inner = mamba.size("d_inner", ssm.size("expand", 2) * llama.width)
    return dataclasses.replace(
        llama,
        layers=tuple("attention" if i in kept else kind for i in range(depth)),
        attention=plain if kept else None,
        mamba=_mamba2(mamba, ssm, inner, llama.norm_eps) if kind == "mamba2" else None,
        mamba1=_mamba1(mamba, ssm, inner) if kind == "mamba1" else None,
    )


def _mamba1(mamba: Fields, ssm: Fields, inner: int) -> Mamba1Config:
    biases = ("proj_x_bias", "proj_z_bias", "out_proj_bias")
    ssm.known("expand", "d_state", "d_conv", "dt_rank", "repeat_kv_before_conv", "conv_bias", *biases, *_NO_MATTER)
    ssm.only("repeat_kv_before_conv", True)
    ssm.only("conv_bias", True)
    for name in biases:
        ssm.only(name, False)
    return Mamba1Config(
        inner=inner,
        dt_rank=ssm.dt_rank(mamba.size("d_model")),
        state=ssm.size("d_state", 16),
        xb=mamba.size("d_xb"),
        conv=ssm.size("d_conv", 4),
        dt_bias_twice=True,
    )


def _mamba2(mamba: Fields, ssm: Fields, inner: int, eps: float) -> MambaConfig:
    sizes = ("expand", "d_state", "d_conv", "ngroups", "chunk_size", "headdim", "d_ssm")
    choices = {"rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False, "bias": False, "conv_bias": True}
    choices["repeat_kv_before_conv"] = False
    ssm.known(*sizes, *choices, "A_init_range", "conv_init", *_NO_MATTER)
    for name, value in choices.items():
        ssm.only(name, value)
    ssm.only("d_ssm", inner)
    state, groups, xb = ssm.size("d_state", 128), ssm.size("ngroups"), mamba.size("d_xb")
    if groups * state != inner or xb % state:
        raise InputError(
            f"{ssm.where}: ngroups = {groups}: times d_state must be {inner}, and d_state divide d_xb = {xb}"
        )
    if eps != _GATED_EPS:
        raise InputError(f"{mamba.where}: rms_norm_eps = {eps}; only {_GATED_EPS}, their gated norm's, can be run")
    return MambaConfig(
        heads=groups,
        head_dim=state,
        state=state,
        groups=groups,
        conv=ssm.size("d_conv", 4),
        gated_norm=True,
        chunk=ssm.size("chunk_size", 256),
        kv_heads=xb // state,
        norm_groups=groups,
    )


def _entries(config: DecoderConfig, source: TensorSource) -> Iterator[Entry]:
    yield from ends(config)
    for i, kind in enumerate(config.layers):
        layer = f"model.layers.{i}"
        if kind == "mamba2":
            yield from mamba2(config, i, f"{layer}.mamba")
        elif kind == "mamba1":
            yield from _mamba1_entries(config, i, f"{layer}.mamba", f"{layer}.mamba.in_proj.weight" in source.shapes)
        elif f"{layer}.self_attn.q_proj.weight" in source.shapes:
            yield from attention(config, i)
        else:
            yield from merged_attention(config, i, f"{layer}.mha")
        yield from around(config, i)


def _mamba1_entries(config: DecoderConfig, i: int, source: str, merged: bool) -> Iterator[Entry]:
    assert config.mamba1 is not None and config.mamba1.xb is not None
    m, w, block = config.mamba1, config.width, f"blocks.{i}.mixer"
    xb = config.mamba1.xb
    if merged:
        sizes = (m.inner, 2 * xb + m.inner, m.dt_rank)
        yield rows(f"{block}.in_proj.weight", f"{source}.in_proj.weight", sizes, (1, 0, 2), w)
    else:
        apart = {"in_proj_x": xb, "B_proj": xb, "C_proj": m.inner, "in_proj_z": m.inner, "dt_proj_down": m.dt_rank}
        yield Entry(f"{block}.in_proj.weight", tuple((f"{source}.{n}.weight", (r, w)) for n, r in apart.items()))
    yield from conv(block, f"{source}.conv1d", m.inner, m.conv)
    yield same(f"{block}.dt_proj.weight", f"{source}.dt_proj.weight", m.inner, m.dt_rank)
    yield same(f"{block}.dt_bias", f"{source}.dt_proj.bias", m.inner)
    yield same(f"{block}.A_log", f"{source}.A_log", m.inner, m.state)
    yield same(f"{block}.D", f"{source}.D", m.inner)
    yield same(f"{block}.out.weight", f"{source}.out_proj.weight", w, m.inner)
