"""Text and tokens: bytes of tokens add up to the text, chat templates run or say what is wrong with them."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from harness.models.config import DecoderConfig, MambaConfig
from harness.models.resolve import load_codec
from harness.models.text import Codec, bos_of, byte_of_character, turn
from harness.records import InputError

SPECIAL = ["<|start|>", "<|bos|>", "<|end|>"]
TEXTS = [
    "",
    "plain words, and 12345 digits",
    "  blanks \t\n\n and\r\nlines   ",
    r"$\frac{1}{2}\sqrt{x^2+1} \le \infty$",
    "ÄÖÜß é ñ œ — “quotes” …",
    "数学は楽しい。Ελληνικά, русский, עברית, हिन्दी",
    "🙂👩‍👩‍👧‍👦🇩🇪 ∑∫√≈",
    "\x00\x01\x7f\u00a0\u2028\ufeff",
]


def byte_level(pre_tokenizer=None, size=400):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*TEXTS, "the words of a plain text and digits 1234567890"] * 3, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


DIGITS_FIRST = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


@pytest.mark.parametrize("pre_tokenizer", [None, DIGITS_FIRST], ids=["gpt2", "digits"])
def test_token_bytes_add_up_to_the_text(pre_tokenizer):
    tokenizer = byte_level(pre_tokenizer)
    tokenizer.add_tokens([AddedToken("größer", normalized=False)])
    codec = Codec(tokenizer, 512, (2,), 1)
    for text in [*TEXTS, "größer"]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(codec.token_bytes[i] for i in ids) == text.encode()
        assert codec.decode(ids) == text
        # tokenizers itself takes the "ö" of an added token for a byte.
        assert text == "größer" or tokenizer.decode(ids) == text
    everything = b"".join(codec.token_bytes)
    assert all(bytes([b]) in everything for b in range(256))


def test_a_cut_character_decodes_to_the_replacement_character(tokenizer):
    codec = Codec(tokenizer, 400, (2,))
    ids = tokenizer.encode("🙂").ids
    assert len(ids) > 1
    assert "\ufffd" in codec.decode(ids[:-1])
    assert codec.decode(ids) == "🙂"


def test_special_tokens_and_unused_ids_have_no_text(tokenizer):
    codec = Codec(tokenizer, 512, (2,), 1)
    assert len(codec.token_bytes) == 512
    assert codec.decode([0, 1, 2, 511]) == ""


def test_the_byte_table_is_gpt2s():
    table = byte_of_character()
    assert sorted(table.values()) == list(range(256))
    assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
    assert table["Ġ"] == ord(" ") and table["Ċ"] == ord("\n")


def test_a_plain_prompt_gets_bos_in_front(tokenizer):
    ids = tokenizer.encode("digits").ids
    assert Codec(tokenizer, 400, (2,), 1).encode_prompt("digits") == [1, *ids]
    assert Codec(tokenizer, 400, (2,), None).encode_prompt("digits") == ids


def test_chat_template_wraps_the_prompt(tokenizer):
    template = (
        "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>' }}{% endif %}"
    )
    codec = Codec(tokenizer, 400, (2,), 1, template)
    expected = tokenizer.encode("<|bos|>user: plain words<|end|><|start|>").ids
    assert codec.encode_prompt("plain words") == expected
    assert (expected[0], expected[-2:]) == (1, [2, 0])


def test_beside_a_template_a_plain_text_gets_what_the_tokenizer_puts_in_front(tokenizer):
    ids = tokenizer.encode("digits").ids
    assert Codec(tokenizer, 400, (2,), 1, "x").encode_plain("digits") == ids
    own = Tokenizer.from_str(tokenizer.to_str())
    own.post_processor = processors.TemplateProcessing("<|bos|> $A", None, [("<|bos|>", 1)])
    assert Codec(own, 400, (2,), 1, "x").encode_plain("digits") == [1, *ids]
    assert bos_of(own, "here") == 1 and bos_of(tokenizer, "here") is None
    own.post_processor = processors.TemplateProcessing("$A <|end|>", None, [("<|end|>", 2)])
    with pytest.raises(InputError, match=r"here: turns \[\d+\] into \[\d+, 2\]; only one token in front"):
        bos_of(own, "here")


def test_names_of_special_tokens_go_to_the_template(tokenizer):
    template = "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}"
    assert Codec(tokenizer, 400, (2,), None, template).encode_prompt("a") == tokenizer.encode("|<|end|>|").ids
    named = Codec(tokenizer, 400, (2,), 1, template, special={"unk_token": "<|start|>"})
    assert named.encode_prompt("a") == tokenizer.encode("||<|start|>").ids


def test_a_chat_without_a_template_or_without_text_is_refused(tokenizer):
    with pytest.raises(InputError, match=r"here: no chat template beside it"):
        Codec(tokenizer, 400, (2,), where="here").encode_chat([turn("user", "a")])
    with pytest.raises(InputError, match=r"here: chat template: renders to nothing"):
        Codec(tokenizer, 400, (2,), None, "{# nothing #}", "here").encode_chat([turn("user", "a")])


def test_a_template_that_does_not_parse_is_refused_when_loaded(tokenizer):
    with pytest.raises(InputError, match=r"here\.json: chat template: .*mend"):
        Codec(tokenizer, 400, (2,), 1, "{% for m in messages %}", where="here.json")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ nothing.of_this }}", "nothing"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_fails_says_why(tokenizer, template, message):
    codec = Codec(tokenizer, 400, (2,), 1, template)
    with pytest.raises(InputError, match=message) as caught:
        codec.encode_prompt("a")
    assert str(caught.value).startswith("tokenizer: chat template: ")


def test_only_byte_level_tokenizers_pass(tokenizer):
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    words.normalizer = normalizers.Lowercase()
    with pytest.raises(InputError, match="byte-level"):
        Codec(words, 10, (0,))
    odd = Tokenizer(models.BPE(vocab={"a": 0, "b c": 1}, merges=[]))
    odd.decoder = decoders.ByteLevel()
    with pytest.raises(InputError, match=r"token 1 'b c'"):
        Codec(odd, 10, (0,))


def test_sizes_and_ids_are_checked(tokenizer):
    with pytest.raises(InputError, match="400 tokens, the model's vocabulary has 399"):
        Codec(tokenizer, 399, (2,))
    with pytest.raises(InputError, match=r"\[400\] outside the vocabulary of 400"):
        Codec(tokenizer, 400, (400,))
    with pytest.raises(InputError, match=r"\[-1\] outside"):
        Codec(tokenizer, 400, (2,), -1)


def test_load_codec_names_the_file(tokenizer, tmp_path):
    mamba = MambaConfig(2, 8, 4, 1)
    small = DecoderConfig(vocab_size=300, width=8, layers=("mamba2",), mlp=0, context=64, eos=(2,), mamba=mamba)
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match=r"tokenizer\.json: missing"):
        load_codec(path, small)
    tokenizer.save(str(path))
    with pytest.raises(InputError, match=r"tokenizer\.json: 400 tokens, the model's vocabulary has 300"):
        load_codec(path, small)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_codec(path, small)
