"""Models for the teacher-forced gate: embedded ones as they are, exact shapes with weights that keep a state alive.

Random shapes get decays like a trained model's (mamba_ssm's initialisation; Llamba's form with a bias, which the
checkpoints lack): with plain random ones a state forgets at once, and an error in it too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from harness.models.checkpoints.tokenizer import load_codec
from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.models.resolve import TRIO, LoadedModel, describe, load_model
from harness.tasks.builtin.tokenizer import PATH as TOKENIZER

SEED = 7


def build(name: str, device: torch.device, small: bool) -> LoadedModel:
    """In bf16; embedded models as they are unless ``small``."""
    if name in TRIO and not small:
        return load_model(name, torch.bfloat16, device)
    config = describe(name)[1]
    if config.mamba is not None and "discrete_mamba2" in config.layers:
        config = dataclasses.replace(config, mamba=dataclasses.replace(config.mamba, dt_bias=True))
    if small:
        config = shrunk(config)
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder = decoder.to(torch.bfloat16).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(SEED)
    for parameter_name, parameter in decoder.named_parameters():
        initialise(parameter_name.rsplit(".", 1)[-1], parameter.data, 0.3 if small else 0.02, generator)
    decoder.requires_grad_(False).eval()
    return LoadedModel(name, decoder, load_codec(TOKENIZER, config), "0" * 64, random=True)


def initialise(name: str, data: torch.Tensor, std: float, generator: torch.Generator) -> None:
    """Steps of 0.001 to 0.1 and -A of 1 to 16, as mamba_ssm's; products normal, norms and skips 1."""
    uniform = torch.rand(data.shape, generator=generator, device=data.device)
    if name == "dt_bias":
        data.copy_((1e-3 * 100**uniform).expm1().log())
    elif name == "A_log":
        data.copy_((1 + 15 * uniform).log())
    elif name == "conv_weight":
        data.copy_(uniform - 0.5)
    elif name in ("conv_bias", "z_bias"):
        data.zero_()
    elif data.ndim > 1:
        data.normal_(0, std, generator=generator)
    else:
        data.fill_(1.0)


def shrunk(config: DecoderConfig) -> DecoderConfig:
    """One layer of each kind, of a few heads."""
    given: dict[str, Any] = {"layers": tuple(dict.fromkeys(config.layers)), "mlp": 24 if config.mlp else 0}
    if config.attention is not None:
        given["attention"] = dataclasses.replace(config.attention, heads=2, kv_heads=1, head_dim=16)
    if config.mamba is not None:
        given["mamba"] = dataclasses.replace(config.mamba, heads=2, head_dim=16, state=16, groups=1, chunk=16)
    if config.mamba1 is not None:
        given["mamba1"] = dataclasses.replace(config.mamba1, inner=32, xb=config.mamba1.xb and 16, dt_rank=4)
    return dataclasses.replace(config, vocab_size=512, width=32, context=256, eos=(2,), bos=1, **given)
