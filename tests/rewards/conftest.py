"""Small reward models written as their publishers write them: a Llama with a chat template, and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.models.checkpoints.fields import Fields
from harness.models.checkpoints.hf_llama import llama_config

# The words around a turn, the system text and the trimmed contents are those of Llama 3.1's template.
TEMPLATE = """{{- bos_token }}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n" }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# Llama 3's pattern: "\n\n" and "+" are pieces of their own behind a header.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
PATTERN = WORDS + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = ["user\n\nassistant\n\nsystem\n\nThe sum is 2 + 3 = 5.\n\nSo the answer is \\boxed{5}. - x-y"] * 8
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 32,
    "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
    "max_position_embeddings": 400, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return tokenizer


def make_folder(folder: Path, template: str | None = TEMPLATE, labels: int = 0, **changes: object) -> Path:
    """A folder as transformers reads it; ``labels`` above 0 makes a classifier of it."""
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer()
    ids = {text: tokenizer.token_to_id(text) for text in SPECIAL}
    config = CONFIG | {
        "vocab_size": tokenizer.get_vocab_size(), "bos_token_id": ids[SPECIAL[0]], "eos_token_id": ids[SPECIAL[3]],
    } | changes  # fmt: skip
    named = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[3], "tokenizer_class": "PreTrainedTokenizerFast"}
    if template is not None:
        named["chat_template"] = template
    tensors = _tensors(folder, config)
    if labels:
        config |= {"architectures": ["LlamaForSequenceClassification"], "num_labels": labels}
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
        del tensors["lm_head.weight"]
        tensors["score.weight"] = torch.randn(labels, int(config["hidden_size"])) * 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _tensors(folder: Path, config: dict[str, object]) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    c = llama_config(folder, Fields(config, "config"))
    assert c.attention is not None
    q, kv = c.attention.heads * c.attention.head_dim, c.attention.kv_heads * c.attention.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab_size, c.width),
        "model.norm.weight": (c.width,),
        "lm_head.weight": (c.vocab_size, c.width),
    }
    for i in range(len(c.layers)):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (q, c.width),
            f"{layer}.self_attn.k_proj.weight": (kv, c.width),
            f"{layer}.self_attn.v_proj.weight": (kv, c.width),
            f"{layer}.self_attn.o_proj.weight": (c.width, q),
            f"{layer}.mlp.gate_proj.weight": (c.mlp, c.width),
            f"{layer}.mlp.up_proj.weight": (c.mlp, c.width),
            f"{layer}.mlp.down_proj.weight": (c.width, c.mlp),
            f"{layer}.input_layernorm.weight": (c.width,),
            f"{layer}.post_attention_layernorm.weight": (c.width,),
        }
    # Large enough that a step's score moves with its text.
    return {n: torch.randn(s) * (0.25 if len(s) > 1 else 0.1) + (len(s) == 1) for n, s in shapes.items()}


@pytest.fixture(scope="session")
def folder_of() -> Callable[..., Path]:
    return make_folder


@pytest.fixture(scope="session")
def prm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("prm") / "tiny-prm")
