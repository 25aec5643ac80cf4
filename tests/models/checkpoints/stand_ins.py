"""Lets the authors' modules run on a CPU: their CUDA calls are answered by mamba_ssm's own ``*_ref`` functions.

For ``remake_vectors.py`` alone. flash-attn, which they import for attention and RoPE, is answered by plain PyTorch.
Nothing here is theirs and nothing here is ours either: no module of the harness is used.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from typing import Any

import torch


def install() -> None:
    """Before the first import of the authors' code; causal_conv1d and mamba_ssm must be installed (sources suffice)."""
    for name in ("selective_scan_cuda", "causal_conv1d_cuda"):
        _module(name)
    _flash_attn()
    ops = "mamba_ssm.ops.triton"
    conv = importlib.import_module("causal_conv1d.causal_conv1d_interface")
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    update = importlib.import_module(f"{ops}.selective_state_update")
    combined = importlib.import_module(f"{ops}.ssd_combined")
    gated, norm = (importlib.import_module(f"{ops}.{name}") for name in ("layernorm_gated", "layer_norm"))

    def conv_fn(x: Any, weight: Any, bias: Any = None, seq_idx: Any = None, activation: Any = None) -> Any:
        return conv.causal_conv1d_ref(x, weight, bias, activation=activation)

    def chunk_scan(x: Any, dt: Any, A: Any, B: Any, C: Any, chunk_size: int, **given: Any) -> Any:
        states = given.pop("return_final_states", False)
        assert given.pop("seq_idx", None) is None and given.pop("cu_seqlens", None) is None
        given.pop("return_varlen_states", None)
        y = combined.ssd_chunk_scan_combined_ref(x, dt, A, B, C, x.shape[1], **given)
        if not states:
            return y
        h = x.new_zeros(*x.shape[:1], *x.shape[2:], B.shape[-1])
        bias = given.get("dt_bias")
        for t in range(x.shape[1]):
            update.selective_state_update_ref(
                h,
                x[:, t],
                dt[:, t, :, None].expand(-1, -1, x.shape[-1]),
                A[:, None, None].expand(h.shape[1:]),
                B[:, t],
                C[:, t],
                dt_bias=None if bias is None else bias[:, None].expand(h.shape[1:3]),
                dt_softplus=given.get("dt_softplus", False),
            )
        return y, h

    def norm_fn(x: Any, weight: Any, bias: Any, residual: Any = None, eps: float = 1e-6, **_: Any) -> Any:
        assert residual is None
        return norm.rms_norm_ref(x, weight, bias, eps=eps)

    answers = {
        "causal_conv1d_fn": conv_fn,
        "causal_conv1d_update": conv.causal_conv1d_update_ref,
        "selective_scan_fn": scan.selective_scan_ref,
        "selective_state_update": update.selective_state_update_ref,
        "mamba_chunk_scan_combined": chunk_scan,
        "rmsnorm_fn": gated.rms_norm_ref,
    }
    norm.rms_norm_fn = norm_fn
    # Modules import by name: whoever has one of these names already gets the answer, and so does their source.
    for module in [m for n, m in sys.modules.items() if n.split(".")[0] in ("mamba_ssm", "causal_conv1d")]:
        for name, answer in answers.items():
            if hasattr(module, name):
                setattr(module, name, answer)


def _module(name: str, **members: Any) -> types.ModuleType:
    """A module of that name, empty but for ``members``; its parents become packages."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    module.__dict__.update(members)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


def _attend(q: Any, k: Any, v: Any, causal: bool) -> Any:
    """q [batch, m, heads, dim] over k, v [batch, n, kv_heads, dim]; query i sees keys up to n - m + i."""
    groups = q.shape[2] // k.shape[2]
    k, v = (t.repeat_interleave(groups, dim=2) for t in (k, v))
    scores = torch.einsum("bmhd,bnhd->bhmn", q, k) / q.shape[-1] ** 0.5
    if causal:
        m, n = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(m, n, dtype=torch.bool).tril(n - m), float("-inf"))
    return torch.einsum("bhmn,bnhd->bmhd", scores.softmax(-1), v)


def _with_cache(q: Any, k_cache: Any, v_cache: Any, k: Any, v: Any, cache_seqlens: Any, causal: bool, **_: Any) -> Any:
    seen = int(cache_seqlens if isinstance(cache_seqlens, int) else cache_seqlens[0])
    end = seen + k.shape[1]
    k_cache[:, seen:end], v_cache[:, seen:end] = k, v
    return _attend(q, k_cache[:, :end], v_cache[:, :end], causal)


def _packed(q: Any, kv: Any, dropout_p: float = 0.0, causal: bool = False, **_: Any) -> Any:
    return _attend(q, kv[:, :, 0], kv[:, :, 1], causal)


def _rotate(x: Any, cos: Any, sin: Any) -> Any:
    """x [batch, time, heads, dim] in the split-half layout, cos and sin [time, dim / 2]."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def _apply_rotary(x: Any, cos: Any, sin: Any, seqlen_offsets: Any = 0, inplace: bool = False, **given: Any) -> Any:
    assert given.get("cu_seqlens") is None and not given.get("interleaved") and 2 * cos.shape[-1] == x.shape[-1]
    start = int(seqlen_offsets if isinstance(seqlen_offsets, int) else seqlen_offsets[0])
    turned = _rotate(x, cos[start : start + x.shape[1]], sin[start : start + x.shape[1]])
    return x.copy_(turned) if inplace else turned


class _RotaryEmbedding(torch.nn.Module):
    def __init__(self, dim: int, base: float = 10000.0, interleaved: bool = False, device: Any = None) -> None:
        super().__init__()
        assert not interleaved
        self.frequencies = base ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)

    def forward(self, q: Any, kv: Any, seqlen_offset: Any = 0, max_seqlen: Any = None) -> Any:
        start = int(seqlen_offset if isinstance(seqlen_offset, int) else seqlen_offset[0])
        angle = torch.outer(torch.arange(start, start + q.shape[1], dtype=torch.float32), self.frequencies)
        k = _rotate(kv[:, :, 0], angle.cos(), angle.sin())
        return _rotate(q, angle.cos(), angle.sin()), torch.stack((k, kv[:, :, 1]), dim=2)


def _flash_attn() -> None:
    unused = dict.fromkeys(
        ("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_varlen_kvpacked_func"), _packed
    ) | {"flash_attn_varlen_qkvpacked_func": _packed}
    _module("flash_attn", flash_attn_kvpacked_func=_packed, flash_attn_with_kvcache=_with_cache, **unused)
    _module("flash_attn.bert_padding", unpad_input=None, pad_input=None)
    _module("flash_attn.utils")
    _module("flash_attn.utils.distributed", get_dim_for_local_rank=None)
    _module("flash_attn.layers")
    _module("flash_attn.layers.rotary", RotaryEmbedding=_RotaryEmbedding)
    _module("flash_attn.ops")
    _module("flash_attn.ops.triton")
    _module("flash_attn.ops.triton.rotary", apply_rotary=_apply_rotary)
    # M1 takes its kernels for packed prompts of unequal length from vLLM; one prompt alone does not reach them.
    ops = "vllm.model_executor.layers.mamba.ops"
    for depth in range(1, 6):
        _module(".".join(ops.split(".")[:depth]))
    _module(f"{ops}.mamba_ssm", selective_scan_fn=None)
    _module(f"{ops}.causal_conv1d", causal_conv1d_fn=None)
