"""One sampling step: temperature, top-k, top-p, Gumbel maximum over counter-based noise, log probability.

token = argmax_v(logits_v / T + gumbel_v) over the entries that top-k and top-p keep; T = 0 is
argmax(logits). The noise comes from ``random_words``, so equal logits give equal tokens at any
batch size and order. The log probability is that of the token at temperature 1, unfiltered.
"""

from __future__ import annotations

import torch

from .random_words import gumbel, vocab_words


def sample(
    logits: torch.Tensor, words: torch.Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 [rows] and their log probabilities [rows], from logits [rows, vocab].

    ``words`` int64 [rows, 4]: the row words of each row's seed, position, sample and problem. Works
    in fp32, or float64 where the logits are.
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if temperature == 0:
        token = scores.argmax(-1)
    else:
        noise = gumbel(vocab_words(words, logits.shape[-1]), scores.dtype)
        token = (filtered(scores / temperature, top_k, top_p) + noise).argmax(-1)
    logprob = scores.gather(-1, token[:, None]).squeeze(-1) - scores.logsumexp(-1)
    return token, logprob


def filtered(scores: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Scores with everything outside top-k and the top-p nucleus at -inf.

    The nucleus is the smallest set of largest probabilities that reaches ``top_p`` (Holtzman et al.,
    2020), taken after top-k; the likeliest entry always stays. Ties at the k-th score all stay.
    """
    if 0 < top_k < scores.shape[-1]:
        kth = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, float("-inf"))
    if top_p < 1:
        ordered, index = scores.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        outside = probabilities.cumsum(-1) - probabilities >= top_p
        scores = scores.masked_fill(outside.scatter(-1, index, outside), float("-inf"))
    return scores
