"""``harness models``: what inspect says of a checkpoint is counted by hand; wrong vectors are told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from harness.bench.models import Device, inspect_model, layers_text, parameters, slot_state_bytes
from harness.bench.roofline import Workload
from harness.models.resolve import describe
from harness.models.shapes import SHAPES

VECTORS = Path(__file__).parents[1] / "models" / "checkpoints" / "vectors"


def test_bytes_of_states_keys_and_values():
    # 28 layers x (32 heads x 96 x 64 in fp32, 3 tokens of 3072 + 2 x 2048 convolution channels in bf16).
    assert slot_state_bytes(SHAPES["llamba-3b"], 2) == (28 * (32 * 96 * 64 * 4 + 3 * (3072 + 2 * 2048) * 2), 0)
    # 16 layers x 8 heads x 64 x keys and values.
    assert slot_state_bytes(SHAPES["llama-3.2-1b"], 2) == (0, 16 * 2 * 8 * 64 * 2)
    # 22 layers x (3072 x 16 in fp32, a ring of 4 tokens of 1024 in bf16), 6 layers of attention.
    assert slot_state_bytes(SHAPES["mamba-in-llama-3b"], 2) == (
        22 * (3072 * 16 * 4 + 4 * 1024 * 2),
        6 * 2 * 8 * 128 * 2,
    )


def test_layers_of_a_hybrid_are_numbered():
    assert layers_text(SHAPES["llamba-1b"]) == "16: 16 discrete_mamba2"
    assert layers_text(SHAPES["mamba-in-llama-1b"]) == "16: 12 mamba1, 4 attention (3, 7, 11, 15)"


@pytest.mark.parametrize("name", ["m1", "hf-llama", "mamba-ssm-2"])
def test_inspect_counts_what_the_file_holds(name, capsys):
    form, config = describe(str(VECTORS / name))
    stored = sum(load_file(p)[n].numel() for p in (VECTORS / name).glob("model*.safetensors") for n in load_file(p))
    assert stored in (0, parameters(config))
    inspect_model(str(VECTORS / name), None, Workload(1, 128, 64), Device(), Console(width=120))
    said = capsys.readouterr().out
    assert form in said and f"{parameters(config):,}" in said


@pytest.mark.parametrize("student", ["llamba-1b", "mamba-in-llama-1b", "mamba2-1.3b"])
def test_crossover_with_a_teacher(capsys, student):
    work = Workload(64, 128, 2048)
    inspect_model(f"random:{student}", "random:llama-3.2-1b", work, Device(), Console(width=160))
    assert "new tokens (batch 64, prompt 128)" in capsys.readouterr().out


def test_commands_end_with_their_codes(harness, tmp_path):
    assert harness("models", "list")[0] == 0
    assert harness("models", "inspect", VECTORS / "llamba")[0] == 0
    assert harness("models", "check", VECTORS / "llamba")[0] == 0
    assert harness("models", "inspect", tmp_path)[0] == 2
    assert harness("models", "check", tmp_path)[0] == 2
    code, _, err = harness("models", "convert", VECTORS / "llamba", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "out").exists()
    shutil.copytree(VECTORS / "llamba", tmp_path / "v")
    wrong = load_file(tmp_path / "v" / "logits.safetensors")
    wrong["steps"][-1, 0] += 1
    save_file(wrong, tmp_path / "v" / "logits.safetensors")
    code, _, err = harness("models", "check", tmp_path / "v")
    assert code == 1 and "more than 1e-04" in err
