"""Hugging Face's Llama layout: config.json of a LlamaForCausalLM, tensors under ``model.``.

Traps: a tied checkpoint may still hold ``lm_head.weight``; ``head_dim`` may differ from width / heads; ``eos_token_id``
is one id or a list; RoPE turns the pairs (i, i + dim / 2), as ours does, so q and k are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.models.checkpoints.fields import Fields, special_tokens
from harness.models.checkpoints.mapping import Entry, Plan, same
from harness.models.checkpoints.source import TensorSource
from harness.models.config import AttentionConfig, DecoderConfig, LayerKind

NAME = "hf-llama"
DECIDED_BY = 'config.json with model_type "llama"'


def recognises(folder: Path, config: Fields) -> bool:
    return config.data.get("model_type") == "llama"


def plan(folder: Path, config: Fields, source: TensorSource) -> Plan:
    decoder = llama_config(folder, config)
    # Old checkpoints keep RoPE's inverse frequencies beside the weights.
    ignored = frozenset(f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(len(decoder.layers)))
    return Plan(decoder, tuple(_entries(decoder)), tied_head(decoder), ignored)


def llama_config(folder: Path, config: Fields) -> DecoderConfig:
    """What all models that keep Llama's config.json have in common."""
    config.only("hidden_act", "silu")
    config.only("attention_bias", False)
    config.only("mlp_bias", False)
    heads, width = config.size("num_attention_heads"), config.size("hidden_size")
    theta, scaling = config.rope()
    layers: tuple[LayerKind, ...] = tuple("attention" for _ in range(config.layers("num_hidden_layers")))
    eos, bos = special_tokens(folder, config)
    return DecoderConfig(
        vocab_size=config.size("vocab_size"),
        width=width,
        layers=layers,
        mlp=config.size("intermediate_size"),
        context=config.size("max_position_embeddings", 2048),
        eos=eos,
        bos=bos,
        attention=AttentionConfig(
            heads=heads,
            kv_heads=config.size("num_key_value_heads", heads),
            head_dim=config.size("head_dim", width // heads),
            rope_theta=theta,
            rope_scaling=scaling,
        ),
        norm_eps=config.positive("rms_norm_eps", 1e-6),
        tied=config.get("tie_word_embeddings", bool, False),
    )


def tied_head(config: DecoderConfig) -> tuple[tuple[str, str], ...]:
    return (("lm_head.weight", "model.embed_tokens.weight"),) if config.tied else ()


def ends(config: DecoderConfig) -> Iterator[Entry]:
    """Embedding, last norm and head."""
    v, w = config.vocab_size, config.width
    yield same("embedding.weight", "model.embed_tokens.weight", v, w)
    yield same("norm.weight", "model.norm.weight", w)
    if not config.tied:
        yield same("head.weight", "lm_head.weight", v, w)


def attention(config: DecoderConfig, i: int) -> Iterator[Entry]:
    """Attention of block ``i`` with q, k and v apart."""
    assert config.attention is not None
    a, w, layer = config.attention, config.width, f"model.layers.{i}.self_attn"
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    parts = (
        (f"{layer}.q_proj.weight", (q, w)),
        (f"{layer}.k_proj.weight", (kv, w)),
        (f"{layer}.v_proj.weight", (kv, w)),
    )
    yield Entry(f"blocks.{i}.mixer.qkv.weight", parts)
    yield same(f"blocks.{i}.mixer.out.weight", f"{layer}.o_proj.weight", w, q)


def around(config: DecoderConfig, i: int, prefix: str = "model") -> Iterator[Entry]:
    """The norms and the MLP of block ``i``."""
    w, m, layer, block = config.width, config.mlp, f"{prefix}.layers.{i}", f"blocks.{i}"
    yield same(f"{block}.mixer_norm.weight", f"{layer}.input_layernorm.weight", w)
    yield same(f"{block}.mlp_norm.weight", f"{layer}.post_attention_layernorm.weight", w)
    parts = ((f"{layer}.mlp.gate_proj.weight", (m, w)), (f"{layer}.mlp.up_proj.weight", (m, w)))
    yield Entry(f"{block}.mlp.gate_up.weight", parts)
    yield same(f"{block}.mlp.down.weight", f"{layer}.mlp.down_proj.weight", w, m)


def _entries(config: DecoderConfig) -> Iterator[Entry]:
    yield from ends(config)
    for i in range(len(config.layers)):
        yield from attention(config, i)
        yield from around(config, i)
