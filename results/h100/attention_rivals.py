"""Rivals of ``attention_kernels.py``: FlashAttention 3 as vLLM calls it, and torch's SDPA as a floor."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from harness.kernels.attention_plan import PAGE_TOKENS

# FA3's own choice, none, and the bounds that vLLM sets when it captures graphs (older, newer).
FA3_SPLITS = (0, 1, 16, 32)


def flash_attention_3(inputs: list, timed: Callable) -> float | None:
    """Seconds of vLLM's call over the same pages, the best over ``FA3_SPLITS``; None where vLLM is not installed.

    Lengths are whole pages, so one table serves both pools, a prompt's pages first. vLLM's layout of a page is
    [page, kv_heads, dim], where ours is [kv_heads, page, dim].
    """
    try:
        from vllm.vllm_flash_attn import flash_attn_varlen_func, get_scheduler_metadata
    except ImportError:
        return None
    c, device = inputs[0].cell, inputs[0].device
    if device.type != "cuda":
        return None
    length = c.prompt + c.generated
    starts = torch.arange(c.rows + 1, dtype=torch.int32, device=device)
    used = torch.full((c.rows,), length, dtype=torch.int32, device=device)
    expected = inputs[0].run(inputs[0].plan()).double()
    common = {"max_seqlen_q": 1, "cu_seqlens_q": starts, "max_seqlen_k": length, "seqused_k": used, "causal": True}
    common |= {"softmax_scale": c.dim**-0.5, "fa_version": 3}
    own = []
    for i in inputs:
        k, v = (torch.cat(t).transpose(1, 2).contiguous() for t in ((i.prompts.k, i.k), (i.prompts.v, i.v)))
        shared = i.prompts.page[:, None] + torch.arange(i.prompt_pages, dtype=torch.int32, device=device)
        table = torch.cat((shared, i.table + i.prompts.k.shape[0]), dim=1)
        own.append({"q": i.q, "k": k, "v": v, "block_table": table, "out": torch.empty_like(i.q)})
    best = math.inf
    for splits in FA3_SPLITS:
        schedule = get_scheduler_metadata(
            batch_size=c.rows,
            max_seqlen_q=1,
            max_seqlen_k=length,
            num_heads_q=c.heads,
            num_heads_kv=c.kv_heads,
            headdim=c.dim,
            cache_seqlens=used,
            qkv_dtype=c.dtype,
            cu_seqlens_q=starts,
            page_size=PAGE_TOKENS,
            causal=True,
            num_splits=splits,
        )
        launch = common | {"scheduler_metadata": schedule, "num_splits": splits}
        calls = [functools.partial(flash_attn_varlen_func, **launch, **tensors) for tensors in own]
        got = calls[0]().flatten(1).double()
        off = ((got - expected).norm() / expected.norm()).item()
        if not off < 2e-2:
            raise SystemExit(f"FlashAttention 3 and attention_decode differ by {off:.1e} at {c.name}")
        best = min(best, timed(calls, device))
    return best


def sdpa(inputs: list, timed: Callable) -> float:
    """Seconds of torch's scaled_dot_product_attention over contiguous keys and values of the same lengths."""
    c = inputs[0].cell
    shape = (c.rows, c.kv_heads, c.prompt + c.generated, c.dim)
    calls = []
    for i in inputs:
        k, v = (torch.randn(shape, device=i.device, dtype=c.dtype) for _ in range(2))
        attend = torch.nn.functional.scaled_dot_product_attention
        calls.append(functools.partial(attend, i.q[:, :, None], k, v, enable_gqa=c.heads != c.kv_heads))
    return timed(calls, inputs[0].device)
