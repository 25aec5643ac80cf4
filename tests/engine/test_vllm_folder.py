"""What vLLM is given to read: our models in Hugging Face's layouts and back, tensor for tensor; the rest is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from harness.bench.grid import Grid
from harness.engine.engines import check_engine
from harness.engine.vllm_folder import check_layout, folder_for, load_for_vllm, write
from harness.models.checkpoints import formats
from harness.models.config import DecoderConfig, MambaConfig, RopeScaling
from harness.models.decoder import Decoder
from harness.models.resolve import LoadedModel, load_model
from harness.models.shapes import SHAPES
from harness.records import InputError

CPU = torch.device("cpu")
LLAMA = SHAPES["tiny-teacher"]
MAMBA2 = DecoderConfig(
    vocab_size=64, width=32, layers=("mamba2",) * 2, mlp=0, context=512, eos=(2,),
    mamba=MambaConfig(heads=4, head_dim=16, state=8, groups=2, gated_norm=True, norm_groups=2),
)  # fmt: skip


def drawn(config: DecoderConfig) -> LoadedModel:
    torch.manual_seed(0)
    decoder = Decoder(config).requires_grad_(False).eval()
    for parameter in decoder.parameters():
        parameter.normal_()
    return LoadedModel("drawn", decoder, None, "")  # type: ignore[arg-type]


def scaled() -> DecoderConfig:
    assert LLAMA.attention is not None
    attention = dataclasses.replace(LLAMA.attention, kv_heads=2, rope_theta=5e5, rope_scaling=RopeScaling(32.0))
    return dataclasses.replace(LLAMA, attention=attention, tied=False, layers=("attention",) * 2, eos=(2, 3))


@pytest.mark.parametrize("config", [LLAMA, scaled(), MAMBA2, dataclasses.replace(MAMBA2, tied=False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_read_as_the_same_model(config: DecoderConfig, dtype: torch.dtype, tmp_path: Path) -> None:
    model = drawn(config)
    model.decoder.to(dtype)
    check_layout("drawn", config)
    write(model, tmp_path)
    chosen = formats.recognise(tmp_path)
    assert chosen is not None
    back = formats.load(tmp_path, chosen, dtype, CPU)
    assert dataclasses.replace(back.config, context=0) == dataclasses.replace(
        config, context=0, mamba=config.mamba if "mamba2" in config.layers else None
    )
    expected = dict(model.decoder.named_parameters())
    for name, parameter in back.named_parameters():
        assert torch.equal(parameter, expected.pop(name)), name
    assert not expected
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["dtype"] == str(dtype).removeprefix("torch.")
    # transformers' Mamba2Config refuses 2.0.
    assert type(written.get("expand", 2)) is int


def test_a_folder_that_vllm_reads_is_given_as_it_is_and_ours_written_for_a_while() -> None:
    with folder_for("tiny-teacher", load_model("tiny-teacher", torch.float32, CPU)) as made:
        assert sorted(p.name for p in made.iterdir()) == ["config.json", "model.safetensors"]
    assert not made.exists()
    own = Path(__file__).parents[1] / "models" / "checkpoints" / "vectors" / "hf-llama"
    with folder_for(str(own), drawn(LLAMA)) as given:
        assert given == own
    assert own.is_dir()


def test_random_shapes_are_a_config_alone(tmp_path: Path) -> None:
    model = load_for_vllm("random:llama-3.2-3b", torch.bfloat16, 1)
    assert model.random and model.decoder.device.type == "meta" and model.sha256
    write(model, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny-hybrid", "tiny-hybrid has attention, discrete_mamba2 layers; it runs Llama and Mamba2"),
        ("random:llamba-1b", "random:llamba-1b has discrete_mamba2 layers"),
        ("random:mamba-in-llama-1b", "has attention, mamba1 layers"),
    ],
)
def test_what_vllm_has_no_counterpart_of_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_for_vllm(name, torch.float32, 0)
    assert "\n" not in str(caught.value)


def test_a_near_miss_is_refused_by_its_field() -> None:
    """Mamba2 without a gated norm of one mean a group is another model, though its layers have the name."""
    assert MAMBA2.mamba is not None
    for change in ({"gated_norm": False}, {"norm_groups": 1}, {"kv_heads": 2}):
        config = dataclasses.replace(MAMBA2, mamba=dataclasses.replace(MAMBA2.mamba, **change))  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"drawn is no hf-mamba2: its mamba = "):
            check_layout("drawn", config)


def test_an_engine_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"vLLM is not installed; pip install 'reasoning-harness\[vllm\]'"):
        check_engine("vllm", CPU, torch.float32, torch.float32)


def test_vllm_is_a_rival_of_throughput_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = (("tiny-teacher",), (1,), (1,), 1, 1, True, None, False, None, CPU, torch.float32)
    with pytest.raises(InputError, match="--engine vllm: is a rival here; use --against vllm"):
        Grid(*given, engine="vllm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"reasoning-harness\[vllm\]"):
        Grid(*given, against="vllm")
