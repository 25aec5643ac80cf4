"""The built-in task: true arithmetic, one box, hard to guess, disjoint splits, a tokenizer that loses nothing."""

from __future__ import annotations

import collections
import json
import math
import re
from fractions import Fraction

import pytest

from harness.tasks.builtin import FAMILIES, generate
from harness.tasks.builtin import splits as splits_module
from harness.tasks.builtin.splits import TEST_PATH, draw_test, guess_coverage, normalised, rows, train_item
from harness.tasks.builtin.tokenizer import COMMANDS, SIZE, load_tokenizer, train_tokenizer

ITEMS = [generate(77, i) for i in range(5000)]


class Sum:
    """A value of ``1+2\\cdot(3-4)^2/5``, exactly; a few lines instead of eval."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"\\frac\{(-?\d+)\}\{(-?\d+)\}", r"((\1)/(\2))", text)
        text = re.sub(r"\\binom\{(\d+)\}\{(\d+)\}", lambda m: str(math.comb(int(m[1]), int(m[2]))), text)
        self.rest = re.findall(r"\d+|\S", text.replace("\\cdot", "*").replace("{", "(").replace("}", ")"))
        self.value = self.sum()
        assert not self.rest, text

    def take(self, *wanted: str) -> str | None:
        return self.rest.pop(0) if self.rest and self.rest[0] in wanted else None

    def sum(self) -> Fraction:
        value = -self.product() if self.take("-") else self.product()
        while op := self.take("+", "-"):
            value += self.product() if op == "+" else -self.product()
        return value

    def product(self) -> Fraction:
        value = self.power()
        while True:
            if op := self.take("*", "/"):
                value = value * self.power() if op == "*" else value / self.power()
            elif self.rest and self.rest[0] == "(":
                value *= self.power()
            else:
                return value

    def power(self) -> Fraction:
        base = self.atom()
        return base ** int(self.atom()) if self.take("^") else base

    def atom(self) -> Fraction:
        if self.take("("):
            value = self.sum()
            assert self.take(")")
            return value
        return Fraction(int(self.rest.pop(0)))


_PLAIN = re.compile(r"(?:\d|[-+=()/^{}]|\\cdot|\\frac|\\binom)+")


def statements(line: str) -> list[bool]:
    """The truth of every statement between numbers in a line."""
    found = []
    long = re.match(r"(\S+): .* so (\d+)(?: r (\d+))?$", line)
    if long:
        head, value, rest = long.groups()
        if rest:
            a, b = map(int, head.split("/"))
            found.append(a == b * int(value) + int(rest) and int(rest) < b)
        else:
            found.append(Sum(head).value == int(value))
    for word in line.split():
        word = word.rstrip(",.:")
        if "=" in word and _PLAIN.fullmatch(word):
            sides = [Sum(side).value for side in word.split("=")]
            found.append(all(side == sides[0] for side in sides))
    return found


def box(solution: str) -> str:
    assert solution.count("\\boxed") == 1
    start = solution.index("\\boxed{") + len("\\boxed{")
    depth = 1
    for i, char in enumerate(solution[start:]):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            assert start + i == len(solution) - 1, "text after the box"
            return solution[start : start + i]
    raise AssertionError("the box is open")


def test_every_statement_is_true() -> None:
    checked = 0
    for item in ITEMS:
        for line in item.solution.split("\n"):
            truths = statements(line)
            assert all(truths), (item.family, item.level, line)
            checked += len(truths)
    assert checked > 100_000


def test_box_holds_the_answer() -> None:
    for item in ITEMS:
        content = box(item.solution)
        if item.family == "choice":
            letter, value = re.fullmatch(r"\\text\{\(([A-E])\) \} (.*)", content).groups()
            options = dict(re.findall(r"\(([A-E])\) \$([^$]*)\$", item.prompt.split("\n")[-1]))
            assert options[letter] == value and len(set(options.values())) == 5
            content = value
        assert content == item.answer
        assert item.prompt == item.prompt.strip() and item.solution == item.solution.strip()


def test_generation_is_a_function_of_its_arguments() -> None:
    assert [generate(77, i) for i in range(50)] == ITEMS[:50]
    assert generate(77, 3) != generate(78, 3)
    item = generate(5, 1, family="geometry", level=4)
    assert (item.family, item.level) == ("geometry", 4)
    assert len(FAMILIES) >= 8
    seen = collections.Counter((item.family, item.level) for item in ITEMS)
    assert len(seen) == 5 * len(FAMILIES) and min(seen.values()) > 60


def test_items_differ() -> None:
    assert len({item.prompt for item in ITEMS}) > 0.98 * len(ITEMS)
    assert len({item.solution for item in ITEMS}) > 0.99 * len(ITEMS)


def test_answers_cannot_be_guessed() -> None:
    assert guess_coverage([item.answer for item in ITEMS]) <= 0.05
    assert guess_coverage([item.answer for item in draw_test()]) <= 0.05


def test_lengths() -> None:
    tokenizer = load_tokenizer()
    items = ITEMS[:1500]
    solutions = [len(e.ids) for e in tokenizer.encode_batch([item.solution for item in items])]
    prompts = [len(e.ids) for e in tokenizer.encode_batch([item.prompt for item in items])]
    assert 450 <= sum(solutions) / len(solutions) <= 550
    assert max(solutions) <= 1000 and min(solutions) > 200
    assert max(prompts) < 160


def test_test_set_is_frozen_and_balanced() -> None:
    items = draw_test()
    assert TEST_PATH.read_text(encoding="utf-8") == rows(items), "run python -m harness.tasks.builtin.splits"
    assert len({normalised(item.prompt) for item in items}) == len(items) == 250
    cells = collections.Counter((item.family, item.level) for item in items)
    assert set(cells.values()) == {5, 6} and len(cells) == 45
    first = json.loads(rows(items[:1]))
    assert first["id"] == "builtin-0001" and set(first) == {"id", "prompt", "answer", "subject", "level"}


def test_training_rejects_test_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {normalised(item.prompt) for item in draw_test()}
    assert not held & {normalised(train_item(i).prompt) for i in range(500)}
    plain = train_item(0)
    monkeypatch.setattr(splits_module, "held_out", lambda: frozenset({normalised(plain.prompt)}))
    other = train_item(0)
    assert other.prompt != plain.prompt and train_item(0) == other


def test_tokenizer_round_trip() -> None:
    tokenizer = load_tokenizer()
    assert tokenizer.get_vocab_size() == SIZE
    assert [tokenizer.token_to_id(t) for t in ("<|pad|>", "<|bos|>", "<|eos|>")] == [0, 1, 2]
    odd = ["", " ", "  a\n\n b\t", "naïve ∑ 数学 🙂", "\\frac\\fracx \\lefty\\le", "00  12", "\x00\r\n", "<|eos"]
    for text in odd + [t for item in ITEMS[:300] for t in (item.prompt, item.solution)]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("3407").tokens == list("3407")
    for command in COMMANDS:
        assert tokenizer.encode(command).tokens == [command]


def test_tokenizer_training_is_deterministic() -> None:
    texts = [item.prompt + "\n" + item.solution for item in ITEMS[:700]]
    assert train_tokenizer(texts).to_str() == train_tokenizer(texts).to_str()
