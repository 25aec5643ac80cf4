"""``harness throughput --against mamba-ssm``: the same cells in mamba_ssm's own ``generate`` with CUDA graphs.

The only file that talks to mamba_ssm. Its model has random weights of the same shape (a Llamba's in the continuous
form: mamba_ssm has no other) and its cache is of the weights' dtype, states included.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from harness.bench.cell import Cell
from harness.bench.rival import Circumstances, Ran, Run, Tell, clock, product_ceilings, rival_row, time_cell
from harness.models.config import DecoderConfig
from harness.models.resolve import describe
from harness.records import InputError
from harness.report.throughput import Measurement

TEMPERATURE = 0.8
PAD_VOCABULARY = 16  # as its published Mamba-2 models have it
_NEEDS = {
    "mamba_ssm": "mamba-ssm", "causal_conv1d": "causal-conv1d", "causal_conv1d_cuda": "causal-conv1d, compiled",
    "einops": "einops", "transformers": "transformers",
}  # fmt: skip
# Imported by mamba_ssm's __init__ and used by no Mamba-2 model: an extension that its pure-Python wheel lacks, and
# Mamba-3, which asks for more packages.
_STAND_INS: dict[str, dict[str, Any]] = {"selective_scan_cuda": {}, "mamba_ssm.modules.mamba3": {"Mamba3": None}}


def measure_rival(name: str, cells: Sequence[Cell], given: Circumstances, tell: Tell) -> Iterator[Measurement]:
    """The measurement of each cell, as it comes."""
    if not cells:
        return
    try:
        fields = arguments(name)
        package = _package(given.device)
    except InputError as error:
        tell(f"not beside mamba_ssm: {error}")
        return
    config = describe(name)[1]
    form = ", the continuous form of the same shape" if "discrete_mamba2" in config.layers else ""
    products = product_ceilings(config, cells, given)
    model = package.MambaLMHeadModel(package.MambaConfig(**fields), device=given.device, dtype=given.dtype)
    model.requires_grad_(False).eval()
    for cell in cells:
        if cell.new_tokens < 2:
            tell(f"{name}, mamba_ssm: {cell.batch} x {cell.new_tokens}: decodes nothing behind the prompt's own token")
            continue
        found, whole = _measure(package, model, name, config, cell, given, products[cell.batch])
        tell(
            f"{name}, mamba_ssm {package.__version__} generate(cg=True){form}, {found.row.state_dtype} states:"
            f" {cell.batch} x {cell.new_tokens}: {found.row.tokens_per_s:,.0f} tokens/s,"
            f" {whole:,.0f} with prefill counted"
        )
        yield found


def arguments(name: str) -> dict[str, Any]:
    """Fields of mamba_ssm's MambaConfig for a ``random:`` shape; InputError for what it has no counterpart of."""
    if not name.startswith("random:"):
        raise InputError(f"{name}: has weights; mamba_ssm is timed on random: shapes alone")
    config = describe(name)[1]
    m, kinds = config.mamba, set(config.layers)
    if m is None or kinds not in ({"mamba2"}, {"discrete_mamba2"}):
        found = ", ".join(sorted(kinds))
        raise InputError(f"{name} has {found} layers; here it runs models that are Mamba-2 in all layers")
    if m.kv_heads is not None or m.inner % config.width:
        raise InputError(f"{name}: mamba_ssm has neither mamba.kv_heads nor an inner width off the multiples of width")
    if m.gated_norm and m.norm_groups != m.groups:
        raise InputError(f"{name}: mamba.norm_groups = {m.norm_groups}: mamba_ssm has one of each of {m.groups} groups")
    mixer = {
        "layer": "Mamba2", "d_state": m.state, "d_conv": m.conv, "expand": m.inner // config.width,
        "headdim": m.head_dim, "ngroups": m.groups, "rmsnorm": m.gated_norm, "chunk_size": m.chunk,
    }  # fmt: skip
    return {
        "d_model": config.width, "d_intermediate": config.mlp, "n_layer": len(config.layers),
        "vocab_size": config.vocab_size, "ssm_cfg": mixer, "rms_norm": True, "residual_in_fp32": True,
        "fused_add_norm": True, "pad_vocab_size_multiple": PAD_VOCABULARY, "tie_embeddings": config.tied,
    }  # fmt: skip


def check_installed(device: torch.device) -> None:
    """InputError where it cannot run on this device or is not installed; known before anything is loaded."""
    if (lacks := _lacks(device)) is not None:
        raise InputError(f"--against mamba-ssm: {lacks}")


def _lacks(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "its kernels run on a GPU"
    missing = [distribution for module, distribution in _NEEDS.items() if importlib.util.find_spec(module) is None]
    return f"pip install --no-deps {' '.join(dict.fromkeys(missing))}" if missing else None


@functools.cache
def _package(device: torch.device) -> types.SimpleNamespace:
    """What is needed of mamba_ssm; nothing of it stays importable, or transformers would take it for complete."""
    if (lacks := _lacks(device)) is not None:
        raise InputError(lacks)
    absent = [name for name in _STAND_INS if name != "selective_scan_cuda" or importlib.util.find_spec(name) is None]
    for name in absent:
        stand_in = types.ModuleType(name)
        stand_in.__dict__.update(_STAND_INS[name])
        sys.modules[name] = stand_in
    try:
        version = importlib.import_module("mamba_ssm").__version__
        parts = [
            (importlib.import_module(f"mamba_ssm.{module}"), name)
            for module, name in (
                ("models.mixer_seq_simple", "MambaLMHeadModel"),
                ("models.config_mamba", "MambaConfig"),
                ("utils.generation", "update_graph_cache"),
            )
        ]
    finally:
        for name in [n for n in sys.modules if n in absent or n.partition(".")[0] == "mamba_ssm"]:
            del sys.modules[name]
    return types.SimpleNamespace(__version__=version, **{name: getattr(module, name) for module, name in parts})


def _measure(
    package: Any, model: Any, name: str, config: DecoderConfig, cell: Cell, given: Circumstances, product: float
) -> tuple[Measurement, float]:
    """And tokens/s with prefill counted."""
    if given.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(given.device)
    generator = torch.Generator(given.device).manual_seed(given.seed)
    size = (cell.batch, cell.prompt)
    prompts = torch.randint(config.vocab_size, size, generator=generator, device=given.device)
    # Made for the longest run: generate would capture anew for each longer one.
    longest = cell.prompt + cell.new_tokens
    model._decoding_cache = package.update_graph_cache(model, None, *size, longest)
    state_dtype = model._decoding_cache.inference_params.key_value_memory_dict[0][1].dtype
    timed = time_cell(cell, lambda new_tokens: _run(model, prompts, new_tokens, given.device))
    peak_gib = torch.cuda.max_memory_allocated(given.device) / 2**30 if given.device.type == "cuda" else None
    ran = Ran(timed.tokens_per_s, timed.step_s, timed.joules_per_token, peak_gib)
    # A graph keeps its memory until it and what refers to it are gone.
    model._decoding_cache = None
    gc.collect()
    if given.device.type == "cuda":
        torch.cuda.empty_cache()
    row = rival_row("mamba_ssm", name, config, cell, given, state_dtype, product, ran)
    return Measurement(row, timed.slowest, timed.fastest, timed.prefill_s), timed.whole


def _run(model: Any, prompts: torch.Tensor, new_tokens: int, device: torch.device) -> Run:
    rows, prompt = prompts.shape

    def generate() -> tuple[list[int], tuple[()]]:
        model.generate(prompts, max_length=prompt + new_tokens, cg=True, top_k=0, top_p=0.0, temperature=TEMPERATURE)
        return [new_tokens] * rows, ()

    return clock(device, generate)
