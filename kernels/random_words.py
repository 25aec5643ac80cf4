"""Counter-based random words: the same draw whatever the batch, the order, the refill or the resume.

Row words r0..r3 = Philox-4x32-10 (Salmon et al., SC 2011) with key = 64-bit seed and counter =
(position, sample, low 32 bits, high 32 bits of the problem's 64-bit hash). The word of vocabulary
entry v is mix(r0 ^ mix(v + r1)), mix being murmur3's 32-bit finaliser; a second stream, word i of
which is mix(r2 ^ mix(i + r3)), serves what is drawn beside the entries (``sample``). From a word
u = ((word >> 9) + 0.5) * 2^-23: with more bits fp32 rounds some u to 1.0 and the Gumbel noise
becomes infinite. The Triton kernel and the twin give equal bits.
"""

from __future__ import annotations

import hashlib

import torch
import triton
import triton.language as tl

_MASK = 0xFFFFFFFF
_PHILOX_M = (0xD2511F53, 0xCD9E8D57)
_PHILOX_W = (0x9E3779B9, 0xBB67AE85)
_MIX = (0x85EBCA6B, 0xC2B2AE35)


def problem_hash(problem_id: str) -> int:
    """First 64 bits (big-endian) of sha256 of the UTF-8 id, as an unsigned integer."""
    return int.from_bytes(hashlib.sha256(problem_id.encode()).digest()[:8], "big")


def _signed(constant: int) -> int:
    return constant - (1 << 32) if constant >= 1 << 31 else constant


def row_words(seed: int, position: torch.Tensor, sample: torch.Tensor, problem: torch.Tensor) -> torch.Tensor:
    """Philox-4x32-10 words, int64 [..., 4] in [0, 2^32).

    ``position``, ``sample`` int64 [...] (broadcast together); ``problem`` int64 [...]: the 64-bit
    hash, two's complement.
    """
    position, sample, problem = torch.broadcast_tensors(position, sample, problem)
    c0, c1 = position & _MASK, sample & _MASK
    c2, c3 = problem & _MASK, (problem >> 32) & _MASK
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        hi0, lo0 = _mul_hi_lo(c0, _PHILOX_M[0])
        hi1, lo1 = _mul_hi_lo(c2, _PHILOX_M[1])
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + _PHILOX_W[0]) & _MASK, (k1 + _PHILOX_W[1]) & _MASK
    return torch.stack((c0, c1, c2, c3), dim=-1)


def _mul_hi_lo(a: torch.Tensor, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    # int64 holds no unsigned 64-bit product: the high word is put together from 16-bit halves.
    low_part, high_part = a * (b & 0xFFFF), a * (b >> 16)
    high = (high_part + (low_part >> 16)) >> 16
    low = (low_part + ((high_part & 0xFFFF) << 16)) & _MASK
    return high, low


def mix(h: torch.Tensor) -> torch.Tensor:
    """murmur3's fmix32 on int32 bits (int32 products wrap; the shifts are made logical by a mask)."""
    h = h ^ ((h >> 16) & 0xFFFF)
    h = h * _signed(_MIX[0])
    h = h ^ ((h >> 13) & 0x7FFFF)
    h = h * _signed(_MIX[1])
    return h ^ ((h >> 16) & 0xFFFF)


def to_int32(words: torch.Tensor) -> torch.Tensor:
    """The same 32 bits as int32, from int64 words in [0, 2^32)."""
    return (((words + (1 << 31)) & _MASK) - (1 << 31)).to(torch.int32)


def entry_words(rows: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    """Words of vocabulary entries int32 [rows, n] or [n], int32 bits [rows, n], from row words int64 [rows, 4]."""
    return _stream_words(entries, *to_int32(rows).split(1, dim=1)[:2])


def vocab_words(rows: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Word of every vocabulary entry, int32 bits [rows, vocab_size], from row words int64 [rows, 4]."""
    return entry_words(rows, torch.arange(vocab_size, device=rows.device, dtype=torch.int32))


def second_words(rows: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """Words ``start`` (with int32's sign) and on of the second stream, int32 bits [rows, count]."""
    i = torch.arange(start, start + count, device=rows.device, dtype=torch.int32)
    return _stream_words(i, *to_int32(rows).split(1, dim=1)[2:])


def _stream_words(i: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Words ``i`` of a stream, which two row words [rows, 1] make; ``stream_word`` is the kernel's."""
    return mix(outer ^ mix(i + inner))


def uniform(words: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """u in (0, 1), exact in fp32: ((word >> 9) + 0.5) * 2^-23, from int32 bits."""
    return (((words >> 9) & 0x7FFFFF).to(dtype) + 0.5) * 2.0**-23


def gumbel(words: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard Gumbel noise -log(-log u): argmax(logits + noise) draws from softmax(logits)."""
    return -torch.log(-torch.log(uniform(words, dtype)))


@triton.jit
def _mix(h):
    h = h ^ (h >> 16)
    h = h * 0x85EBCA6B
    h = h ^ (h >> 13)
    h = h * 0xC2B2AE35
    return h ^ (h >> 16)


@triton.jit
def philox_words(position, sample, problem, seed_lo, seed_hi):
    """``row_words`` as four uint32, from int64 counters and the seed's int32 words."""
    c0 = position.to(tl.uint32)
    c1 = sample.to(tl.uint32)
    c2 = problem.to(tl.uint32)
    c3 = (problem >> 32).to(tl.uint32)
    k0 = seed_lo.to(tl.uint32)
    k1 = seed_hi.to(tl.uint32)
    m0 = tl.full((), 0xD2511F53, tl.uint32)
    m1 = tl.full((), 0xCD9E8D57, tl.uint32)
    w0 = tl.full((), 0x9E3779B9, tl.uint32)
    w1 = tl.full((), 0xBB67AE85, tl.uint32)
    for _ in tl.static_range(10):
        hi0 = tl.umulhi(c0, m0)
        hi1 = tl.umulhi(c2, m1)
        n1 = c2 * m1
        n3 = c0 * m0
        c0 = hi1 ^ c1 ^ k0
        c2 = hi0 ^ c3 ^ k1
        c1 = n1
        c3 = n3
        k0 = k0 + w0
        k1 = k1 + w1
    return c0, c1, c2, c3


@triton.jit
def stream_word(i, outer, inner):
    """The uint32 words ``i`` of a stream: the vocabulary entries' with r0 and r1, the second with r2 and r3."""
    return _mix(outer ^ _mix(i.to(tl.uint32) + inner))


@triton.jit
def word_gumbel(word):
    """``gumbel`` of uint32 words in fp32."""
    u = ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(u))


# A seed word of 1 would otherwise be compiled in as a constant, which is no tensor and has no bits to cast.
@triton.jit(do_not_specialize=["seed_lo", "seed_hi"])
def _words_kernel(out, position, sample, problem, seed_lo, seed_hi, vocab_size, block: tl.constexpr):
    row = tl.program_id(0)
    counters = tl.load(position + row), tl.load(sample + row), tl.load(problem + row)
    r0, r1, _, _ = philox_words(counters[0], counters[1], counters[2], seed_lo, seed_hi)
    v = tl.program_id(1) * block + tl.arange(0, block)
    word = stream_word(v, r0, r1).to(tl.int32, bitcast=True)
    tl.store(out + row * vocab_size + v, word, mask=v < vocab_size)


def vocab_words_triton(
    seed: int, position: torch.Tensor, sample: torch.Tensor, problem: torch.Tensor, vocab_size: int, block: int = 1024
) -> torch.Tensor:
    """``vocab_words(row_words(...))`` in one launch; the same arguments, equal bits."""
    rows = position.shape[0]
    out = torch.empty((rows, vocab_size), dtype=torch.int32, device=position.device)
    counters = [c.contiguous() for c in (position, sample, problem)]
    _words_kernel[(rows, triton.cdiv(vocab_size, block))](out, *counters, *seed_words(seed), vocab_size, block)
    return out


def seed_words(seed: int) -> tuple[int, int]:
    """Low and high word of a 64-bit seed with int32's sign, as a kernel takes them."""
    return _signed(seed & _MASK), _signed((seed >> 32) & _MASK)
