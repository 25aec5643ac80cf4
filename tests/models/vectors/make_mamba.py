"""Make mamba.json: what the published Mamba layers compute, on weights that NumPy's frozen legacy generator draws.

    python tests/models/vectors/make_mamba.py MAMBA_IN_LLAMA_CHECKOUT

The checkout is github.com/jxiw/MambaInLlama; transformers, einops, mamba_ssm and causal_conv1d (both without
their CUDA extensions) must be installed. The authors' modules run as they are, on the CPU; only the GPU
functions that they import are replaced by mamba_ssm's own plain references. Tests need none of this.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).with_name("mamba.json")
WIDTH, TIME, SPLIT = 12, 10, 6
GROUPED = {"d_model": WIDTH, "d_inner": 24, "d_xb": 8, "d_state": 4}
MAMBA2 = GROUPED | {"ngroups": 6, "headdim": 4}
UNGROUPED = {"vocab_size": 20, "hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 3}


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal numbers that depend on the name alone."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(generator.standard_normal(shape)).float()


def fill(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(0.5 * drawn(name, tuple(parameter.shape)))


def references() -> types.SimpleNamespace:
    """mamba_ssm's plain functions, without its package's start, which wants the CUDA extension."""
    found = importlib.util.find_spec("mamba_ssm")
    assert found is not None and found.submodule_search_locations
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["mamba_ssm"] = package
    for extension in ("selective_scan_cuda", "causal_conv1d_cuda"):
        sys.modules[extension] = types.ModuleType(extension)
    from causal_conv1d.causal_conv1d_interface import causal_conv1d_ref
    from mamba_ssm.ops.selective_scan_interface import selective_scan_ref
    from mamba_ssm.ops.triton.layernorm_gated import rms_norm_ref
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update_ref
    from mamba_ssm.ops.triton.ssd_combined import ssd_chunk_scan_combined_ref

    return types.SimpleNamespace(
        conv=causal_conv1d_ref,
        scan=selective_scan_ref,
        update=selective_state_update_ref,
        chunk_scan=ssd_chunk_scan_combined_ref,
        norm=rms_norm_ref,
    )


def authors(checkout: Path, folder: str, plain: types.SimpleNamespace) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"{folder}_layer", checkout / folder / "hybrid_mamba_layer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.causal_conv1d_fn = lambda x, weight, bias, activation, seq_idx=None: plain.conv(
        x, weight, bias, activation=activation
    )
    module.causal_conv1d_update = None  # their own few lines for a step
    module.selective_scan_fn, module.selective_state_update = plain.scan, plain.update
    return module


def run(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The whole text at once; the authors' own prefill and steps must agree with it."""
    whole = layer(x)
    cache = types.SimpleNamespace(key_value_memory_dict={}, seqlen_offset=0)
    pieces = [layer(x[:, :SPLIT], inference_params=cache)]
    for t in range(SPLIT, x.shape[1]):
        cache.seqlen_offset = t
        pieces.append(layer(x[:, t : t + 1], inference_params=cache))
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)
    return whole[0]


def mamba1(checkout: Path, plain: types.SimpleNamespace, x: torch.Tensor) -> torch.Tensor:
    module = authors(checkout, "mamba", plain)
    layer = module.Mamba(**GROUPED, expand=2, dt_rank=3, layer_idx=0)
    fill(layer)
    return run(layer, x)


def mamba2(checkout: Path, plain: types.SimpleNamespace, x: torch.Tensor) -> torch.Tensor:
    module = authors(checkout, "mamba2", plain)

    def chunk_scan(x, dt, a, b, c, chunk_size, D, z, dt_bias, dt_softplus, return_final_states, **rest):
        assert z is None and not any(v is not None and v is not False for v in rest.values())
        out = plain.chunk_scan(x, dt, a, b, c, x.shape[1], D=D, dt_bias=dt_bias, dt_softplus=dt_softplus)
        if not return_final_states:
            return out
        state = torch.zeros(*x.shape[:1], *x.shape[2:], b.shape[-1])
        for t in range(x.shape[1]):
            dense = (dt[:, t, :, None].expand(x[:, t].shape), a[:, None, None].expand(state.shape[1:]))
            plain.update(
                state, x[:, t], *dense, b[:, t], c[:, t], dt_bias=dt_bias[:, None].expand(x.shape[2:]), dt_softplus=True
            )
        return out, state

    module.mamba_chunk_scan_combined = chunk_scan
    layer = module.Mamba2(**MAMBA2, layer_idx=0)
    norm = layer.norm
    norm.forward = lambda y, z: plain.norm(
        y, norm.weight, None, z=z, eps=norm.eps, group_size=norm.group_size, norm_before_gate=norm.norm_before_gate
    )
    fill(layer)
    return run(layer, x)


def ungrouped(tokens: torch.Tensor) -> torch.Tensor:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(**UNGROUPED, tie_word_embeddings=True)).eval()
    fill(model)
    return model(tokens).logits[0]


def main() -> None:
    checkout = Path(sys.argv[1])
    x, tokens = drawn("x", (1, TIME, WIDTH)), torch.arange(TIME)[None] * 7 % UNGROUPED["vocab_size"]
    with torch.no_grad():
        logits = ungrouped(tokens)  # before the stand-ins, which transformers would pick up
        plain = references()
        results = {"mamba1": mamba1(checkout, plain, x), "mamba2": mamba2(checkout, plain, x), "ungrouped": logits}
    rounded = {name: [[float(f"{v:.7g}") for v in row] for row in y.tolist()] for name, y in results.items()}
    lines = [f'"{name}": {json.dumps(rows)}' for name, rows in rounded.items()]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
