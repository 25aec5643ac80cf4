"""The Mamba-1 layer and MambaInLlama's Mamba-2 against the published modules, and the traps in between.

``vectors/mamba.json`` holds what the authors' MambaInLlama layers (and transformers' MambaForCausalLM for
the ungrouped form) give on weights drawn by name; made once with
``python tests/models/vectors/make_mamba.py MAMBA_IN_LLAMA_CHECKOUT``.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from harness.kernels.mamba1_conv import mamba1_conv_step_triton
from harness.kernels.mamba1_step import mamba1_step_triton
from harness.models import mamba1 as module
from harness.models.config import DecoderConfig, Mamba1Config, MambaConfig
from harness.models.decoder import Decoder
from harness.models.layers import Mamba2
from harness.models.mamba1 import Mamba1
from harness.models.state import StatePlan
from harness.records import InputError

from .test_decoder import CONFIGS, Decoding, random_decoder
from .vectors.make_mamba import GROUPED, MAMBA2, OUT, TIME, UNGROUPED, WIDTH, drawn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VECTORS = {name: torch.tensor(y) for name, y in json.loads(OUT.read_text()).items()}
INNER, XB, STATE, RANK = GROUPED["d_inner"], GROUPED["d_xb"], GROUPED["d_state"], 3
CONFIG = Mamba1Config(inner=INNER, dt_rank=RANK, state=STATE, xb=XB, dt_bias_twice=True)


def theirs(name, *shape):
    return 0.5 * drawn(name, shape)


def load(layer, **tensors):
    assert tensors.keys() == {name for name, _ in layer.named_parameters()}
    layer.load_state_dict(tensors)
    return layer.requires_grad_(False)


def mamba_in_llama(config=CONFIG):
    sizes = {"in_proj_x": XB, "B_proj": XB, "C_proj": INNER, "in_proj_z": INNER, "dt_proj_down": RANK}
    return load(
        Mamba1(WIDTH, config),
        **{
            "in_proj.weight": torch.cat([theirs(f"{name}.weight", rows, WIDTH) for name, rows in sizes.items()]),
            "conv_weight": theirs("conv1d.weight", INNER, 1, 4)[:, 0],
            "conv_bias": theirs("conv1d.bias", INNER),
            "dt_proj.weight": theirs("dt_proj.weight", INNER, RANK),
            "dt_bias": theirs("dt_proj.bias", INNER),
            "A_log": theirs("A_log", INNER, STATE),
            "D": theirs("D", INNER),
            "out.weight": theirs("out_proj.weight", WIDTH, INNER),
        },
    )


def mamba2_in_llama(**changes):
    heads = MAMBA2["ngroups"]
    config = MambaConfig(heads, STATE, STATE, heads, gated_norm=True, chunk=4, kv_heads=XB // STATE, norm_groups=heads)
    z, x, b, c, dt = theirs("in_proj.weight", 2 * INNER + 2 * XB + heads, WIDTH).split((INNER, XB, XB, INNER, heads))
    return load(
        Mamba2(WIDTH, dataclasses.replace(config, **changes), False, 1e-5),
        **{
            "in_proj.weight": torch.cat((x, b, c, z, dt)),
            "conv_weight": theirs("conv1d.weight", INNER + 2 * XB, 1, 4)[:, 0],
            "conv_bias": theirs("conv1d.bias", INNER + 2 * XB),
            "dt_bias": theirs("dt_bias", heads),
            "A_log": theirs("A_log", heads),
            "D": theirs("D", heads),
            "norm.weight": theirs("norm.weight", INNER),
            "out.weight": theirs("out_proj.weight", WIDTH, INNER),
        },
    )


def ungrouped_decoder(**changes):
    inner, state, rank = 2 * WIDTH, UNGROUPED["state_size"], UNGROUPED["time_step_rank"]
    vocab, depth = UNGROUPED["vocab_size"], UNGROUPED["num_hidden_layers"]
    record = dataclasses.replace(Mamba1Config(inner=inner, dt_rank=rank, state=state), **changes)
    config = DecoderConfig(vocab, WIDTH, ("mamba1",) * depth, 0, 64, (0,), mamba1=record)
    tensors = {
        "embedding.weight": theirs("backbone.embeddings.weight", vocab, WIDTH),
        "norm.weight": theirs("backbone.norm_f.weight", WIDTH),
    }
    for i in range(depth):
        hub, ours = f"backbone.layers.{i}.", f"blocks.{i}."
        dt, b, c = theirs(f"{hub}mixer.x_proj.weight", rank + 2 * state, inner).split((rank, state, state))
        tensors |= {
            f"{ours}mixer_norm.weight": theirs(f"{hub}norm.weight", WIDTH),
            f"{ours}mixer.in_proj.weight": theirs(f"{hub}mixer.in_proj.weight", 2 * inner, WIDTH),
            f"{ours}mixer.x_proj.weight": torch.cat((b, c, dt)),
            f"{ours}mixer.conv_weight": theirs(f"{hub}mixer.conv1d.weight", inner, 1, 4)[:, 0],
            f"{ours}mixer.conv_bias": theirs(f"{hub}mixer.conv1d.bias", inner),
            f"{ours}mixer.dt_proj.weight": theirs(f"{hub}mixer.dt_proj.weight", inner, rank),
            f"{ours}mixer.dt_bias": theirs(f"{hub}mixer.dt_proj.bias", inner),
            f"{ours}mixer.A_log": theirs(f"{hub}mixer.A_log", inner, state),
            f"{ours}mixer.D": theirs(f"{hub}mixer.D", inner),
            f"{ours}mixer.out.weight": theirs(f"{hub}mixer.out_proj.weight", WIDTH, inner),
        }
    return load(Decoder(config), **tensors)


def error(got, name):
    expected = VECTORS[name]
    return ((got[0] - expected).abs().max() / expected.abs().max()).item()


def grouped_error(config=CONFIG):
    return error(mamba_in_llama(config)(drawn("x", (1, TIME, WIDTH))), "mamba1")


def ungrouped_error(**changes):
    tokens = torch.arange(TIME)[None] * 7 % UNGROUPED["vocab_size"]
    return error(ungrouped_decoder(**changes)(tokens), "ungrouped")


def test_the_published_layers():
    assert grouped_error() < 1e-5
    assert ungrouped_error() < 1e-5
    assert error(mamba2_in_llama()(drawn("x", (1, TIME, WIDTH))), "mamba2") < 1e-5


def test_the_vectors_show_how_often_the_bias_counts():
    assert grouped_error(dataclasses.replace(CONFIG, dt_bias_twice=False)) > 1e-2
    assert ungrouped_error(dt_bias_twice=True) > 1e-2


def test_the_vectors_show_one_norm_over_all_heads():
    """mamba_ssm's gated norm has a mean for each group."""
    assert error(mamba2_in_llama(norm_groups=1)(drawn("x", (1, TIME, WIDTH))), "mamba2") > 1e-2


def tiled(t, axis):
    """Heads repeated as a whole, 0 1 0 1 ..., where each should stand beside its copies, 0 0 1 1 ..."""
    return torch.cat([t] * (INNER // XB), dim=axis)


def test_the_vectors_show_heads_of_x_in_the_wrong_order(monkeypatch):
    monkeypatch.setattr(module, "repeat_heads", lambda x, channels, head: tiled(x, -1))
    assert grouped_error() > 1e-2


def test_the_vectors_show_heads_of_b_in_the_wrong_order(monkeypatch):
    scan = module.selective_scan
    monkeypatch.setattr(module, "selective_scan", lambda u, delta, a, b, c: scan(u, delta, a, tiled(b, -2), c))
    assert grouped_error() > 1e-2


def test_the_vectors_show_x_repeated_behind_the_convolution(monkeypatch):
    """Behind it, all copies of a head would have been convolved with one head's weights."""

    def shared(t):
        return t.unflatten(0, (XB // STATE, -1, STATE))[:, :1].expand(-1, INNER // XB, -1, *t.shape[1:]).flatten(0, 2)

    conv = module.causal_conv
    monkeypatch.setattr(module, "causal_conv", lambda x, weight, bias: conv(x, shared(weight), shared(bias)))
    assert grouped_error() > 1e-2


@pytest.mark.parametrize("name", ["mamba1-hybrid", "mamba1-ungrouped-no-mlp"])
def test_the_kernels_take_the_place_of_the_plain_steps(monkeypatch, name):
    """Forced tokens through prefill, forks, a row at rest and steps by the kernels, against one whole forward."""
    for plain, kernel in (("mamba1_step", mamba1_step_triton), ("mamba1_conv_step", mamba1_conv_step_triton)):
        monkeypatch.setattr(module, plain, kernel)
    run = Decoding(random_decoder(CONFIGS[name]).to(DEVICE), (2, 9), slots=4, new_tokens=8)
    run.fork([1, 0, 1], [0, 1, 3])
    run.steps(5)
    run.release(1)
    run.fork([1], [1])
    run.steps(3, rows=2)
    run.check()


def test_decays_skips_and_biases_keep_fp32_whatever_the_model_is_cast_to():
    layer = mamba_in_llama()
    exact = {name: getattr(layer, name).clone() for name in module.KEPT_WIDE}
    layer.to(torch.bfloat16)
    assert layer.in_proj.weight.dtype == layer.conv_weight.dtype == torch.bfloat16
    assert all(torch.equal(getattr(layer, name), value) for name, value in exact.items())
    assert all(getattr(layer, name).dtype == torch.float32 for name in exact)
    assert all(p.dtype == torch.float64 for p in layer.to(torch.float64).parameters())
    assert {p.dtype for p in layer.to(torch.float16).parameters()} == {torch.float16, torch.float32}
    with torch.device("meta"):
        unfilled = Mamba1(WIDTH, CONFIG)
    unfilled = unfilled.to(torch.bfloat16).to_empty(device="cpu")
    assert unfilled.A_log.dtype == torch.float32 and unfilled.out.weight.dtype == torch.bfloat16
    assert not any(p.is_meta for p in unfilled.parameters())


def test_a_16_bit_model_keeps_its_ssm_state_in_fp32_and_a_raw_ring_of_the_shared_heads():
    config = DecoderConfig(20, WIDTH, ("mamba1",), 0, 64, (0,), mamba1=CONFIG)
    state = Decoder(config).to(torch.bfloat16).new_state(StatePlan(3, 8, (5,)))
    layer = state.layers[0]
    assert layer.ssm.dtype == torch.float32 and layer.ssm.shape == (3, INNER, STATE)
    assert layer.conv.dtype == torch.bfloat16 and layer.conv.shape == (3, 4, XB)


def test_parameters_of_the_grouped_form():
    """z, x, B, C and dt come from one product; x, B have d_xb rows; A has a row of its own for each channel."""
    shapes = {name: tuple(p.shape) for name, p in Mamba1(WIDTH, CONFIG).named_parameters()}
    assert shapes == {
        "in_proj.weight": (2 * XB + 2 * INNER + RANK, WIDTH),
        "conv_weight": (INNER, 4),
        "conv_bias": (INNER,),
        "dt_proj.weight": (INNER, RANK),
        "dt_bias": (INNER,),
        "A_log": (INNER, STATE),
        "D": (INNER,),
        "out.weight": (WIDTH, INNER),
    }


@pytest.mark.parametrize(
    ("record", "fields", "part"),
    [
        (Mamba1Config, {"inner": 48, "dt_rank": 3, "xb": 20}, "mamba1.xb = 20"),
        (Mamba1Config, {"inner": 48, "dt_rank": 3, "xb": 8}, "multiple of mamba1.state = 16"),
        (Mamba1Config, {"inner": 48, "dt_rank": 3, "xb": 0}, "mamba1.xb = 0"),
        (Mamba1Config, {"inner": 48, "dt_rank": 0}, "mamba1.dt_rank = 0"),
        (Mamba1Config, {"inner": 48, "dt_rank": 3, "conv": 1}, "mamba1.conv = 1"),
        (MambaConfig, {"heads": 6, "head_dim": 4, "state": 4, "groups": 6, "kv_heads": 4}, "mamba.kv_heads = 4"),
        (MambaConfig, {"heads": 6, "head_dim": 4, "state": 4, "groups": 6, "norm_groups": 5}, "mamba.norm_groups = 5"),
    ],
)
def test_a_wrong_record_names_the_field(record, fields, part):
    with pytest.raises(InputError) as caught:
        record(**fields)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_layers_that_name_mamba1_need_its_record():
    with pytest.raises(InputError, match="mamba1 is missing"):
        DecoderConfig(20, WIDTH, ("mamba1",), 0, 64, (0,))
    with pytest.raises(InputError, match="mamba is missing"):
        DecoderConfig(20, WIDTH, ("mamba1", "mamba2"), 0, 64, (0,), mamba1=CONFIG)
