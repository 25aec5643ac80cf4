"""Tokenizers and templates of foreign folders: special tokens by name, and those of another model."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from harness.models.checkpoints.tokenizer import chat_template, load_codec, load_hub_codec, save_special_tokens
from harness.models.config import DecoderConfig, MambaConfig
from harness.records import InputError

TEMPLATE = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}"
NAMED = {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "<turn>"}, "pad_token": None}


def config(vocab_size=260, eos=(257,), bos=256):
    mamba = MambaConfig(2, 8, 4, 1)
    return DecoderConfig(vocab_size, 8, ("mamba2",), mlp=0, context=64, eos=eos, bos=bos, mamba=mamba)


@pytest.fixture
def folder(tmp_path):
    """256 bytes, <s> 256, </s> 257, <turn> 258; <s> goes in front of a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<turn>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 256)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(folder, **files):
    for name, data in files.items():
        (folder / f"{name}.json").write_text(json.dumps(data))


def refused(folder, *parts, **changes):
    with pytest.raises(InputError) as caught:
        load_hub_codec(folder, config(**changes))
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"tokenizer_config": NAMED}, (256, 258)),
        ({"tokenizer_config": NAMED | {"bos_token": None}}, (258,)),
        ({"special_tokens_map": NAMED}, (256, 258)),
        ({"tokenizer_config": NAMED, "special_tokens_map": {"bos_token": "</s>"}}, (257, 258)),
        ({"tokenizer_config": NAMED | {"added_tokens_decoder": {}}, "special_tokens_map": {"bos_token": "</s>"}},
         (256, 258)),
        ({"tokenizer_config": {"model_max_length": 8}}, (256, 257)),  # none named: those of the config's ids
        ({}, (256, 257)),
    ],
)  # fmt: skip
def test_special_tokens_by_name(folder, files, ids):
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    write(folder, **files)
    codec = load_hub_codec(folder, config())
    prompt = codec.encode_prompt("a")
    assert tuple(i for i in prompt if i >= 256) == ids and len(prompt) == len(ids) + 1
    assert codec.encode_plain("a")[0] == 256 and codec.eos == (257,)
    # Converted to our layout, the template still knows their names.
    save_special_tokens(codec, folder)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    assert load_codec(folder / "tokenizer.json", config()).encode_prompt("a") == prompt


def test_the_tokenizers_own_bos_goes_before_a_plain_prompt(folder):
    assert load_hub_codec(folder, config(bos=None)).encode_prompt("a")[:-1] == [256]
    assert load_hub_codec(folder, config(bos=257)).encode_prompt("a")[:-1] == [256]


def test_tokenizers_of_another_vocabulary(folder):
    refused(folder, "259 tokens, the model's vocabulary has 258", "take the model's own", vocab_size=258)
    refused(folder, "259 tokens, the model's vocabulary has 288", vocab_size=288)
    assert load_hub_codec(folder, config(vocab_size=287)).vocab_size == 287
    refused(folder, "has no token 270, which is the model's eos", vocab_size=280, eos=(257, 270))
    write(folder, tokenizer_config={"eos_token": "<|eot_id|>"})
    refused(folder, "has no token '<|eot_id|>', which is eos_token")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer_config": {"eos_token": 3}}, ["eos_token = 3", "expected a token's text"]),
        ({"tokenizer_config": {"eos_token": {"id": 3}, "bos_token": ["<s>"]}}, ["bos_token = ['<s>']"]),
        ({"special_tokens_map": []}, ["special_tokens_map.json", "expected named fields"]),
        ({"tokenizer_config": {"chat_template": 3}}, ["chat_template is int; expected text"]),
        ({"tokenizer_config": {"chat_template": [{"name": "rag", "template": "x"}, {"name": "tools"}]}},
         ["no 'default' among ['rag', 'tools']"]),
        ({"tokenizer_config": {"chat_template": "{% endfor %}"}}, ["tokenizer_config.json: chat template: ", "endfor"]),
    ],
)  # fmt: skip
def test_files_that_say_something_else(folder, files, words):
    write(folder, **files)
    refused(folder, *words)


def test_the_template_file_goes_before_the_field(folder):
    write(folder, tokenizer_config={"chat_template": "field"})
    assert chat_template(folder) == "field"
    (folder / "chat_template.jinja").write_text("file")
    assert chat_template(folder) == "file"
    (folder / "chat_template.jinja").write_text("{% endfor %}")
    refused(folder, f"{folder}/chat_template.jinja: chat template: ", "endfor")
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"chat_template\.jinja: cannot be read"):
        chat_template(folder)
