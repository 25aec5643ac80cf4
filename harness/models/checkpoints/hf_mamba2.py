"""Hugging Face's Mamba2ForCausalLM: config.json with model_type "mamba2", tensors under ``backbone.``.

Traps: ``in_proj`` rows are [z | x | B | C | dt]; the gated norm has a mean for each of ``n_groups`` parts, as where
these weights are trained (mamba_ssm); transformers has that since 5.20 and took one mean over all before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from harness.models.checkpoints.fields import Fields, special_tokens
from harness.models.checkpoints.mapping import Entry, Plan, same
from harness.models.checkpoints.mixers import UNBOUNDED_CONTEXT, mamba2
from harness.models.checkpoints.source import TensorSource
from harness.models.config import DecoderConfig, LayerKind, MambaConfig
from harness.records import InputError

NAME = "hf-mamba2"
DECIDED_BY = 'config.json with model_type "mamba2"'
_EMBEDDING, _OLD_EMBEDDING = "backbone.embeddings.weight", "backbone.embedding.weight"


def recognises(folder: Path, config: Fields) -> bool:
    return config.data.get("model_type") == "mamba2"


def plan(folder: Path, config: Fields, source: TensorSource) -> Plan:
    decoder = _config(folder, config)
    embedding = _OLD_EMBEDDING if _OLD_EMBEDDING in source.shapes else _EMBEDDING
    twins = (("lm_head.weight", embedding),) if decoder.tied else ()
    return Plan(decoder, tuple(_entries(decoder, embedding)), twins)


def _config(folder: Path, config: Fields) -> DecoderConfig:
    config.only("hidden_act", "silu")
    config.only("use_bias", False)
    config.only("use_conv_bias", True)
    # JSON has no infinity: the second is how transformers 5 spells it.
    config.only("time_step_limit", [0.0, math.inf], [0.0, {"__float__": "Infinity"}])
    heads, head_dim = config.size("num_heads", 128), config.size("head_dim", 64)
    width, expand = config.size("hidden_size"), config.positive("expand", 2.0)
    if heads * head_dim != int(expand * width):
        raise InputError(f"{config.where}: num_heads = {heads}: times head_dim must be expand * hidden_size")
    groups = config.size("n_groups", 8)
    layers: tuple[LayerKind, ...] = tuple("mamba2" for _ in range(config.layers("num_hidden_layers")))
    eos, bos = special_tokens(folder, config)
    return DecoderConfig(
        vocab_size=config.size("vocab_size"),
        width=width,
        layers=layers,
        mlp=0,
        context=UNBOUNDED_CONTEXT,
        eos=eos,
        bos=bos,
        mamba=MambaConfig(
            heads=heads,
            head_dim=head_dim,
            state=config.size("state_size", 128),
            groups=groups,
            conv=config.size("conv_kernel", 4),
            gated_norm=True,
            chunk=config.size("chunk_size", 256),
            norm_groups=groups,
        ),
        norm_eps=config.positive("layer_norm_epsilon", 1e-5),
        tied=config.get("tie_word_embeddings", bool, False),
    )


def _entries(config: DecoderConfig, embedding: str) -> Iterator[Entry]:
    v, w = config.vocab_size, config.width
    yield same("embedding.weight", embedding, v, w)
    yield same("norm.weight", "backbone.norm_f.weight", w)
    if not config.tied:
        yield same("head.weight", "lm_head.weight", v, w)
    for i in range(len(config.layers)):
        yield same(f"blocks.{i}.mixer_norm.weight", f"backbone.layers.{i}.norm.weight", w)
        yield from mamba2(config, i, f"backbone.layers.{i}.mixer")
