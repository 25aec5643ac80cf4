"""Our layout on disk: what is wrong is named, all of it and in one line; what is saved comes back."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.models.checkpoints import native
from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig, RopeScaling
from harness.models.decoder import Decoder
from harness.models.resolve import load_model
from harness.records import InputError

CPU = torch.device("cpu")
CONFIG = DecoderConfig(
    vocab_size=40,
    width=16,
    layers=("attention", "mamba1", "mamba2", "discrete_mamba2"),
    mlp=24,
    context=64,
    eos=(2, 3),
    bos=1,
    attention=AttentionConfig(2, 1, 8, rope_scaling=RopeScaling(8.0)),
    mamba=MambaConfig(2, 8, 4, 1, gated_norm=True, dt_bias=True),
    mamba1=Mamba1Config(inner=16, dt_rank=2, state=4, xb=8),
    tied=False,
)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = Decoder(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    native.save(model, tmp_path)
    return tmp_path


def refused(folder):
    with pytest.raises(InputError) as caught:
        native.load(folder, torch.float32, CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_round_trip_in_bf16(folder):
    model = native.load(folder, torch.bfloat16, CPU)
    assert model.config == CONFIG and not model.training
    # Mamba-1's decays keep their digits: rounded to 8 bits they are other decays, applied at every token.
    wide = {f"blocks.1.mixer.{name}" for name in ("A_log", "D", "dt_bias")}
    kinds = {n: p.dtype for n, p in model.named_parameters() if not p.requires_grad}
    assert kinds == {n: torch.float32 if n in wide else torch.bfloat16 for n, _ in model.named_parameters()}
    assert all(load_file(folder / native.WEIGHTS)[n].dtype == torch.float32 for n in wide)
    again = folder / "again"
    native.save(model, again)
    assert (again / native.CONFIG).read_text() == (folder / native.CONFIG).read_text()
    first, second = (load_file(f / native.WEIGHTS) for f in (folder, again))
    assert first.keys() == second.keys() == {n for n, _ in model.named_parameters()}
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert native.sha256(folder / native.WEIGHTS) == native.sha256(again / native.WEIGHTS)
    tokens = torch.tensor([[1, 5, 7]])
    assert torch.equal(model(tokens), native.load(again, torch.bfloat16, CPU)(tokens))


def test_a_tied_head_is_not_stored(folder):
    native.save(Decoder(dataclasses.replace(CONFIG, tied=True)), folder)
    assert "head.weight" not in load_file(folder / native.WEIGHTS)
    assert native.load(folder, torch.float32, CPU).head is None


def test_everything_wrong_with_the_tensors_is_named_at_once(folder):
    tensors = load_file(folder / native.WEIGHTS)
    del tensors["norm.weight"], tensors["blocks.0.mlp.down.weight"]
    tensors["blocks.1.mixer.extra"] = torch.zeros(1)
    tensors["blocks.0.mixer.qkv.weight"] = torch.zeros(32, 15)
    tensors["head.weight"] = torch.zeros(41, 16)
    save_file(tensors, folder / native.WEIGHTS)
    message = refused(folder)
    for part in (
        "missing norm.weight [16]",
        "missing blocks.0.mlp.down.weight [16, 24]",
        "unexpected blocks.1.mixer.extra",
        "blocks.0.mixer.qkv.weight is [32, 15]",
        "[32, 16]",
        "head.weight is [41, 16]",
        str(folder / native.WEIGHTS),
    ):
        assert part in message


@pytest.mark.parametrize("keep", [0, 4, 100, 0.9])
def test_a_truncated_file_is_refused(folder, keep):
    path = folder / native.WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    assert f"{path}: not a whole safetensors file" in refused(folder)


def test_missing_files_are_named(folder):
    (folder / native.WEIGHTS).unlink()
    assert f"{folder / native.WEIGHTS}: missing" in refused(folder)
    (folder / native.CONFIG).unlink()
    assert str(folder / native.CONFIG) in refused(folder)


def change(folder, **changes):
    data = json.loads((folder / native.CONFIG).read_text())
    for key, value in changes.items():
        place = data
        *outer, last = key.split("__")
        for name in outer:
            place = place[name]
        place[last] = value
    (folder / native.CONFIG).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"widht": 16}, ("unknown key 'widht'", "'width'")),
        ({"attention__kv_head": 1}, ("unknown key 'kv_head'", "'kv_heads'")),
        ({"attention__heads": 3, "attention__kv_heads": 2}, ("attention.kv_heads = 2",)),
        ({"mamba__groups": 0}, ("mamba.groups = 0",)),
        ({"mamba__head_dim": -1}, ("mamba.head_dim = -1", "at least 1")),
        ({"width": -1}, ("width = -1",)),
        ({"mamba": None}, ("mamba is missing",)),
        ({"layers": []}, ("layers = []",)),
        ({"layers": ["mamba3"]}, ("layers[0] = 'mamba3'", "mamba2")),
        ({"vocab_size": "40"}, ("vocab_size = '40'", "whole number")),
    ],
)
def test_a_wrong_config_names_the_field(folder, changes, parts):
    change(folder, **changes)
    message = refused(folder)
    assert message.startswith(str(folder / native.CONFIG)) and all(part in message for part in parts), message


def test_a_config_that_is_not_json(folder):
    (folder / native.CONFIG).write_text("{")
    assert "not JSON" in refused(folder)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tiny-techer", ("'tiny-techer'", "no such model")),
        ("smollm2", ("smollm2-135m",)),
        ("random:llama-3.2-2b", ("no such shape", "llama-3.2-")),
    ],
)
def test_a_wrong_model_name_is_answered_with_a_known_one(name, parts):
    with pytest.raises(InputError) as caught:
        load_model(name, torch.float32, CPU)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_folder_without_config_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        load_model(str(tmp_path), torch.float32, CPU)
