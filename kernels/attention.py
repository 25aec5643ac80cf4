"""Grouped-query attention: causal over a sequence, and one query a row over pages of keys and values.

``paged_attention`` reads every page once, in place (no page is gathered or copied): a page of a
shared prompt serves all rows of that prompt in one product (cascade). Partial results of a page are
(max, sum of exp, weighted values) and are combined for each row in a fixed order, so a result does
not depend on what the other rows hold (Flash-Decoding's split, Dao 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q [batch, heads, time, dim], k and v [batch, kv_heads, time, dim] -> [batch, heads, time, dim].

    cuDNN's path is left out: it plans anew for every length, which costs more than short prompts do.
    """
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


class Group(NamedTuple):
    """Sequences of a pack that lie side by side, tokens [first, end): ``members`` of them, the longest of ``longest``.

    Where lengths differ, int64 ``spread`` [members * longest] names the token at each place of [members, longest],
    counted from ``first`` (any of the sequence behind its end), and ``back`` [end - first] the place of each token.
    """

    first: int
    end: int
    members: int
    longest: int
    spread: torch.Tensor | None
    back: torch.Tensor | None

    def cut(self, t: torch.Tensor) -> torch.Tensor:
        """[members, heads, longest, dim] of t [tokens, heads, dim]."""
        own = t[self.first : self.end]
        own = own if self.spread is None else own[self.spread]
        return own.unflatten(0, (self.members, self.longest)).transpose(1, 2)


def packed_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, groups: Sequence[Group]) -> torch.Tensor:
    """Causal attention inside each sequence of a pack: q [tokens, heads, dim], k and v [tokens, kv_heads, dim] -> as q.

    One product a group: places behind a sequence's end come after all its queries, so causality itself hides them.
    """
    parts = []
    for group in groups:
        y = causal_attention(*(group.cut(t) for t in (q, k, v))).transpose(1, 2).flatten(0, 1)
        parts.append(y if group.back is None else y[group.back])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(slots=True)
class Pages:
    """Pages in use of one layer, a contiguous range of a pool.

    k, v [pages, kv_heads, page, dim]; ``rows`` int64 [pages, members]: the query rows a page serves
    (row index = number of rows where a place is empty); ``valid`` int64 [pages]: tokens it holds.
    """

    k: torch.Tensor
    v: torch.Tensor
    rows: torch.Tensor
    valid: torch.Tensor


def paged_attention(q: torch.Tensor, pages: list[Pages], pieces: torch.Tensor) -> torch.Tensor:
    """q [rows, heads, dim] -> [rows, heads, dim].

    ``pieces`` int64 [rows, P]: for each row the flat indices (page * members + place, counted through
    ``pages`` in order) of its partial results; the last index overall stands for "none".
    """
    _, heads, dim = q.shape
    padded = F.pad(q, (0, 0, 0, 0, 0, 1))
    parts = [_page_partials(padded, p, dim**-0.5) for p in pages]
    none = (q.new_full((1, heads), float("-inf"), dtype=parts[0][0].dtype), q.new_zeros(1, heads, dim + 1))
    top = torch.cat([t for t, _ in parts] + [none[0]])[pieces]
    value = torch.cat([o for _, o in parts] + [none[1].to(parts[0][1].dtype)])[pieces]
    highest = top.amax(1, keepdim=True).clamp_min(torch.finfo(top.dtype).min)
    total = ((top - highest).exp()[..., None] * value).sum(1)
    return (total[..., :dim] / total[..., dim:].clamp_min(torch.finfo(total.dtype).tiny)).to(q.dtype)


def _page_partials(q: torch.Tensor, pages: Pages, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Max [n, heads] and (weighted values, sum of weights) [n, heads, dim + 1], n = pages * members."""
    count, kv_heads, page, dim = pages.k.shape
    members, heads = pages.rows.shape[1], q.shape[1]
    repeat = heads // kv_heads
    queries = (q * scale)[pages.rows].view(count, members, kv_heads, repeat, dim).transpose(1, 2)
    scores = queries.reshape(count, kv_heads, members * repeat, dim) @ pages.k.transpose(-1, -2)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    outside = torch.arange(page, device=q.device) >= pages.valid[:, None]
    scores = scores.masked_fill(outside[:, None, None], float("-inf"))
    top = scores.amax(-1)
    weights = (scores - top.clamp_min(torch.finfo(top.dtype).min)[..., None]).exp()
    value = (weights.to(pages.v.dtype) @ pages.v).to(weights.dtype)
    value = torch.cat((value, weights.sum(-1, keepdim=True)), dim=-1)

    def by_piece(t: torch.Tensor) -> torch.Tensor:  # [pages, kv_heads, members * repeat, ...] -> [n, heads, ...]
        split = t.view(count, kv_heads, members, repeat, *t.shape[3:]).transpose(1, 2)
        return split.reshape(count * members, heads, *t.shape[3:])

    return by_piece(top), by_piece(value)
