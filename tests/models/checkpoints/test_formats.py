"""Folders as they come from the hub: tokenizers, special tokens, shards, and everything that can be wrong with them."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from harness.models.checkpoints import formats, hf_llama, llamba, mamba_in_llama, mamba_ssm, native
from harness.models.checkpoints.fields import Fields
from harness.models.checkpoints.source import open_source, weight_files
from harness.models.decoder import Decoder
from harness.models.resolve import convert, describe, fingerprint, load_model
from harness.records import InputError

CPU = torch.device("cpu")
VECTORS = Path(__file__).parent / "vectors"
LETTERS = [*"abcdefghijklmnopqrs", "Ġ"]
SPECIAL = {"<b>": 1, "<e>": 2, "<u>": 3}
TEMPLATE = "{{ bos_token }}{% for m in messages %}<u>{{ m['content'] }}{{ eos_token }}{% endfor %}"


def tokenizer(bos=True):
    vocabulary = {"a": 0, **SPECIAL, **{c: i for i, c in enumerate(LETTERS[1:], 4)}}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    if bos:
        made.post_processor = processors.TemplateProcessing("<b> $A", "<b> $A $B", [("<b>", 1)])
    return made


def copy(name, folder, bos=True):
    """A vector's checkpoint with a tokenizer, as a folder of its own."""
    shutil.copytree(VECTORS / name, folder, ignore=shutil.ignore_patterns("vector.json", "logits.safetensors"))
    tokenizer(bos).save(str(folder / "tokenizer.json"))
    return folder


def change(path, **changes):
    data = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = data
        for name in outer:
            place = place[name]
        place[last] = value
    path.write_text(json.dumps(data))


def refused(folder, *parts):
    with pytest.raises(InputError) as caught:
        load_model(str(folder), torch.float32, CPU)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message
    return message


@pytest.mark.parametrize("name", ["hf-llama", "hf-llama-tied", "mamba-in-llama", "mamba2-in-llama", "m1"])
def test_a_folder_loads_through_the_one_door(name, tmp_path):
    folder = copy(name, tmp_path / name)
    model = load_model(str(folder), torch.bfloat16, CPU)
    assert (model.name, model.random, model.codec.eos, model.codec.bos) == (name, False, (2, 3), 1)
    assert model.codec.encode_prompt("ab") == [1, 0, 4]
    known = fingerprint(str(folder))
    assert (known.name, known.sha256) == (name, model.sha256)
    assert describe(str(folder))[1] == model.config
    wide = {n.rpartition(".")[2] for n, p in model.decoder.named_parameters() if p.dtype == torch.float32}
    assert wide == ({"A_log", "D", "dt_bias"} if "mamba1" in model.config.layers else set())


def test_the_fingerprint_is_that_of_all_weight_files(tmp_path):
    folder = copy("hf-llama", tmp_path / "a")
    shards = weight_files(folder)
    assert len(shards) == 3
    before = fingerprint(str(folder)).sha256
    content = bytearray(shards[-1].read_bytes())
    content[-1] ^= 1
    shards[-1].write_bytes(content)
    assert fingerprint(str(folder)).sha256 != before


def test_a_conversion_gives_the_same_logits_tokens_and_template(tmp_path):
    folder = copy("m1", tmp_path / "m1")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    convert(str(folder), tmp_path / "ours", torch.float32)
    first, second = (load_model(str(f), torch.float32, CPU) for f in (folder, tmp_path / "ours"))
    tokens = torch.tensor([[1, 5, 7, 9]])
    assert torch.equal(first.decoder(tokens), second.decoder(tokens))
    assert first.codec.encode_prompt("ab") == second.codec.encode_prompt("ab") == [1, 3, 0, 4, 2]
    assert (second.config.layers, formats.recognise(tmp_path / "ours")) == (first.config.layers, None)
    with pytest.raises(InputError, match="not an empty folder"):
        convert(str(folder), tmp_path / "ours", torch.float32)


@pytest.mark.parametrize("file", ["generation_config.json", "tokenizer_config.json"])
def test_end_of_text_that_config_json_lacks(file, tmp_path):
    folder = copy("mamba-ssm-1", tmp_path / "a", bos=False)
    refused(folder, "no end of text", "eos_token_id")
    text = {"eos_token_id": 2} if file.startswith("gen") else {"eos_token": {"content": "<e>"}}
    (folder / file).write_text(json.dumps(text))
    codec = load_model(str(folder), torch.float32, CPU).codec
    assert (codec.eos, codec.bos) == ((2,), None)


def test_a_bos_that_the_tokenizer_does_not_add_is_not_added(tmp_path):
    codec = load_model(str(copy("hf-llama", tmp_path / "a", bos=False)), torch.float32, CPU).codec
    assert codec.encode_prompt("ab") == [0, 4]


def test_the_default_of_several_templates(tmp_path):
    folder = copy("hf-llama", tmp_path / "a")
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert load_model(str(folder), torch.float32, CPU).codec.encode_prompt("a") == [1, 3, 0, 2]


def test_a_template_that_raises_says_so(tmp_path):
    folder = copy("hf-llama", tmp_path / "a")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no user turns') }}")
    codec = load_model(str(folder), torch.float32, CPU).codec
    with pytest.raises(InputError, match="no user turns"):
        codec.encode_prompt("a")


def test_a_tokenizer_of_another_vocabulary(tmp_path):
    folder = copy("hf-llama", tmp_path / "a")
    other = tokenizer()
    other.add_tokens([f"w{i}" for i in range(6)])
    other.save(str(folder / "tokenizer.json"))
    refused(folder, "29 tokens", "vocabulary has 24")
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer.json: missing")


def test_all_wrong_tensors_are_named_at_once(tmp_path):
    folder = copy("mamba-in-llama", tmp_path / "a")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"], tensors["model.layers.0.mamba.dt_proj.bias"]
    tensors["model.layers.0.mamba.extra"] = torch.zeros(1)
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(15, 24)
    save_file(tensors, folder / "model.safetensors")
    refused(
        folder,
        "missing model.norm.weight [24]",
        "missing model.layers.0.mamba.dt_proj.bias [24]",
        "unexpected model.layers.0.mamba.extra",
        "model.layers.2.mlp.up_proj.weight is [15, 24], the config says [16, 24]",
    )


def test_a_tied_head_that_differs_is_refused(tmp_path):
    folder = copy("hf-llama-tied", tmp_path / "a")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    torch.save(tensors, folder / "pytorch_model.bin")
    refused(folder, "lm_head.weight differs from model.embed_tokens.weight")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_file_cut_short(keep, tmp_path):
    for name, file in (("m1", "model.safetensors"), ("llamba", "pytorch_model.bin"), ("hf-llama", None)):
        folder = copy(name, tmp_path / name)
        path = folder / file if file else weight_files(folder)[1]
        path.write_bytes(path.read_bytes()[:keep])
        refused(folder, str(path))


class _Code:
    def __reduce__(self):
        return (Path("/nonexistent-folder-of-a-test").mkdir, ())


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(plain, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(Path, "mkdir", lambda *_: ran.append(1))
    folder = copy("llamba", tmp_path / "a")
    path = folder / "pytorch_model.bin"
    if plain:
        path.write_bytes(pickle.dumps({"a": _Code()}))
    else:
        torch.save({"a": _Code()}, path)
    # A plain pickle of this protocol is not even read as far as its code.
    refused(folder, str(path), "not a plain file of tensors" if plain else "asks for getattr, which is no tensor")
    assert not ran


def test_a_pickle_of_something_else(tmp_path):
    folder = copy("llamba", tmp_path / "a")
    torch.save([1, 2], folder / "pytorch_model.bin")
    refused(folder, "holds more than named tensors")


@pytest.mark.parametrize(
    ("weight_map", "parts"),
    [
        ({"a": "../elsewhere.safetensors"}, ("outside its folder",)),
        ({"a": "/etc/passwd"}, ("outside its folder",)),
        ({"a": "sub/x.safetensors"}, ("outside its folder",)),
        ({"a": "none.safetensors"}, ("none.safetensors: missing",)),
        ({"a": "model-00001-of-00003.safetensors"}, ("holds no a",)),
        ([], ("no index of shards",)),
    ],
)
def test_a_wrong_index(weight_map, parts, tmp_path):
    folder = copy("hf-llama", tmp_path / "a")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, *parts)


def test_a_folder_that_is_none_of_them_says_which_files_decide(tmp_path):
    refused(tmp_path, "holds no config.json", *(f.NAME for f in formats.FOREIGN), "mamba_config.json", ".gguf")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    refused(tmp_path, "model_type 'gpt2'", "GPT2LMHeadModel", "mamba_config.json")
    (tmp_path / "config.json").write_text('{"model_type": "llama"')
    refused(tmp_path, "config.json: not JSON")
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path, "expected named fields")


def test_a_folder_without_weights(tmp_path):
    folder = copy("m1", tmp_path / "a")
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no weights", "model.safetensors.index.json", "pytorch_model.bin")


CHANGES = [
    ("hf-llama", {"attention_bias": True}, "attention_bias = True"),
    ("hf-llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ("hf-llama", {"rope_parameters__rope_type": "yarn"}, "rope_type = 'yarn'"),
    ("hf-llama", {"rope_parameters__partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    ("hf-llama", {"hidden_size": "24"}, "hidden_size = '24'"),
    ("hf-llama", {"hidden_size": None}, "hidden_size is missing"),
    ("hf-llama", {"eos_token_id": "2"}, "eos_token_id = '2'"),
    ("llamba", {"norm_epsilon": 1e-6}, "norm_epsilon = 1e-06"),
    ("llamba", {"ssm_cfg__activation": "silu"}, "activation = 'silu'"),
    ("llamba", {"ssm_cfg__n_v_heads": 5}, "n_v_heads = 5"),
    ("llamba", {"ssm_cfg__gate": 1}, "gate = 1 is not known"),
    ("llamba", {"ssm_cfg": None}, "expected named fields"),
    ("hf-mamba2", {"time_step_limit": [0.0, 1.0]}, "time_step_limit = [0.0, 1.0]"),
    ("hf-mamba2", {"use_bias": True}, "use_bias = True"),
    ("hf-mamba2", {"num_heads": 5}, "num_heads = 5"),
    ("mamba-ssm-2", {"ssm_cfg__layer": "Mamba3"}, "layer = 'Mamba3'"),
    ("mamba-ssm-2", {"ssm_cfg__dt_limit": [0.0, 1.0]}, "dt_limit = [0.0, 1.0]"),
    ("mamba-ssm-2", {"ssm_cfg__norm_before_gate": True}, "norm_before_gate = True"),
    ("mamba-ssm-2", {"attn_cfg__rotary_emb_dim": 4}, "rotary_emb_dim = 4"),
    ("mamba-ssm-2", {"attn_cfg__d_conv": 4}, "d_conv = 4"),
    ("mamba-ssm-2", {"attn_cfg__causal": None}, "causal is missing"),
    ("mamba-ssm-2", {"attn_layer_idx": [2]}, "attn_layer_idx = [2]"),
    ("mamba-ssm-1", {"rms_norm": False}, "rms_norm = False"),
    ("mamba-ssm-1", {"ssm_cfg__ngroups": 2}, "ngroups = 2 is not known"),
]
MAMBA_CHANGES = [
    ("m1", {"attn_layers": [3]}, "attn_layers = [3]"),
    ("m1", {"d_model": 25}, "d_model = 25"),
    ("m1", {"rms_norm_eps": 1e-6}, "rms_norm_eps = 1e-06"),
    ("m1", {"vocab_size": 25}, "vocab_size = 25"),
    ("m1", {"d_xb": 10}, "mamba1.xb = 10"),
    ("m1", {"ssm_cfg__repeat_kv_before_conv": False}, "repeat_kv_before_conv = False"),
    ("m1", {"ssm_cfg__out_proj_bias": True}, "out_proj_bias = True"),
    ("mamba2-in-llama", {"ssm_cfg__ngroups": 3}, "ngroups = 3"),
    ("mamba2-in-llama", {"ssm_cfg__repeat_kv_before_conv": True}, "repeat_kv_before_conv = True"),
]


@pytest.mark.parametrize(
    ("file", "name", "changes", "part"),
    [("config.json", *c) for c in CHANGES] + [("mamba_config.json", *c) for c in MAMBA_CHANGES],
)
def test_a_field_that_cannot_be_run_is_named(file, name, changes, part, tmp_path):
    folder = copy(name, tmp_path / "a")
    change(folder / file, **changes)
    refused(folder, str(folder / file) if "mamba1.xb" not in part else "mamba1", part)


def test_a_d_inner_that_is_given_counts(tmp_path):
    folder = copy("m1", tmp_path / "a")
    change(folder / "mamba_config.json", d_inner=48)
    refused(folder, "model.layers.1.mamba.A_log is [24, 4], the config says [48, 4]")


LLAMA_1B = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
LLAMA_3B = {**LLAMA_1B, "hidden_size": 3072, "num_attention_heads": 24, "num_hidden_layers": 28, "head_dim": 128}
LLAMBA = {
    "model_type": "llamba",
    "vocab_size": 128256,
    "tie_embeddings": True,
    "pad_vocab_size_multiple": 8,
    "lm_head_bias": False,
    "norm_epsilon": 1e-5,
    "mlp_cfg": {"intermediate_size": 8192, "bias": False, "act_fn": "silu"},
    "ssm_cfg": {
        **{"d_state": 64, "n_v_heads": 32, "n_qk_heads": 32, "expand": 1},
        **{"chunk_size": 128, "activation": "identity", "bias": False},
    },
}
MAMBA2 = {"d_model": 2048, "d_intermediate": 0, "n_layer": 48, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}}
MAMBA2 |= {"attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "pad_vocab_size_multiple": 16}


def hybrid(llama, xb, kept):
    ssm = {"d_model": llama["hidden_size"], "ssm_cfg": {"expand": 1}, "vocab_size": None, "d_inner": None, "d_xb": xb}
    return {**ssm, "n_layer": llama["num_hidden_layers"], "attn_layers": kept, "rms_norm_eps": 1e-5}


# Configs as published, and the counts that papers.md and the model cards give, in billions.
PUBLISHED = [
    (hf_llama, LLAMA_1B, None, "1.236"),
    (hf_llama, LLAMA_3B, None, "3.213"),
    (llamba, {**LLAMBA, "d_model": 2048, "n_layer": 16}, None, "1.40"),
    (llamba, {**LLAMBA, "d_model": 3072, "n_layer": 28}, None, "3.66"),
    (mamba_in_llama, LLAMA_1B, hybrid(LLAMA_1B, 512, [3, 7, 11, 15]), "1.29"),
    (mamba_in_llama, LLAMA_3B, hybrid(LLAMA_3B, 1024, [3, 8, 13, 18, 23, 27]), "3.45"),
    (mamba_ssm, MAMBA2, None, "1.344"),
]


class _Nothing:
    shapes: ClassVar[dict[str, tuple[int, ...]]] = {}


@pytest.mark.parametrize(("format_", "config", "mamba", "billions"), PUBLISHED)
def test_parameters_of_the_published_configs(format_, config, mamba, billions, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if mamba is not None:
        (tmp_path / "mamba_config.json").write_text(json.dumps(mamba))
    fields = Fields.read(tmp_path / "config.json")
    assert formats.recognise(tmp_path)[0] is format_
    plan = format_.plan(tmp_path, fields, _Nothing())
    with torch.device("meta"):
        model = Decoder(plan.config)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    count = sum(s.numel() for s in shapes.values())
    assert abs(count / 1e9 - float(billions)) < 10.0 ** -len(billions.partition(".")[2])
    # The plan fills each of them once, from as many numbers.
    assert sorted(e.target for e in plan.entries) == sorted(shapes)
    assert all(sum(math.prod(s) for _, s in e.sources) == shapes[e.target].numel() for e in plan.entries)
    if format_ is llamba:
        assert (plan.config.mamba.heads, plan.config.mamba.head_dim) == (32, config["d_model"] // 32)


def test_shards_and_one_file_hold_the_same(tmp_path):
    folder = copy("hf-llama", tmp_path / "a")
    source = open_source(folder)
    tensors = {name: source.get(name) for name in source.shapes}
    first = load_model(str(folder), torch.float32, CPU)
    save_file(tensors, folder / "model.safetensors")
    second = load_model(str(folder), torch.float32, CPU)
    assert all(torch.equal(a, b) for a, b in zip(first.decoder.parameters(), second.decoder.parameters(), strict=True))
    assert second.sha256 == native.sha256(folder / "model.safetensors")
