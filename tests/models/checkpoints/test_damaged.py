"""Checkpoints that are cut, damaged, hostile or something else altogether: one line that says so, and no traceback."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.models.checkpoints import formats
from harness.models.checkpoints.source import open_source
from harness.models.checkpoints.tokenizer import load_hub_codec
from harness.models.resolve import describe
from harness.records import InputError

VECTORS = Path(__file__).parent / "vectors"
FOLDERS = sorted(path.parent.name for path in VECTORS.glob("*/config.json"))
TENSORS = {f"model.layers.{i}.weight": torch.arange(12.0).reshape(3, 4).bfloat16() + i for i in range(3)}
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WEB_PAGE = b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"


def one_line(caught, path):
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable(), message
    return message.removeprefix(f"{path}: ")


def refused(path, content=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_source(path.parent)
    return one_line(caught, path)


def saved(value, zipped=True):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_cut_anywhere_is_refused(zipped, tmp_path):
    path, whole = tmp_path / "pytorch_model.bin", saved(TENSORS, zipped)
    for end in range(0, len(whole), 7 if zipped else 1):
        refused(path, whole[:end])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_wrong_bits_is_refused_or_tensors(zipped, tmp_path):
    path, whole, draw = tmp_path / "pytorch_model.bin", saved(TENSORS, zipped), random.Random(3)
    outcomes = collections.Counter()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 2, 8))):
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            source = open_source(tmp_path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()
            outcomes["refused"] += 1
        else:
            assert all(source.get(name).shape == shape for name, shape in source.shapes.items())
            outcomes["read"] += 1
    assert min(outcomes["refused"], outcomes["read"]) > 50


class _Calls:
    def __init__(self, what, *given):
        self.what, self.given = what, given

    def __reduce__(self):
        return self.what, self.given


@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_pickle_wants_to_call_is_named_and_torchs_advice_is_not_given(zipped, tmp_path):
    path, made = tmp_path / "pytorch_model.bin", tmp_path / "made"
    content = saved({"a": _Calls(os.mkdir, str(made))}, zipped)
    assert refused(path, content) == (
        f"asks for {os.mkdir.__module__}.mkdir, which is no tensor: refused, its code was not run; use safetensors"
    )
    assert refused(path, saved({"a": torch.nn.Linear(1, 1)}, zipped)).startswith(
        "asks for torch.nn.modules.linear.Linear, which"
    )
    assert not made.exists()


@pytest.mark.parametrize("name", [b"sys\x1b[31mtem", b"sys\rtem", b"s" * 5000])
def test_a_name_that_could_drive_a_terminal_is_not_printed(name, tmp_path):
    message = refused(tmp_path / "pytorch_model.bin", b"cposix\n" + name + b"\n(S'ls'\ntR.")
    assert "sys" not in message and len(message) < 200 and "weights_only" not in message


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(100), pickle.dumps({"a": 1}, 4), b"PK\x03\x04 no zip"])
def test_something_else_under_the_name_of_a_pickle(content, tmp_path):
    message = refused(tmp_path / "pytorch_model.bin", content)
    assert message.startswith("not a plain file of tensors, or cut short (")
    assert message.endswith("; copy it again or use safetensors") and "weights_only" not in message


@pytest.mark.parametrize("value", [{1: torch.zeros(1)}, {"a": torch.eye(2).to_sparse()}, {"a": 1}, torch.zeros(1)])
def test_a_pickle_of_more_than_named_tensors(value, tmp_path):
    assert "holds more than named tensors" in refused(tmp_path / "pytorch_model.bin", saved(value))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_pointer_or_a_web_page_in_the_place_of_weights(file, tmp_path):
    assert refused(tmp_path / file, LFS_POINTER) == "a Git LFS pointer, not the file; run git lfs pull"
    assert refused(tmp_path / file, WEB_PAGE).startswith("a web page, not the file (starts with b'")


def test_a_pointer_in_the_place_of_our_own_weights(tmp_path):
    config = {"vocab_size": 8, "width": 8, "layers": ["attention"], "mlp": 0, "context": 8, "eos": [1]}
    config["attention"] = {"heads": 1, "kv_heads": 1, "head_dim": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(LFS_POINTER)
    with pytest.raises(InputError) as caught:
        describe(str(tmp_path))
    assert "a Git LFS pointer" in one_line(caught, tmp_path / "model.safetensors")


def test_a_pointer_in_the_place_of_the_tokenizer(tmp_path):
    folder = copied("hf-llama", tmp_path)
    (folder / "tokenizer.json").write_bytes(LFS_POINTER)
    with pytest.raises(InputError) as caught:
        load_hub_codec(folder, describe(str(folder))[1])
    assert "a Git LFS pointer" in one_line(caught, folder / "tokenizer.json")


def test_names_in_a_file_cannot_break_the_line(tmp_path):
    folder = copied("m1", tmp_path)
    save_file({"a\nb\x1b[31m": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(InputError) as caught:
        describe(str(folder))
    assert r"unexpected 'a\nb\x1b[31m'" in one_line(caught, folder)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    for file in ("a\nb.safetensors", "../a\nb.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": file}}))
        with pytest.raises(InputError) as caught:
            describe(str(folder))
        assert str(caught.value).isprintable()


def copied(name, to):
    return shutil.copytree(VECTORS / name, to / name)


def numbers(data, path=()):
    """The path of each number in a config, through its records and lists."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, dict | list):
            yield from numbers(value, (*path, key))
        elif type(value) in (int, float):
            yield *path, key


def with_value(data, path, value):
    """A copy of ``data`` with another value in one place."""
    changed = json.loads(json.dumps(data))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(changed)


WRONG = (0, -1, 1e-320, 10**9, 10**400, "7", "x" * 3000, float("nan"), float("inf"), True, [[]], {})


@pytest.mark.parametrize("name", FOLDERS)
def test_any_number_of_a_config_may_be_wrong(name, tmp_path, monkeypatch):
    folder, source = copied(name, tmp_path), open_source(VECTORS / name)
    monkeypatch.setattr(formats, "open_source", lambda _: source)
    tried = set()
    for path in folder.glob("*config.json"):
        whole = json.loads(path.read_text())
        for place in numbers(whole):
            tried.add(place[-1])
            for value in WRONG:
                path.write_text(with_value(whole, place, value))
                try:
                    describe(str(folder))
                except InputError as error:
                    message = str(error)
                    assert str(folder) in message or str(source.folder) in message, message
                    assert message.isprintable() and "x" * 100 not in message, (place, value)
        path.write_text(json.dumps(whole))
    assert len(tried) > 5
    assert describe(str(folder))[0] == formats.recognise(folder)[0].NAME


SIZES = [
    ("hf-llama", "config.json", "num_attention_heads"),
    ("hf-llama", "config.json", "head_dim"),
    ("hf-llama", "config.json", "num_hidden_layers"),
    ("hf-llama", "config.json", "vocab_size"),
    ("hf-llama", "config.json", "max_position_embeddings"),
    ("hf-llama", "config.json", "intermediate_size"),
    ("m1", "config.json", "num_attention_heads"),
    ("m1", "config.json", "num_hidden_layers"),
    ("m1", "mamba_config.json", "d_xb"),
    ("m1", "mamba_config.json", "ssm_cfg", "d_state"),
    ("mamba2-in-llama", "mamba_config.json", "ssm_cfg", "ngroups"),
    ("llamba", "config.json", "pad_vocab_size_multiple"),
    ("llamba", "config.json", "n_layer"),
    ("llamba", "config.json", "ssm_cfg", "n_v_heads"),
    ("hf-mamba2", "config.json", "num_hidden_layers"),
    ("hf-mamba2", "config.json", "n_groups"),
    ("mamba-ssm-2", "config.json", "pad_vocab_size_multiple"),
    ("mamba-ssm-2", "config.json", "attn_cfg", "num_heads"),
    ("mamba-ssm-2", "config.json", "ssm_cfg", "headdim"),
    ("mamba-ssm-2", "config.json", "n_layer"),
]


@pytest.mark.parametrize("value", [0, -1, 300_000_000])
@pytest.mark.parametrize(("name", "file", "place"), [(name, file, place) for name, file, *place in SIZES])
def test_a_size_out_of_bounds_is_named_with_its_file(name, file, place, value, tmp_path):
    path = copied(name, tmp_path) / file
    path.write_text(with_value(json.loads(path.read_text()), place, value))
    with pytest.raises(InputError) as caught:
        describe(str(path.parent))
    most = 1000 if place[-1] in ("num_hidden_layers", "n_layer") else 1 << 24
    outer = "".join(f"{key}: " for key in place[:-1])
    assert one_line(caught, path) == f"{outer}{place[-1]} = {value}; expected a whole number from 1 to {most}"


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("hf-llama", ["rms_norm_eps"], 0, "rms_norm_eps = 0; expected a number above 0"),
        ("hf-llama", ["rope_parameters", "rope_theta"], -1.0, "rope_theta = -1.0; expected a number above 0"),
        ("hf-llama", ["rope_parameters", "high_freq_factor"], 1, "low_freq_factor = 1.0; must be less than high"),
        ("hf-llama", ["eos_token_id"], -1, "eos_token_id = -1; expected a token id"),
        ("hf-llama", ["head_dim"], 7, "attention.head_dim = 7: must be even"),
        ("hf-llama", ["num_key_value_heads"], 3, "attention.kv_heads = 3: must divide"),
        ("hf-mamba2", ["expand"], float("inf"), "expand = inf; expected a number above 0"),
        ("hf-mamba2", ["conv_kernel"], 1, "mamba.conv = 1"),
        ("mamba-ssm-2", ["d_intermediate"], -1, "d_intermediate = -1; expected a whole number from 0 to"),
    ],
)
def test_a_number_that_cannot_be_is_named_with_its_file(name, place, value, said, tmp_path):
    path = copied(name, tmp_path) / "config.json"
    path.write_text(with_value(json.loads(path.read_text()), place, value))
    with pytest.raises(InputError) as caught:
        describe(str(path.parent))
    assert said in one_line(caught, path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}", "\ufeff{}", '"'])
def test_a_config_that_no_reader_takes(text, tmp_path):
    # Python's own bound, which sympy lifts for the whole process.
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(4300)
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    try:
        with pytest.raises(InputError) as caught:
            describe(str(tmp_path))
    finally:
        sys.set_int_max_str_digits(before)
    assert "copy it again" in one_line(caught, path)


def test_a_file_where_the_folder_is_wanted():
    path = VECTORS / "m1" / "config.json"
    with pytest.raises(InputError) as caught:
        describe(str(path))
    assert "a file; give the folder" in str(caught.value) and repr(str(path.parent)) in str(caught.value)
