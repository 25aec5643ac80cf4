"""The Hugging Face folder that vLLM reads a model from: the model's own, or one written here for as long as it loads.

vLLM knows Llama and Mamba2 in Hugging Face's layout. A model is one of these exactly if that layout's reader makes our
config of the ``config.json`` written here, so nothing is written that vLLM would compute otherwise. Tensors are written
by the same reader's entries, run backwards. A ``random:`` shape is a config alone: vLLM draws weights of its own.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from harness.models.checkpoints import formats, hf_llama, hf_mamba2
from harness.models.checkpoints.fields import Fields
from harness.models.checkpoints.mapping import Entry, Plan
from harness.models.checkpoints.source import TensorSource
from harness.models.checkpoints.tokenizer import load_codec
from harness.models.config import AttentionConfig, DecoderConfig, MambaConfig
from harness.models.decoder import Decoder
from harness.models.resolve import LoadedModel, describe, fingerprint, load_model
from harness.records import InputError
from harness.tasks.builtin.tokenizer import PATH as TOKENIZER

RUNS = "it runs Llama and Mamba2 (all layers attention, or all mamba2)"
_DIRECT = (hf_llama.NAME, hf_mamba2.NAME)


def load_for_vllm(name: str, dtype: torch.dtype, seed: int) -> LoadedModel:
    """What ``load_model`` gives, on the CPU, held to what vLLM can run; random weights stay on the meta device."""
    if not name.startswith("random:"):
        model = load_model(name, dtype, torch.device("cpu"), seed)
        check_layout(model.name, model.config)
        return model
    config = describe(name)[1]
    check_layout(name, config)
    with torch.device("meta"):
        decoder = Decoder(config).to(dtype).requires_grad_(False).eval()
    found = fingerprint(name, seed)
    return LoadedModel(found.name, decoder, load_codec(TOKENIZER, config), found.sha256, found.random)


def check_layout(name: str, config: DecoderConfig) -> None:
    """InputError for a model that has no exact counterpart in vLLM."""
    kinds = set(config.layers)
    if kinds not in ({"attention"}, {"mamba2"}):
        found = ", ".join(sorted(kinds))
        raise InputError(f"--engine vllm: {name} has {found} layers; {RUNS}; use --engine eager, or native on a GPU")
    if (difference := _difference(config)) is not None:
        raise InputError(f"--engine vllm: {name} is no {_layout(config).NAME}: its {difference}; use --engine eager")


@contextmanager
def folder_for(name: str, model: LoadedModel) -> Iterator[Path]:
    """A folder that vLLM can load ``model`` from; what is written for it is gone when the block ends."""
    own = Path(name)
    if own.is_dir() and (own / "config.json").is_file():
        chosen = formats.recognise(own)
        if chosen is not None and chosen[0].NAME in _DIRECT:
            yield own
            return
    with tempfile.TemporaryDirectory(prefix="harness-vllm-") as made:
        write(model, Path(made))
        yield Path(made)


def write(model: LoadedModel, folder: Path) -> None:
    """config.json and, unless the weights are on the meta device, model.safetensors in their dtype."""
    decoder = model.decoder
    config = _config(model.config)
    config["dtype"] = str(decoder.embedding.weight.dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    if decoder.device.type == "meta":
        return
    parameters = dict(decoder.named_parameters())
    tensors: dict[str, torch.Tensor] = {}
    for entry in _plan(model.config).entries:
        tensors |= unbuilt(entry, parameters[entry.target])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def unbuilt(entry: Entry, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors that ``entry`` would make ``value`` of. It may only put rows in another order."""
    numbers, start = [], 0
    for _, shape in entry.sources:
        numbers.append(torch.arange(start, start + shape[0]).view(-1, *(1 for _ in shape[1:])))
        start += shape[0]
    order = entry.build(numbers).reshape(-1)
    theirs = torch.empty_like(value, memory_format=torch.contiguous_format)
    theirs[order] = value
    parts = theirs.split([shape[0] for _, shape in entry.sources])
    return {name: t.reshape(shape).clone() for (name, shape), t in zip(entry.sources, parts, strict=True)}


def _layout(config: DecoderConfig) -> Any:
    return hf_llama if config.layers[0] == "attention" else hf_mamba2


def _plan(config: DecoderConfig) -> Plan:
    """The layout's own reading of what ``_config`` writes."""
    return _layout(config).plan(Path(), Fields(_config(config), "config.json"), TensorSource(Path(), {}))


def _difference(config: DecoderConfig) -> str | None:
    """The first field in which the layout's reading parts from our config; a Mamba2 has no context of its own."""
    read = dataclasses.replace(_plan(config).config, context=config.context)
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(read, field.name)
        unused = field.name in ("attention", "mamba", "mamba1") and theirs is None
        if ours != theirs and not unused:
            return f"{field.name} = {ours} would be read as {theirs}"
    return None


def _config(config: DecoderConfig) -> dict[str, Any]:
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": len(config.layers),
        "tie_word_embeddings": config.tied,
        "eos_token_id": list(config.eos),
        "bos_token_id": config.bos,
    }
    if config.layers[0] == "attention":
        assert config.attention is not None, "DecoderConfig holds it"
        return {**common, **_llama(config, config.attention)}
    assert config.mamba is not None, "DecoderConfig holds it"
    return {**common, **_mamba2(config, config.mamba)}


def _llama(config: DecoderConfig, attention: AttentionConfig) -> dict[str, Any]:
    scaling = attention.rope_scaling
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "intermediate_size": config.mlp,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": attention.rope_theta,
        "rope_scaling": None
        if scaling.factor == 1.0
        else {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        },
    }


def _mamba2(config: DecoderConfig, mamba: MambaConfig) -> dict[str, Any]:
    # Whole wherever it can be: transformers' Mamba2Config takes no other number.
    expand = mamba.inner / config.width
    return {
        "model_type": "mamba2",
        "architectures": ["Mamba2ForCausalLM"],
        "num_heads": mamba.heads,
        "head_dim": mamba.head_dim,
        "state_size": mamba.state,
        "n_groups": mamba.groups,
        "conv_kernel": mamba.conv,
        "chunk_size": mamba.chunk,
        "expand": int(expand) if expand.is_integer() else expand,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "layer_norm_epsilon": config.norm_eps,
    }
