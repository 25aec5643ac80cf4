"""The random words: published Philox vectors, our own committed ones, and kernel and twin equal to the bit.

Reference: plain Python integers, written from the definition in architecture rule 4. The kernel runs on
the GPU where there is one, else in Triton's interpreter; whether it compiles is checked without a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from harness.kernels import random_words
from harness.kernels.random_words import (
    gumbel,
    mix,
    problem_hash,
    row_words,
    to_int32,
    uniform,
    vocab_words,
    vocab_words_triton,
)

MASK = 0xFFFFFFFF
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def signed(value, bits=64):
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


def column(*values):
    return torch.tensor([signed(v) for v in values], dtype=torch.int64, device=DEVICE)


def python_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & MASK, (p >> 32) ^ c[3] ^ k[1], p & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def python_mix(h):
    h ^= h >> 16
    h = h * 0x85EBCA6B & MASK
    h ^= h >> 13
    h = h * 0xC2B2AE35 & MASK
    return h ^ h >> 16


def python_words(seed, position, sample, problem, entries):
    r = python_philox((position, sample, problem & MASK, problem >> 32), (seed & MASK, seed >> 32))
    return [python_mix(r[0] ^ python_mix((v + r[1]) & MASK)) for v in entries]


PUBLISHED = [  # Random123, kat_vectors, philox4x32 10
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((MASK,) * 4, (MASK,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_philox_gives_the_published_vectors(counter, key, expected):
    problem = counter[2] | counter[3] << 32
    got = row_words(key[0] | key[1] << 32, column(counter[0]), column(counter[1]), column(problem))
    assert " ".join(f"{w:08x}" for w in got[0].tolist()) == expected


ENTRIES = (0, 1, 511, 49151, 128255)
COMMITTED = [  # seed, position, sample, problem id or hash, words of ENTRIES
    (0, 0, 0, 0, "06C5AE79 E97D1A9D 07A091D9 B70E4EB7 24FAE3F1"),
    (1, 0, 0, "arithmetic-0001", "5A9B77A7 A2F71937 93ECC79C 12202554 5CACB511"),
    (2**64 - 1, 4095, 2**31 + 5, "math500/test/algebra/2.json", "291CEB92 4C7ECC20 27760278 0B633425 ED20B2FD"),
    (0x9E3779B97F4A7C15, 7, 3, 2**63, "D76F02DB 66DE6013 F6C5CA5E CDC6FC24 156271AB"),
]


@pytest.mark.parametrize(("seed", "position", "sample", "problem", "expected"), COMMITTED)
def test_vocabulary_words_give_the_committed_vectors(seed, position, sample, problem, expected):
    problem = problem_hash(problem) if isinstance(problem, str) else problem
    words = vocab_words(row_words(seed, column(position), column(sample), column(problem)), 128256)
    picked = [w & MASK for w in words[0, list(ENTRIES)].tolist()]
    assert " ".join(f"{w:08X}" for w in picked) == expected
    assert picked == python_words(seed, position, sample, problem, ENTRIES)


def test_problem_hash_is_the_first_64_bits_big_endian():
    assert problem_hash("arithmetic-0001") == 0xAC716106D5E74642
    assert problem_hash("math500/test/algebra/2.json") == 0xB5326F7A28969F77


def test_mix_and_to_int32_equal_python():
    values = [0, 1, 2**31 - 1, 2**31, MASK, 0xDEADBEEF]
    bits = to_int32(torch.tensor(values))
    assert bits.tolist() == [signed(v, 32) for v in values]
    assert [h & MASK for h in mix(bits).tolist()] == [python_mix(v) for v in values]


def test_each_counter_word_and_each_seed_word_matters():
    base = (5, 3, 2, 11)
    words = {
        tuple(row_words(seed, column(p), column(s), column(h))[0].tolist())
        for seed, p, s, h in [
            base,
            (6, *base[1:]),
            (5 + 2**32, *base[1:]),
            (5, 4, 2, 11),
            (5, 3, 3, 11),
            (5, 3, 2, 12),
            (5, 3, 2, 11 + 2**32),
        ]
    }
    assert len(words) == 7


ROWS = [  # seed, positions, samples, problem hashes
    (0, (0, 1, 2), (0, 0, 0), (0, 0, 0)),
    (1, (5, 5, 5), (0, 1, 2), (2**63, 2**64 - 1, 2**31)),
    (2**32, (2**31, 2**32 - 1, 7), (2**31 + 1, 3, 2**32 - 1), (2**32, 2**32 - 1, 2**63 + 2**31)),
    (2**64 - 1, (100000, 0, 1), (4095, 2**16, 1), (0xAC716106D5E74642, 1, 0)),
    (2**63 + 2**31 + 1, (1, 2, 3), (1, 2, 3), (3, 2, 1)),
]


@pytest.mark.parametrize(("seed", "position", "sample", "problem"), ROWS)
def test_kernel_equals_twin_and_python(seed, position, sample, problem):
    counters = column(*position), column(*sample), column(*problem)
    got = vocab_words_triton(seed, *counters, 133, block=64)
    assert torch.equal(got, vocab_words(row_words(seed, *counters), 133))
    for row, counter in enumerate(zip(position, sample, problem, strict=True)):
        assert [w & MASK for w in got[row].tolist()] == python_words(seed, *counter, range(133))


@pytest.mark.parametrize("vocab_size", [1, 7, 511, 512, 513, 1023, 1025, 4999])
def test_kernel_writes_every_word_and_nothing_else(vocab_size, monkeypatch):
    rows, guard, poison = 3, 64, 0x5EADBEEF
    buffer = torch.full((rows * vocab_size + guard,), poison, dtype=torch.int32, device=DEVICE)

    def poisoned(*shape, **kwargs):
        assert shape == ((rows, vocab_size),)
        return buffer[: rows * vocab_size].view(rows, vocab_size)

    counters = column(3, 1, 4), column(1, 5, 9), column(2, 2**63, 6)
    expected = vocab_words(row_words(42, *counters), vocab_size)
    monkeypatch.setattr(random_words.torch, "empty", poisoned)
    got = vocab_words_triton(42, *counters, vocab_size, block=512)
    monkeypatch.undo()
    assert got.data_ptr() == buffer.data_ptr() and torch.equal(got, expected)
    assert (buffer[rows * vocab_size :] == poison).all()


def test_uniform_and_gumbel_stay_finite_at_the_ends():
    words = to_int32(torch.tensor([0, 511, 512, MASK, 2**31]))
    u = uniform(words)
    assert u.tolist() == [2.0**-24, 2.0**-24, 1.5 * 2.0**-23, 1 - 2.0**-24, 0.5 + 2.0**-24]
    assert torch.equal(u.double(), uniform(words, torch.float64)), "u must be exact in fp32"
    assert torch.isfinite(gumbel(words)).all()


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def test_a_hundred_million_words_are_uniform():
    """Chi-square over 256 bins (df 255: mean 255, sd 22.6; a limit of 5 sd), and the mean of u within 5 sd."""
    vocab_size, rows, chunks = 49999, 20, 101
    high, low, bins = (torch.zeros(256, dtype=torch.float64) for _ in range(3))
    total, smallest, largest = 0.0, 1.0, 0.0
    for chunk in range(chunks):
        position = torch.arange(rows) + rows * (chunk // 4)
        sample = torch.full((rows,), chunk % 4)
        problem = torch.full((rows,), signed(problem_hash(f"problem {chunk % 3}")))
        words = vocab_words(row_words(2024, position, sample, problem), vocab_size)
        u = uniform(words)
        octets = words.view(torch.uint8).view(-1, 4)
        high += torch.bincount(octets[:, 3], minlength=256)
        low += torch.bincount(octets[:, 1] >> 1, minlength=256)
        bins += torch.histc(u, bins=256, min=0.0, max=1.0)
        total += float(u.sum(dtype=torch.float64))
        smallest, largest = min(smallest, float(u.min())), max(largest, float(u.max()))
    count = vocab_size * rows * chunks
    assert count >= 10**8 and bins.sum() == count
    assert smallest > 0.0 and largest < 1.0
    limit = 255 + 5 * (2 * 255) ** 0.5
    assert chi_square(high) < limit
    assert chi_square(low[:128]) < 127 + 5 * (2 * 127) ** 0.5
    assert chi_square(bins) < limit
    assert abs(total / count - 0.5) < 5 * (12 * count) ** -0.5


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from harness.kernels.random_words import _words_kernel as kernel

pointers = {"out": "*i32", **dict.fromkeys(("position", "sample", "problem"), "*i64")}
signature = {**pointers, "seed_lo": "i32", "seed_hi": "i32", "vocab_size": "i32", "block": "constexpr"}
# Triton compiles an argument that equals 1 as a constant unless told not to; a seed may be 1, a vocabulary is not.
assert {p.name for p in kernel.params if p.do_not_specialize} == {"seed_lo", "seed_hi"}
for capability in (80, 90):
    source = ASTSource(kernel, signature=signature, constexprs={"block": 1024})
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert binary.asm["cubin"], capability
    assert f"sm_{capability}" in binary.asm["ptx"], capability
print("compiled")
"""


def test_kernel_compiles_for_sm_80_and_sm_90_without_a_gpu(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == "compiled", done.stderr[-2000:]
