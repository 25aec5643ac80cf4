"""Every format against the logits of its original code; and each trap, fallen into on purpose, breaks that.

The vectors are described in ``vectors/README.md``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.bench.vectors import BEGIN, END, LARGEST_ERROR, Row, check, logits, relative_error, replaced, table
from harness.models import mamba1
from harness.models.checkpoints import formats, mamba_in_llama, mamba_ssm, mapping, mixers
from harness.models.checkpoints.source import open_source

CPU = torch.device("cpu")
VECTORS = Path(__file__).parent / "vectors"
DOCS = Path(__file__).parents[3] / "docs" / "models.md"
NAMES = sorted(path.parent.name for path in VECTORS.glob("*/vector.json"))
# Past this the trap shows, far above what rounding does.
BROKEN = 1e-2


def needs(name):
    if name == "gguf" and importlib.util.find_spec("gguf") is None:
        pytest.skip("gguf is not installed")


@pytest.mark.parametrize("name", NAMES)
def test_full_forward_and_64_steps_agree_with_the_original(name):
    needs(name)
    assert check(VECTORS / name).error < LARGEST_ERROR
    assert len(load_file(VECTORS / name / "logits.safetensors")["steps"]) == 64


def test_every_format_has_a_vector():
    assert {f.NAME for f in formats.FOREIGN} | {formats.GGUF} == {
        re.search('"format": "(.*)"', (VECTORS / name / "vector.json").read_text()).group(1) for name in NAMES
    }


def error(name, change_plan=None, change_model=None):
    """The full forward's error with a plan, or a model, that fell into a trap."""
    folder = VECTORS / name
    format_, config = formats.recognise(folder)
    source = open_source(folder)
    plan = format_.plan(folder, config, source)
    model = mapping.fill(change_plan(plan) if change_plan else plan, source, torch.float32, CPU)
    if change_model is not None:
        change_model(model)
    expected = load_file(folder / "logits.safetensors")
    return relative_error(logits(model, expected["tokens"], 64)[0], expected["forward"])


def config_with(**changes):
    """A plan whose config differs; ``part__field`` reaches into a record."""

    def change(plan):
        config = plan.config
        for key, value in changes.items():
            part, _, field = key.partition("__")
            value = dataclasses.replace(getattr(config, part), **{field: value}) if field else value
            config = dataclasses.replace(config, **{part: value})
        return dataclasses.replace(plan, config=config)

    return change


def as_stored(*targets):
    """A plan that takes these parameters in the order of rows that the file has."""

    def change(plan):
        kept = [
            dataclasses.replace(e, build=mapping.concatenated) if e.target.endswith(targets) else e
            for e in plan.entries
        ]
        assert kept != list(plan.entries)
        return dataclasses.replace(plan, entries=tuple(kept))

    return change


def reordered(target, order):
    """A plan that puts the parts of a parameter in another order."""

    def change(plan):
        kept = []
        for e in plan.entries:
            if e.target.endswith(target) and len(e.sources) == len(order):
                e = dataclasses.replace(e, sources=tuple(e.sources[i] for i in order))
            kept.append(e)
        assert kept != list(plan.entries)
        return dataclasses.replace(plan, entries=tuple(kept))

    return change


def without_z_bias(model):
    for block in model.blocks:
        block.mixer.z_bias.zero_()


PLAIN_ROPE = mamba_in_llama.RopeScaling()
SCALED = mamba_in_llama.RopeScaling(32.0, 1.0, 4.0, 48)
TRAPS = {
    "llama3 scaling left out": ("hf-llama", config_with(attention__rope_scaling=PLAIN_ROPE)),
    "gate and up in the other order": ("hf-llama", reordered("gate_up.weight", (1, 0))),
    "Mamba2's z taken for x": ("hf-mamba2", as_stored("in_proj.weight")),
    "one mean over all groups (hf-mamba2)": ("hf-mamba2", config_with(mamba__norm_groups=1)),
    "one mean over all groups (mamba-ssm)": ("mamba-ssm-2", config_with(mamba__norm_groups=1)),
    "mamba-ssm's z taken for x": ("mamba-ssm-2", as_stored("mixer.in_proj.weight")),
    "fc1's value taken for the gate": ("mamba-ssm-2", as_stored("gate_up.weight")),
    "x_proj's dt taken for B": ("mamba-ssm-1", as_stored("x_proj.weight")),
    "dt bias twice where once is right": ("mamba-ssm-1", config_with(mamba1__dt_bias_twice=True)),
    "rotary base of the default": ("mamba-ssm-2", config_with(attention__rope_theta=10000.0)),
    "Llamba's rows taken for mamba_ssm's": (
        "llamba",
        lambda plan: dataclasses.replace(plan, entries=tuple(e for e in _as_mamba_ssm(plan))),
    ),
    "dt bias once (apart)": ("mamba-in-llama", config_with(mamba1__dt_bias_twice=False)),
    "dt bias once (M1)": ("m1", config_with(mamba1__dt_bias_twice=False)),
    "the base model's RoPE scaling (apart)": ("mamba-in-llama", config_with(attention__rope_scaling=SCALED)),
    "the base model's RoPE scaling (M1)": ("m1", config_with(attention__rope_scaling=SCALED)),
    "x and z in the file's order (M1)": ("m1", as_stored("blocks.1.mixer.in_proj.weight")),
    "B and x exchanged (apart)": ("mamba-in-llama", reordered("mixer.in_proj.weight", (1, 0, 2, 3, 4))),
    "z and C exchanged (apart)": ("mamba-in-llama", reordered("mixer.in_proj.weight", (0, 1, 3, 2, 4))),
    "x and z in the file's order (Mamba-2)": ("mamba2-in-llama", as_stored("mixer.in_proj.weight")),
    "one mean over all heads (Mamba-2)": ("mamba2-in-llama", config_with(mamba__norm_groups=1)),
}


def _as_mamba_ssm(plan):
    m = plan.config.mamba
    sizes = (m.inner, m.conv_channels, m.heads)
    for e in plan.entries:
        if e.target.endswith("in_proj.weight"):
            e = mapping.rows(e.target, e.sources[0][0], sizes, (1, 0, 2), plan.config.width)
        yield e


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_fallen_into_shows(trap):
    name, change_plan = TRAPS[trap]
    assert error(name, change_plan) > BROKEN


def test_a_z_bias_left_out_shows():
    assert error("llamba", change_model=without_z_bias) > BROKEN


@pytest.mark.parametrize("name", ["m1", "mamba-in-llama"])
def test_heads_tiled_instead_of_repeated_show(name, monkeypatch):
    """x is repeated head by head (0 0 1 1), before the convolution, whose weights differ between the copies."""
    monkeypatch.setattr(
        "harness.models.mamba1.repeat_heads", lambda x, inner, state: torch.cat([x] * (inner // x.shape[-1]), dim=-1)
    )
    assert error(name) > BROKEN


@pytest.mark.parametrize("name", ["m1", "mamba-in-llama"])
def test_heads_repeated_behind_the_convolution_show(name, monkeypatch):
    """Then all copies of a head would have one filter; theirs differ."""
    conv = mamba1.causal_conv

    def of_first_copies(x, weight, bias):
        copies, state = 2, 4
        heads = torch.arange(len(bias) // state) // copies * copies
        first = (heads[:, None] * state + torch.arange(state)).flatten()
        return conv(x, weight[first], bias[first])

    monkeypatch.setattr(mamba1, "causal_conv", of_first_copies)
    assert error(name) > BROKEN


def test_attention_where_attn_layers_does_not_say_so_is_refused_by_name():
    folder = VECTORS / "m1"
    _, config = formats.recognise(folder)
    config.data["num_hidden_layers"] = 3
    mamba = mamba_in_llama.Fields.read(folder / mamba_in_llama.MAMBA_CONFIG)
    mamba.data["attn_layers"] = [1]
    decoder = mamba_in_llama._config(folder, config, mamba)
    source = open_source(folder)
    plan = mapping.Plan(decoder, tuple(mamba_in_llama._entries(decoder, source)))
    with pytest.raises(mamba_in_llama.InputError) as caught:
        mapping.check(plan, source)
    assert "missing model.layers.1.mha.in_proj.weight" in str(caught.value)
    assert "unexpected model.layers.0.mha.in_proj.weight" in str(caught.value)


def test_null_fields_of_mamba_config_are_filled_from_the_base_model():
    assert '"d_inner": null' in (VECTORS / "m1" / "mamba_config.json").read_text()
    assert '"vocab_size": null' in (VECTORS / "m1" / "mamba_config.json").read_text()


def test_traps_name_what_the_shared_code_does():
    """The traps above change what these make; if they go elsewhere the traps must follow."""
    assert mamba_ssm.mamba2 is mixers.mamba2 and mamba_in_llama.mamba2 is mixers.mamba2


def documented():
    lines = DOCS.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_documented_table_is_that_of_the_vectors():
    """All but the last digits of the errors, which depend on the machine."""
    rows = documented()
    assert sorted(row[4].rpartition("/")[2].rstrip("`") for row in rows) == NAMES
    for row in rows:
        name = row[4].rpartition("/")[2].rstrip("`")
        needs(name)
        found = check(VECTORS / name)
        folder = Path("tests/models/checkpoints/vectors") / name
        cells = dataclasses.replace(found, folder=folder).cells()
        assert row[:3] + row[4:] == cells[:3] + cells[4:]
        assert re.fullmatch(r"\d\.\de-\d\d", row[3])
        assert found.error / 10 < float(row[3]) < min(10 * found.error, LARGEST_ERROR)


def test_the_table_goes_between_its_marks():
    row = Row("f", "m", "o", 2.34e-5, Path("v"))
    page = replaced(f"above\n{BEGIN}\nold\n{END}\nbelow\n", table([row]), DOCS)
    assert page.startswith("above\n") and page.endswith("\nbelow\n") and "old" not in page
    assert "| f | m | o | 2.3e-05 | `harness models check v` |" in page
    with pytest.raises(mamba_in_llama.InputError, match="vectors: begin"):
        replaced("no marks", "", DOCS)
