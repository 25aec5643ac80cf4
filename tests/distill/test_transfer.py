"""A student's first weights: copies where it is the teacher's, and a Mamba layer that reads as a weighted mean."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from harness.distill.transfer import HALF_LIVES_TOKENS, OPEN_GATE, transfer
from harness.kernels.causal_conv import causal_conv
from harness.kernels.ssd import ssd_chunked
from harness.models.config import AttentionConfig, Mamba1Config
from harness.models.decoder import Decoder
from harness.records import InputError


@pytest.fixture(scope="module")
def pair(small):
    torch.manual_seed(0)
    teacher, student = Decoder(small.teacher).requires_grad_(False), Decoder(small.student).requires_grad_(False)
    for parameter in (*teacher.parameters(), *student.parameters()):
        torch.nn.init.normal_(parameter)
    transfer(teacher, student)
    return teacher, student


def test_what_is_not_a_new_mixer_is_the_teachers(pair):
    teacher, student = pair
    theirs = teacher.state_dict()
    copied = [n for n in student.state_dict() if not n.startswith("blocks.0.mixer.")]
    assert "blocks.1.mixer.qkv.weight" in copied and "blocks.0.mlp.down.weight" in copied
    assert all(torch.equal(student.state_dict()[n], theirs[n]) for n in copied)
    assert torch.equal(student.blocks[0].mixer.out.weight, teacher.blocks[0].mixer.out.weight)


def test_the_gate_is_open_and_the_convolution_the_identity(pair):
    mixer = pair[1].blocks[0].mixer
    assert F.silu(torch.tensor(OPEN_GATE, dtype=torch.float64)).item() == pytest.approx(1, abs=1e-12)
    x = torch.randn(2, 9, 32)
    _, z, dt = mixer._split(mixer.in_proj(x))
    assert torch.equal(F.silu(z + mixer.z_bias), F.silu(mixer.z_bias).expand_as(z))
    assert torch.allclose(F.silu(z + mixer.z_bias), torch.ones_like(z), atol=1e-6)
    assert not dt.any() and not mixer.D.any()
    raw = torch.randn(2, 9, mixer.config.conv_channels)
    assert torch.equal(causal_conv(raw, mixer.conv_weight, mixer.conv_bias), raw)


def test_half_lives_spread_over_the_heads(pair):
    mixer = pair[1].blocks[0].mixer
    half_life = torch.logspace(2, 10, 4, base=2)
    assert HALF_LIVES_TOKENS == (4.0, 1024.0)
    decay = torch.exp(-F.softplus(mixer.dt_bias))
    assert torch.allclose(decay**half_life, torch.full((4,), 0.5), atol=1e-4)


def test_v_k_and_q_become_x_b_and_c(pair):
    teacher, student = pair
    q, k, v = teacher.blocks[0].mixer.qkv.weight.split(32)
    x, b, c = student.blocks[0].mixer.in_proj.weight[:96].split(32)
    decay = torch.exp(-F.softplus(student.blocks[0].mixer.dt_bias)).repeat_interleave(8)
    assert torch.allclose(x, v * (1 - decay)[:, None], atol=1e-6)
    assert torch.allclose(b, k * 8**-0.25) and torch.allclose(c, q * 8**-0.25)
    assert not student.blocks[0].mixer.in_proj.weight[96:].any()


def test_a_head_sums_to_a_weighted_mean(pair):
    """Where C.B = 1, a constant V comes out as 1 - a^(t+1) of itself: weights of a mean, as attention's are."""
    decay = torch.exp(-F.softplus(pair[1].blocks[0].mixer.dt_bias)).double()
    time = 50
    x = (1 - decay)[:, None].expand(1, time, 4, 8)
    one = F.one_hot(torch.tensor(0), 8).double().expand(1, time, 4, 8)
    y, _ = ssd_chunked(x, decay.log().expand(1, time, 4), one, one, 16)
    expected = 1 - decay ** torch.arange(1, time + 1)[:, None]
    assert torch.allclose(y, expected[None, :, :, None].expand_as(y), atol=1e-9)


@pytest.mark.parametrize(
    "part,changes,words",
    [
        ("student", {"width": 40}, ["width = 40", "32"]),
        ("student", {"vocab_size": 100}, ["vocab_size = 100", "512"]),
        ("student", {"mlp": 64}, ["mlp = 64", "48"]),
        ("student", {"tied": False}, ["tied = False", "True"]),
        ("student", {"layers": ("discrete_mamba2",)}, ["layers", "as many"]),
        ("teacher", {"layers": ("attention", "discrete_mamba2")}, ["layers", "teacher of attention"]),
        ("student", {"attention": AttentionConfig(2, 2, 16)}, ["attention =", "kept layers"]),
        ("student", {"mamba": {"state": 16}}, ["mamba =", "4 heads"]),
        ("student", {"mamba": {"groups": 2}}, ["mamba =", "4 heads"]),
        ("student", {"mamba": {"dt_bias": False}}, ["dt_bias"]),
        ("student", {"layers": ("mamba2", "attention")}, ["discrete_mamba2"]),
        ("student", {"layers": ("mamba1", "attention"), "mamba1": Mamba1Config(16, 2)}, ["discrete_mamba2"]),
    ],
)
def test_what_does_not_fit_is_named(small, part, changes, words):
    teacher, student = small.teacher, small.student
    if "mamba" in changes:
        changes = {"mamba": dataclasses.replace(student.mamba, **changes["mamba"])}
    if part == "teacher":
        teacher = dataclasses.replace(student, **changes)
    else:
        student = dataclasses.replace(student, **changes)
    with pytest.raises(InputError) as caught:
        transfer(Decoder(teacher), Decoder(student))
    for word in words:
        assert word in str(caught.value)
