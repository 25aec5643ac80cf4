"""Ours against vectors that the original code wrote: logits of a full forward and of forced decode steps.

A vector is a folder with a small checkpoint in its format, ``logits.safetensors`` (tokens; forward [time, vocab]; steps
[64, vocab]: logits behind each of the last 64 tokens, decoded one by one) and ``vector.json`` that says whose they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness.models.checkpoints import formats, gguf
from harness.models.checkpoints.fields import Fields
from harness.models.decoder import Decoder
from harness.models.state import StatePlan
from harness.records import InputError

LARGEST_ERROR = 1e-4
BEGIN, END = "<!-- vectors: begin -->", "<!-- vectors: end -->"
_CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One vector; ``error`` is the larger of both ways' max|a - b| / max|b|, fp32 on the CPU."""

    format: str
    model: str
    oracle: str
    error: float
    folder: Path

    def cells(self) -> list[str]:
        command = f"`harness models check {self.folder.as_posix()}`"
        return [self.format, self.model, self.oracle, f"{self.error:.1e}", command]


def check_vectors(folder: Path, docs: Path | None, console: Console) -> list[str]:
    """Print the table of all vectors in or under ``folder``, and put it into ``docs``; the names that fail."""
    folders = sorted(path.parent for path in folder.rglob("vector.json"))
    if not folders:
        raise InputError(f"{folder}: no vector.json in it; give a folder like tests/models/checkpoints/vectors")
    found = [check(path) for path in folders]
    text = table(found)
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    if docs is not None:
        docs.write_text(replaced(docs.read_text(encoding="utf-8"), text, docs), encoding="utf-8")
    return [f"{row.folder}: {row.error:.1e}, more than {LARGEST_ERROR:.0e}" for row in found if _fails(row)]


def check(folder: Path) -> Row:
    about = Fields.read(folder / "vector.json")
    try:
        expected = load_file(folder / "logits.safetensors")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / 'logits.safetensors'}: cannot be read ({error}); make it anew") from error
    forward, steps = logits(load(folder), expected["tokens"], len(expected["steps"]))
    largest = max(relative_error(forward, expected["forward"]), relative_error(steps, expected["steps"]))
    form, model, oracle = (about.get(name, str) for name in ("format", "model", "oracle"))
    return Row(form, model, oracle, largest, folder)


def load(folder: Path) -> Decoder:
    files = sorted(folder.glob("*.gguf"))
    if files:
        return gguf.load(files[0], torch.float32, _CPU)[0]
    chosen = formats.recognise(folder)
    if chosen is None:
        raise InputError(f"{folder}: in our own layout; vectors are in another's")
    return formats.load(folder, chosen, torch.float32, _CPU)


@torch.inference_mode()
def logits(model: Decoder, tokens: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[time, vocab] of a full forward, and [count, vocab] of the last ``count`` tokens stepped behind a prefill."""
    prompt = tokens[:-count].tolist()
    state = model.new_state(StatePlan(1, count, (len(prompt),)))
    model.prefill([prompt], state, [0])
    state.fork([0], [0])
    stepped = []
    for done in range(count):
        generated = torch.tensor([done])
        state.plan_window(1, generated.numpy(), 1)
        index = state.step_index(generated, torch.tensor([True]))
        stepped.append(model.step(tokens[len(prompt) + done :][:1], state, index)[0])
    return model(tokens[None])[0], torch.stack(stepped)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """max|a - b| / max|b|."""
    return float((found - expected).abs().max() / expected.abs().max())


def table(rows: Sequence[Row]) -> str:
    head = ["format", "model", "oracle", "largest error", "command"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replaced(page: str, text: str, path: Path) -> str:
    """``page`` with ``text`` between its two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{path}: has no {BEGIN} and {END}; the table goes between them")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def _fails(row: Row) -> bool:
    return not row.error <= LARGEST_ERROR
