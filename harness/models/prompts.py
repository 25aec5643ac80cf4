"""Prompt styles: what turns a task's problem into a model's tokens. Their exact texts lie in ``prompt_styles.yaml``.

A style names the turns of the user and of the system, and whether they go through the model's chat template. What
decides the text beside it (task, chat template, the template's date) is in the manifest too.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from harness.models.template import TEMPLATE_DATE
from harness.models.text import Codec, turn
from harness.records import InputError, Problem, Task, build, nearest
from harness.tasks.loader import render

PATH = Path(__file__).parent / "prompt_styles.yaml"
DEFAULT_STYLE = "auto"
_SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")


@dataclasses.dataclass(frozen=True, slots=True)
class PromptStyle:
    """One entry of ``prompt_styles.yaml``, whose head says what the fields mean."""

    name: str
    source: str
    template: Literal["if any", "own", "none"]
    system: str | None = None
    user: str | None = None
    frame: str | None = None
    shots_begin: str | None = None

    def user_turn(self, task: Task, problem: Problem) -> str:
        return render(task, problem) if self.user is None else self.user.replace("{prompt}", problem.prompt)

    def tokens(self, codec: Codec, task: Task, problem: Problem) -> list[int]:
        """The prompt's tokens; an InputError where the model's tokenizer or template cannot give them."""
        text = self.user_turn(task, problem)
        if self.frame is not None:
            self._check_frame(codec)
            return codec.encode_exactly(self.frame.replace("{user}", text.strip()))
        if self.template == "none" or (self.template == "if any" and codec.template is None):
            return codec.encode_plain(text)
        system = [] if self.system is None else [turn("system", self.system)]
        return codec.encode_chat([*system, turn("user", text)])

    def check(self, model: str, has_template: bool) -> None:
        """InputError where the style needs a chat template and the model has none: known before it is loaded."""
        if self.template == "own" and not has_template:
            raise InputError(
                f"--prompt-style {self.name}: {model} has no chat template; put its teacher's chat_template.jinja into"
                " its folder, or take auto or plain"
            )

    def advice(self, stop: Sequence[str]) -> str | None:
        """A line on what a budget's stop strings lack for this style, if anything."""
        if self.shots_begin is None or any(s.strip() == self.shots_begin for s in stop):
            return None
        return (
            f"--prompt-style {self.name}: a base model goes on with shots of its own, and the last answer counts;"
            f' put stop: ["{self.shots_begin}"] into the budget'
        )

    def facts(self) -> dict[str, Any]:
        """What a manifest says of the prompts beside task and models: ``sha256`` is over the style's texts."""
        texts = json.dumps([self.template, self.system, self.user, self.frame])
        return {
            "style": self.name,
            "sha256": hashlib.sha256(texts.encode()).hexdigest(),
            "template_date": TEMPLATE_DATE,
        }

    def _check_frame(self, codec: Codec) -> None:
        added = {token.content for token in codec.tokenizer.get_added_tokens_decoder().values() if token.special}
        for token in _SPECIAL_TOKEN.findall(self.frame or ""):
            if token not in added:
                raise InputError(
                    f"--prompt-style {self.name}: the model's tokenizer has no special token {token}; take another"
                )


@functools.cache
def styles() -> Mapping[str, PromptStyle]:
    """The styles by name, in the file's order."""
    entries = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return {name: build(PromptStyle, {"name": name, **entry}, PATH.name) for name, entry in entries.items()}


def find_style(name: str) -> PromptStyle:
    if name not in styles():
        raise InputError(f"--prompt-style {name!r}: no such style; {nearest(name, styles())}")
    return styles()[name]
