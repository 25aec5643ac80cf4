"""A chat template, rendered in a process of its own (``template_worker.py``) whose memory and time are bounded.

The environment is the one transformers renders with, so the text is the same; the date it can ask for is one fixed day.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.models import template_worker
from harness.records import InputError

TEMPLATE_DATE = "2024-07-26"
"""What ``strftime_now`` gives a template: the day that Llama 3's takes where it knows of none. Runs stay comparable."""

Message = Mapping[str, str]


class ChatTemplate:
    """A template that compiles; ``where`` names its model in errors, which are one line."""

    def __init__(self, source: str, where: str) -> None:
        self.where = where
        self.sha256 = template_sha256(source)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(template_worker.__file__))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
        )  # fmt: skip
        weakref.finalize(self, _end, self._process)
        self._ask({"template": source, "date": TEMPLATE_DATE})

    def render(self, messages: Sequence[Message], add_generation_prompt: bool, **special: str) -> str:
        """The chat as text; ``special`` are the texts of ``bos_token``, ``eos_token`` and such."""
        request = {"messages": messages, "add_generation_prompt": add_generation_prompt, "special": special}
        return self._ask(request)["text"]

    def _ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line.endswith("\n") else {"error": self._last_words()}
        if "error" in answer:
            raise InputError(f"{self.where}: chat template: {answer['error']}; mend the model's template")
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return f"runs for more than {template_worker.CPU_LIMIT_S} s"
        return f"its process ended with code {code}"


def template_sha256(source: str) -> str:
    return hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        # What was left unwritten for a process that is gone is of no use.
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
