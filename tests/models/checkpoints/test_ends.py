"""The ends of a foreign model: a head of its own or the embedding, padded vocabularies, and the norms' eps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.models.checkpoints import formats
from harness.models.layers import RMSNorm
from harness.records import InputError

CPU = torch.device("cpu")
VECTORS = Path(__file__).parent / "vectors"
TOKENS = torch.tensor([[1, 5, 7, 9, 23, 0]])


def copied(name, to, **changes):
    """A vector's folder, fields of its config.json (or ``mamba__`` of mamba_config.json) changed."""
    folder = shutil.copytree(VECTORS / name, to / name)
    for key, value in changes.items():
        path = folder / ("mamba_config.json" if key.startswith("mamba__") else "config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {key.removeprefix("mamba__"): value}))
    return folder


def load(folder):
    return formats.load(folder, formats.recognise(folder), torch.float32, CPU)


def with_tensor(folder, name, tensor):
    path = folder / "pytorch_model.bin"
    torch.save({**torch.load(path, weights_only=True), name: tensor}, path)


def last_logits(model, weight, head, eps):
    """Logits by hand from what the last block leaves: RMS norm with ``weight`` and ``eps``, times ``head``, float64."""
    collected = []
    given = model(TOKENS, collected)
    x = collected[-1].double()
    normed = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    return given.double(), normed @ head.double().T


def agree(a, b):
    return (a - b).abs().max() < 1e-5 * b.abs().max()


def test_an_untied_llamba_has_a_head_of_its_own(tmp_path):
    tied, folder = load(VECTORS / "llamba"), copied("llamba", tmp_path, tie_embeddings=False)
    with pytest.raises(InputError, match=r"missing lm_head\.weight \[24, 36\]"):
        load(folder)
    head = torch.randn(24, 36, generator=torch.Generator().manual_seed(1)).bfloat16()
    with_tensor(folder, "lm_head.weight", head)
    model = load(folder)
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
    given, expected = last_logits(model, stored["backbone.final_layernorm.weight"], head, 1e-5)
    assert agree(given, expected)
    embedding = stored["backbone.embedding.weight"]
    assert torch.equal(model.embedding.weight, embedding.float())
    # The same blocks, and so the tied head's logits are those of the embedding.
    given, expected = last_logits(tied, stored["backbone.final_layernorm.weight"], embedding, 1e-5)
    assert agree(given, expected)
    assert not agree(model(TOKENS), tied(TOKENS))


def test_a_head_that_a_tied_llamba_should_not_have(tmp_path):
    folder = copied("llamba", tmp_path)
    with_tensor(folder, "lm_head.weight", torch.randn(24, 36))
    with pytest.raises(InputError, match=r"lm_head\.weight differs from backbone\.embedding\.weight"):
        load(folder)


@pytest.mark.parametrize("name", ["llamba", "mamba-ssm-1", "mamba-ssm-2"])
@pytest.mark.parametrize(("size", "multiple"), [(17, 8), (23, 8), (24, 8), (21, None), (21, 12), (24, 1)])
def test_a_vocabulary_is_padded_to_the_multiple(name, size, multiple, tmp_path):
    model = load(copied(name, tmp_path, vocab_size=size, pad_vocab_size_multiple=multiple))
    assert model.config.vocab_size == 24
    assert torch.equal(model(TOKENS), load(VECTORS / name)(TOKENS))


@pytest.mark.parametrize("name", ["llamba", "mamba-ssm-1"])
@pytest.mark.parametrize(("size", "multiple", "rows"), [(25, 8, 32), (16, 8, 16), (21, 1, 21), (21, 16, 32)])
def test_a_vocabulary_that_pads_to_something_else_is_refused(name, size, multiple, rows, tmp_path):
    folder = copied(name, tmp_path, vocab_size=size, pad_vocab_size_multiple=multiple)
    with pytest.raises(InputError, match=rf"embedding\.weight is \[24, \d+\], the config says \[{rows}, "):
        load(folder)


EPS = [
    ("hf-llama", ("rms_norm_eps",), "model.norm.weight", "lm_head.weight"),
    ("hf-llama-tied", ("rms_norm_eps",), "model.norm.weight", "model.embed_tokens.weight"),
    ("hf-mamba2", ("layer_norm_epsilon",), "backbone.norm_f.weight", "lm_head.weight"),
    ("m1", ("rms_norm_eps", "mamba__rms_norm_eps"), "model.norm.weight", "model.embed_tokens.weight"),
    ("mamba-in-llama", ("rms_norm_eps", "mamba__rms_norm_eps"), "model.norm.weight", "model.embed_tokens.weight"),
]
# These have one eps alone: the layout has no field for it, or another value is refused.
FIXED = ["llamba", "mamba-ssm-1", "mamba-ssm-2", "mamba2-in-llama"]


def stored(folder, name):
    for path in folder.glob("model*.safetensors"):
        if name in (tensors := load_file(path)):
            return tensors[name]
    return torch.load(folder / "pytorch_model.bin", weights_only=True)[name]


def all_eps(model):
    return {module.eps for module in model.modules() if isinstance(module, RMSNorm)}


@pytest.mark.parametrize(("name", "fields", "norm", "head"), EPS)
@pytest.mark.parametrize("eps", [1e-2, 0.5])
def test_the_norms_have_the_eps_of_the_config(name, fields, norm, head, eps, tmp_path):
    folder = copied(name, tmp_path, **dict.fromkeys(fields, eps))
    model = load(folder)
    assert all_eps(model) == {eps}
    norm, head = stored(folder, norm), stored(folder, head)
    given, expected = last_logits(model, norm, head, eps)
    assert agree(given, expected)
    assert not agree(given, last_logits(model, norm, head, 1e-5)[1])


@pytest.mark.parametrize("name", FIXED)
def test_the_eps_of_formats_that_have_one_alone(name):
    assert all_eps(load(VECTORS / name)) == {1e-5}


def test_every_vector_is_held_to_an_eps():
    assert sorted([*FIXED, *(name for name, *_ in EPS)]) == sorted(p.parent.name for p in VECTORS.glob("*/config.json"))


def test_another_eps_where_one_alone_can_be_run_is_refused(tmp_path):
    folder = copied("mamba2-in-llama", tmp_path, rms_norm_eps=1e-2, mamba__rms_norm_eps=1e-2)
    with pytest.raises(InputError, match=r"rms_norm_eps = 0\.01"):
        load(folder)
    folder = copied("llamba", tmp_path, norm_epsilon=1e-2)
    with pytest.raises(InputError, match=r"norm_epsilon = 0\.01"):
        load(folder)


def test_shards_of_the_untied_llama_are_the_head_that_counts(tmp_path):
    """Its head doubled in its shard doubles every logit."""
    folder, model = copied("hf-llama", tmp_path), load(VECTORS / "hf-llama")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    path = folder / index["lm_head.weight"]
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": 2 * tensors["lm_head.weight"]}, path)
    assert torch.equal(load(folder)(TOKENS), 2 * model(TOKENS))
