"""Writes ``vectors/``: small random checkpoints in each format by the original code, and that code's logits.

    python tests/models/checkpoints/remake_vectors.py --mamba-in-llama DIR --m1 DIR --llamba DIR [NAME ...]

The folders are checkouts of the authors' repositories, at the commits that ``vectors/README.md`` names. Needed beside
them: transformers 5.23, mamba_ssm 2.3.2.post1 and causal_conv1d 1.7.0 (their Python sources; no GPU), einops.
Each vector is made in a process of its own, since two of the repositories have a package of the same name.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

VECTORS = Path(__file__).parent / "vectors"
PROMPT, STEPS, VOCAB = 9, 64, 24
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 48,
}
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}
Logits = tuple[torch.Tensor, torch.Tensor]


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights at which every part of the maths counts, rounded to bf16 except what the original keeps in fp32."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in sorted(dict(model.named_parameters()).items()):
        noise = torch.randn(p.shape, generator=generator)
        last = name.rsplit(".", 2)[-2:]
        if "norm" in name:
            value = 1 + 0.3 * noise
        elif last[-1] == "A_log":
            value = 0.5 * noise
        elif last[-1] in ("D", "z_bias"):
            value = 0.7 + 0.7 * noise
        elif "conv1d" in last:
            value = 0.5 * noise
        elif p.ndim < 2:
            value = 0.7 * noise
        else:
            value = noise if "embed" in name else noise * 1.5 / math.sqrt(p.shape[1])
        p.data.copy_(value.to(torch.bfloat16))


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB, (1, PROMPT + STEPS), generator=torch.Generator().manual_seed(5))


def stored(state: dict[str, torch.Tensor], wide: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """bf16, as checkpoints are, but for names that end as in ``wide``."""
    return {n: (t.float() if n.endswith(wide) and wide else t.bfloat16()).contiguous() for n, t in state.items()}


def transformers_logits(model: torch.nn.Module) -> Logits:
    """A full forward, and a prefill with forced decode steps through the library's cache."""
    ids = tokens()
    model = model.eval()
    cache = model(ids[:, :PROMPT], use_cache=True)
    key = "past_key_values" if hasattr(cache, "past_key_values") else "cache_params"
    steps, state = [], cache[key]
    for t in range(PROMPT, ids.shape[1]):
        out = model(ids[:, t : t + 1], use_cache=True, **{key: state})
        state = out[key]
        steps.append(out.logits[0, -1])
    return model(ids, use_cache=False).logits[0], torch.stack(steps)


def mamba_ssm_logits(model: torch.nn.Module) -> Logits:
    """The same through mamba_ssm's inference parameters; ``pad_token_id`` is what M1's generate would set."""
    from mamba_ssm.utils.generation import InferenceParams

    ids, total = tokens(), PROMPT + STEPS
    model = model.float().eval()
    model.pad_token_id = None  # type: ignore[assignment]
    whole = model(ids, inference_params=InferenceParams(total, 1)).logits[0]
    state = InferenceParams(total, 1)
    model(ids[:, :PROMPT], inference_params=state)
    steps = []
    for t in range(PROMPT, total):
        state.seqlen_offset = t
        if state.lengths_per_sample is not None:
            state.lengths_per_sample = torch.full((1,), t, dtype=torch.int32)
        steps.append(model(ids[:, t : t + 1], inference_params=state).logits[0, -1])
    return whole, torch.stack(steps)


def hf_llama(out: Path, checkouts: Any) -> Logits:
    """Untied, llama3 RoPE, heads wider than width / heads, a list of eos, safetensors shards and their index."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {**LLAMA3, "rope_theta": 500.0}
    config = LlamaConfig(**LLAMA, head_dim=12, rope_parameters=rope, tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    randomise(model, 1)
    model.bfloat16().save_pretrained(out, max_shard_size="12KB")
    return transformers_logits(LlamaForCausalLM.from_pretrained(out, dtype=torch.float32))


def hf_llama_tied(out: Path, checkouts: Any) -> Logits:
    """Tied, plain RoPE, a config.json of the older style, ``pytorch_model.bin`` that holds lm_head.weight too."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True))
    randomise(model, 2)
    torch.save(stored(model.state_dict()), out / "pytorch_model.bin")
    old = {**LLAMA, "model_type": "llama", "rope_theta": 1000.0, "rope_scaling": None, "tie_word_embeddings": True}
    (out / "config.json").write_text(json.dumps(old, indent=1))
    return transformers_logits(LlamaForCausalLM.from_pretrained(out, dtype=torch.float32))


def gguf_llama(out: Path, checkouts: Any) -> Logits:
    """llama.cpp's file: q and k in its order of rows; Q8_0, Q4_1, F16 and F32 tensors; read back by transformers."""
    import gguf
    import numpy as np
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {**LLAMA, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
    randomise(model, 10)
    writer = gguf.GGUFWriter(str(out / "model.gguf"), "llama")
    for field, value in {
        **{"context_length": 256, "embedding_length": 32, "block_count": 2, "feed_forward_length": 32},
        **{"head_count": 4, "head_count_kv": 2, "rope_freq_base": 1000.0, "layer_norm_rms_eps": 1e-5},
        **{"tokenizer_model": "gpt2", "tokenizer_pre": "smollm", "token_list": [*"abcdefghijklmnopqrstu<>", "ab"]},
        **{"token_merges": ["a b"], "token_types": [1] * VOCAB, "eos_token_id": 2, "bos_token_id": 1},
    }.items():
        getattr(writer, f"add_{field}")(value)
    names = {"embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers.": "blk."}
    names |= {"self_attn.o_proj": "attn_output", "self_attn.": "attn_", "mlp.": "ffn_", "_proj": ""}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    kinds = {"attn_": "Q8_0", "ffn_": "Q4_1", "token_embd": "F16", "norm": "F32"}
    for full, tensor in model.state_dict().items():
        name, array = full, tensor.float().numpy()
        for theirs, short in names.items():
            name = name.replace(theirs, short)
        name = name.removeprefix("model.")
        if name == "lm_head.weight":
            continue
        for part, heads in (("attn_q", 4), ("attn_k", 2)):
            if part in name:
                array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        kind = gguf.GGMLQuantizationType[[k for part, k in kinds.items() if part in name][-1]]
        array = np.ascontiguousarray(array, dtype=np.float32)
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    for write in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, write)()
    return transformers_logits(LlamaForCausalLM.from_pretrained(out, gguf_file="model.gguf", dtype=torch.float32))


def hf_mamba2(out: Path, checkouts: Any) -> Logits:
    """Two groups of B and C and of the gated norm."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=VOCAB, hidden_size=16, num_heads=4, head_dim=8, state_size=8, n_groups=2, num_hidden_layers=2
    )
    model = Mamba2ForCausalLM(config)
    randomise(model, 3)
    model.bfloat16().save_pretrained(out)
    return transformers_logits(Mamba2ForCausalLM.from_pretrained(out, dtype=torch.float32))


def llamba(out: Path, checkouts: Any) -> Logits:
    """Tied; 3 heads of 12 over a state of 8, so that head dim, state and heads all differ; saved by their method."""
    checkout(checkouts.llamba / "cartesia-pytorch")
    from cartesia_pytorch.Llamba.llamba import LlambaLMHeadModel

    config = {
        "vocab_size": VOCAB - 1,
        "d_model": 36,
        "tie_embeddings": True,
        "n_layer": 2,
        "mlp_cfg": {"intermediate_size": 16, "bias": False, "act_fn": "silu"},
        "ssm_cfg": {
            "d_state": 8,
            "n_v_heads": 3,
            "n_qk_heads": 3,
            "expand": 1,
            "chunk_size": 16,
            "activation": "identity",
            "bias": False,
        },
    }
    model = LlambaLMHeadModel(config)
    randomise(model, 4)
    model.bfloat16().save_pretrained(out)
    again = LlambaLMHeadModel(json.loads((out / "config.json").read_text()))
    again.load_state_dict(torch.load(out / "pytorch_model.bin"))
    return mamba_ssm_logits(again)


def mamba_ssm_2(out: Path, checkouts: Any) -> Logits:
    """Mamba-2 with two groups, attention in layer 1 with grouped heads of another width, gated MLPs."""
    attn = {"num_heads": 4, "num_heads_kv": 2, "head_dim": 6, "rotary_emb_dim": 6, "causal": True}
    attn |= {"qkv_proj_bias": False, "out_proj_bias": False, "rotary_emb_base": 1000.0}
    ssm = {"layer": "Mamba2", "headdim": 8, "d_state": 8, "ngroups": 2}
    return _mamba_ssm(out, {"ssm_cfg": ssm, "attn_layer_idx": [1], "attn_cfg": attn, "d_intermediate": 100}, 2, 16, 5)


def mamba_ssm_1(out: Path, checkouts: Any) -> Logits:
    """Mamba-1 alone, no MLP; two steps of rank."""
    return _mamba_ssm(out, {"ssm_cfg": {"layer": "Mamba1", "d_state": 4}}, 2, 20, 6)


def _mamba_ssm(out: Path, fields: dict[str, Any], depth: int, width: int, seed: int) -> Logits:
    checkout()
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    config = MambaConfig(d_model=width, n_layer=depth, vocab_size=VOCAB - 3, pad_vocab_size_multiple=8, **fields)

    def build() -> torch.nn.Module:
        # The fused residual and the fused whole are CUDA alone; they are the same maths.
        model = MambaLMHeadModel(dataclasses.replace(config, fused_add_norm=False))
        for module in model.modules():
            for name in ("use_mem_eff_path", "use_fast_path"):
                if hasattr(module, name):
                    setattr(module, name, False)
        return model

    model = build()
    randomise(model, seed)
    model.bfloat16().save_pretrained(out)
    (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    again = build()
    again.load_state_dict(torch.load(out / "pytorch_model.bin"))
    return mamba_ssm_logits(again)


def mamba_in_llama(out: Path, checkouts: Any) -> Logits:
    """Mamba-1 in the layout of their training code (projections apart), run by their inference code, which merges."""
    path = checkout(checkouts.mamba_in_llama)
    mamba = {"d_xb": 12, "ssm_cfg": {"expand": 1, "d_state": 4}, "attn_layers": [1]}
    return _hybrid(out, path, "mamba", "mamba_inference", LLAMA, mamba, 7)


def mamba2_in_llama(out: Path, checkouts: Any) -> Logits:
    """Their Mamba-2: heads of d_state channels, as many groups, x and B from d_xb channels repeated behind the conv."""
    path = checkout(checkouts.mamba_in_llama)
    mamba = {"d_xb": 32, "ssm_cfg": {"expand": 2, "d_state": 16, "ngroups": 4}, "attn_layers": [1]}
    return _hybrid(out, path, "mamba2", "mamba2_inference", {**LLAMA, "hidden_size": 32}, mamba, 8)


def m1(out: Path, checkouts: Any) -> Logits:
    """M1: projections merged in the file, attention in the first and last layer."""
    path = checkout(checkouts.m1)
    mamba = {"d_xb": 12, "ssm_cfg": {"expand": 1, "d_state": 4}, "attn_layers": [0, 2]}
    return _hybrid(out, path, None, "mamba", LLAMA, mamba, 9)


def _hybrid(
    out: Path, path: Path, trained: str | None, run: str, llama: dict[str, Any], mamba: dict[str, Any], seed: int
) -> Logits:
    """``trained`` is the package whose layers name the tensors (None: the one that runs them)."""
    import importlib

    import transformers

    # Of the transformers that their code was written for.
    transformers.utils.is_safetensors_available = lambda: True
    for name in ("GreedySearchDecoderOnlyOutput", "SampleDecoderOnlyOutput"):
        setattr(importlib.import_module("transformers.generation"), name, None)
    wrapper = importlib.import_module(f"{run}.hybrid_wrapper")
    layers = importlib.import_module(f"{run}.hybrid_model")
    for name in ("MHADecoderLayer", "MambaDecoderLayer"):
        setattr(wrapper, name, _on_cpu(getattr(layers, name)))
    attention = importlib.import_module(f"{run}.mha") if trained is None else None
    if attention is not None:
        # Its classes for FlashAttention insist on 16-bit CUDA tensors; those beside them are the same in plain PyTorch.
        attention.FlashCrossAttention.forward = lambda self, q, kv, **_: attention.flash_attn_kvpacked_func(
            q, kv, causal=self.causal
        )
    torch.nn.Module.cuda = lambda self: self  # type: ignore[method-assign,assignment]
    # config.json as published: the base model's own, in the older style, scaled RoPE included.
    old = {**llama, "model_type": "llama", "rope_theta": 500.0, "rope_scaling": LLAMA3, "tie_word_embeddings": True}
    (out / "config.json").write_text(json.dumps(old, indent=1))
    fields = {"d_model": llama["hidden_size"], "intermediate_size": llama["intermediate_size"], "n_layer": 3}
    config = wrapper.MambaConfig(**fields, **mamba)
    base = _base(out)
    if trained is None:
        model = wrapper.MambaTransformerHybridModelWrapper(None, base, config, config.attn_layers, torch.float32)
    else:
        model = argparse.Namespace(model=base)
        made = importlib.import_module(f"{trained}.hybrid_model").MambaDecoderLayer
        for i in set(range(3)) - set(config.attn_layers):
            base.model.layers[i] = made(config, i)
    randomise(model.model, seed)
    state = dict(model.model.state_dict())
    del state["lm_head.weight"]  # tied: Hugging Face leaves it out, and so do the published files
    save_file(stored(state, ("mamba.A_log", "mamba.D")), out / "model.safetensors")
    wrapper.MambaTransformerHybridModelWrapper.save_config(argparse.Namespace(mamba_config=config), str(out))
    _with_head(wrapper)
    return mamba_ssm_logits(
        wrapper.MambaTransformerHybridModelWrapper(str(out), _base(out), config, config.attn_layers, torch.float32)
    )


def _base(folder: Path) -> Any:
    """The Transformer whose layers they replace, its config with the field that their layers read."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    config.rope_theta = config.rope_parameters["rope_theta"]
    return transformers.AutoModelForCausalLM.from_config(config)


def _with_head(wrapper: Any) -> None:
    """Loaded strictly, their inference code wants the tied head too."""
    read = wrapper.load_safetensors_to_dict

    def with_head(folder: str) -> dict[str, torch.Tensor]:
        state = {n: t.float() for n, t in read(folder).items()}
        return {**state, "lm_head.weight": state["model.embed_tokens.weight"]}

    wrapper.load_safetensors_to_dict = with_head


def _on_cpu(layer: Any) -> Callable[..., Any]:
    return lambda *args, **given: layer(*args, **{**given, "device": "cpu"})


def checkout(path: Path | None = None) -> Path:
    """The authors' code on the path, their CUDA calls answered."""
    sys.path.insert(0, str(Path(__file__).parent))
    import stand_ins

    stand_ins.install()
    if path is not None:
        sys.path.insert(0, str(path))
    return path or Path()


MAKERS = {
    "hf-llama": hf_llama,
    "hf-llama-tied": hf_llama_tied,
    "gguf": gguf_llama,
    "hf-mamba2": hf_mamba2,
    "llamba": llamba,
    "mamba-ssm-1": mamba_ssm_1,
    "mamba-ssm-2": mamba_ssm_2,
    "mamba-in-llama": mamba_in_llama,
    "mamba2-in-llama": mamba2_in_llama,
    "m1": m1,
}


_TRANSFORMERS = "transformers 5.23.0"
_LLAMBA = "cartesia-ai/edge 95d82768 on mamba_ssm's ref functions"
_MIL, _M1 = (f"{name} on mamba_ssm's ref functions" for name in ("jxiw/MambaInLlama 60d64dc6", "jxiw/M1 d92b53fa"))
_MAMBA_SSM = "mamba_ssm 2.3.2.post1 on its ref functions"
ABOUT = {
    "hf-llama": ("hf-llama", "untied, llama3 RoPE, wide heads, shards", _TRANSFORMERS),
    "hf-llama-tied": ("hf-llama", "tied, plain RoPE, .bin", _TRANSFORMERS),
    "gguf": ("gguf", "Llama, tied; Q8_0, Q4_1, F16 and F32", "transformers 5.19.0"),
    "hf-mamba2": ("hf-mamba2", "Mamba-2, two groups", _TRANSFORMERS),
    "llamba": ("llamba", "discrete Mamba-2, tied, .bin", _LLAMBA),
    "mamba-ssm-1": ("mamba-ssm", "Mamba-1, .bin", _MAMBA_SSM),
    "mamba-ssm-2": ("mamba-ssm", "Mamba-2 of two groups, attention, gated MLP, .bin", _MAMBA_SSM),
    "mamba-in-llama": ("mamba-in-llama", "Mamba-1 and attention, projections apart", _MIL),
    "mamba2-in-llama": ("mamba-in-llama", "Mamba-2 and attention", _MIL),
    "m1": ("mamba-in-llama", "M1: Mamba-1 and attention, projections merged", _M1),
}


def make(name: str, checkouts: Any) -> None:
    out = VECTORS / name
    out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        whole, steps = MAKERS[name](out, checkouts)
    apart = float((whole[PROMPT:] - steps).abs().max() / whole.abs().max())
    print(f"{name}: the original's two ways differ by {apart:.1e}, largest logit {float(whole.abs().max()):.1f}")
    assert apart < 1e-4
    save_file(
        {"tokens": tokens()[0], "forward": whole.float().contiguous(), "steps": steps.float().contiguous()},
        out / "logits.safetensors",
    )
    (out / "generation_config.json").unlink(missing_ok=True)
    about = dict(zip(("format", "model", "oracle"), ABOUT[name], strict=True))
    (out / "vector.json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--mamba-in-llama", "--m1", "--llamba"):
        parser.add_argument(option, type=Path)
    parser.add_argument("names", nargs="*", choices=[*MAKERS, []])
    given = parser.parse_args()
    if len(given.names) == 1:
        make(given.names[0], given)
        return
    options = [a for a in sys.argv[1:] if a not in MAKERS]
    for name in given.names or MAKERS:
        subprocess.run([sys.executable, __file__, *options, name], check=True)


if __name__ == "__main__":
    main()
