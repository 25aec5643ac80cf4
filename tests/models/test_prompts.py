"""Prompt styles: their texts, what each does with a template, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from harness.grading.compare import compare
from harness.grading.extract import extract_answer
from harness.grading.policy import Policy
from harness.models.prompts import find_style, styles
from harness.models.template import TEMPLATE_DATE
from harness.models.text import Codec
from harness.records import InputError, Problem, Task
from harness.tasks.definition import packaged_names, packaged_path, read_definition

PROBLEM = Problem("p", "What is {1} + 1?", "2")
TASK = Task("t", (PROBLEM,), "Q: {prompt}\n", "math", "0")
LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[go]"
# sha256 of each style's texts: a change of these is a change of what a manifest's style name means.
SHA256 = {
    "auto": "dabd8459", "plain": "a4cb9864", "chat": "a8bf8184", "llama3": "63f46560", "boxed": "11ddaa35",
    "steps": "baf3ef21", "minerva": "cee48232", "gsm8k": "00924862",
}  # fmt: skip


def codec(template=None, special=()):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", *special])
    return Codec(tokenizer, 300, (256,), None if template else 256, template, where="tokenizer.json")


def text(style, codec):
    """The prompt as text, special tokens included."""
    return codec.tokenizer.decode(find_style(style).tokens(codec, TASK, PROBLEM), skip_special_tokens=False)


def test_texts_are_held():
    assert {name: style.facts()["sha256"][:8] for name, style in styles().items()} == SHA256


@pytest.mark.parametrize(
    ("style", "without", "with_template"),
    [
        ("auto", "<s>Q: What is {1} + 1?\n", "[user]Q: What is {1} + 1?\n[go]"),
        ("plain", "<s>Q: What is {1} + 1?\n", "Q: What is {1} + 1?\n"),
        ("chat", None, "[user]Q: What is {1} + 1?\n[go]"),
        (
            "boxed",
            "<s>What is {1} + 1?\nLet's think step by step and output the final answer within \\boxed{}.",
            "[user]What is {1} + 1?\nLet's think step by step and output the final answer within \\boxed{}.[go]",
        ),
    ],
)
def test_short_styles_letter_by_letter(style, without, with_template):
    assert text(style, codec(TEMPLATE)) == with_template
    if without is not None:
        assert text(style, codec()) == without
    else:
        with pytest.raises(InputError, match="no chat template"):
            text(style, codec())


def test_the_steps_style_is_a_system_turn_and_the_bare_problem():
    whole = text("steps", codec(TEMPLATE))
    system, user = re.fullmatch(r"\[system\](.*)\[user\](.*)\[go\]", whole, re.DOTALL).groups()
    assert user == PROBLEM.prompt
    assert system.startswith("Solve the following math problem efficiently and clearly:\n\n- For simple")
    assert "\n\n## Step 1: [Concise description]\n[Brief" in system and "$\\boxed{answer}$. I hope it is corr" in system
    with pytest.raises(InputError, match="no chat template"):
        text("steps", codec())


def test_the_llama3_style_is_one_chat_with_its_special_tokens():
    made = codec(special=LLAMA3)
    assert text("llama3", made) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ: What is {1} + 1?"
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert TEMPLATE_DATE == "2024-07-26"
    assert sum(made.tokenizer.id_to_token(i) in LLAMA3 for i in find_style("llama3").tokens(made, TASK, PROBLEM)) == 9
    with pytest.raises(InputError, match=r"--prompt-style llama3: .*no special token <\|eot_id\|>"):
        text("llama3", codec(special=LLAMA3[:3]))


@pytest.mark.parametrize(
    ("style", "shots", "begin", "end", "answers"),
    [
        ("minerva", 4, "Problem:\n", "\n\nSolution:", ["[2,5)", "24", "16", "-\\frac{2}{3}"]),
        ("gsm8k", 5, "Question: ", "\nAnswer:", ["72", "10", "5", "42", "624"]),
    ],
)
def test_shots_are_worked_problems_that_the_grader_reads(style, shots, begin, end, answers):
    for made in (codec(), codec(TEMPLATE)):
        whole = text(style, made).removeprefix("<s>")
        parts = whole.split("\n\n" + begin)
        assert len(parts) == shots + 1 and whole.startswith(begin) and parts[-1] == PROBLEM.prompt + end
        for part, answer in zip(parts[:-1], answers, strict=True):
            found = extract_answer(part)
            assert found is not None and compare(answer, found, Policy()).status == "correct", part


def test_the_tasks_own_suffix_is_the_boxed_styles():
    suffixed = [read_definition(packaged_path(name)).prompt_template for name in packaged_names()]
    assert suffixed.count(styles()["boxed"].user) == len(suffixed) - 1  # all but the built-in problems


def test_an_unknown_style_is_answered_with_the_nearest_name():
    with pytest.raises(InputError) as caught:
        find_style("minervra")
    assert str(caught.value) == "--prompt-style 'minervra': no such style; did you mean 'minerva'?"
    with pytest.raises(InputError, match="known: auto, boxed, chat"):
        find_style("qqqqq")


@pytest.mark.parametrize("name", list(styles()))
def test_a_missing_template_is_known_before_the_model_is_loaded(name):
    style = styles()[name]
    style.check("tiny", has_template=True)
    if name in ("chat", "steps"):
        with pytest.raises(InputError, match=f"^--prompt-style {name}: tiny has no chat template; put "):
            style.check("tiny", has_template=False)
    else:
        style.check("tiny", has_template=False)


def test_advice_on_stop_strings():
    assert find_style("boxed").advice(()) is None
    assert 'put stop: ["Problem:"] into the budget' in find_style("minerva").advice(("Question:",))
    assert find_style("minerva").advice(("x", "\n\nProblem:")) is None
    assert 'stop: ["Question:"]' in find_style("gsm8k").advice(())


def test_every_style_is_described():
    page = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text(encoding="utf-8")
    for name in styles():
        assert f"| `{name}` |" in page
