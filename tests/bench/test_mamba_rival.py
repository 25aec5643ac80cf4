"""mamba_ssm as a rival: what it is told of a shape, what is refused, the arithmetic of its rows. Nothing is timed."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.bench import mamba_rival, rival
from harness.bench.cell import Cell
from harness.bench.mamba_rival import arguments, measure_rival
from harness.bench.rival import Circumstances, Run
from harness.bench.roofline import Ceilings, Workload, layer_products, step_seconds
from harness.models.resolve import describe
from harness.models.shapes import SHAPES
from harness.records import InputError

CPU = torch.device("cpu")
CEILINGS = Ceilings(1e10, 1e11)
NAME = "random:tiny-mamba"
FIRST_S, STEP_S = 2.0, 0.25  # of the fake: the prompt with the first token's draw, and a step behind it


@pytest.mark.parametrize("name", ["random:mamba2-1.3b", "random:llamba-1b", "random:llamba-3b", NAME])
def test_its_products_are_ours(name: str) -> None:
    fields, config = arguments(name), describe(name)[1]
    mixer, width = fields["ssm_cfg"], fields["d_model"]
    inner = mixer["expand"] * width
    heads = inner // mixer["headdim"]
    # mamba_ssm's projection is z, x, B, C, dt; its MLP a gate and an up projection side by side.
    theirs = [(width, 2 * inner + 2 * mixer["ngroups"] * mixer["d_state"] + heads), (inner, width)]
    if fields["d_intermediate"]:
        theirs += [(width, 2 * fields["d_intermediate"]), (fields["d_intermediate"], width)]
    assert layer_products(config) == dict.fromkeys(theirs, fields["n_layer"])
    assert config.mamba is not None and (heads, mixer["headdim"], mixer["d_state"]) == config.mamba.ssm_shape
    assert mixer["rmsnorm"] == config.mamba.gated_norm and mixer["d_conv"] == config.mamba.conv
    assert fields["vocab_size"] == config.vocab_size and not config.vocab_size % fields["pad_vocab_size_multiple"]
    assert fields["tie_embeddings"] is config.tied


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 4}, "neither mamba.kv_heads nor"),
        ({"head_dim": 48}, "an inner width off the multiples of width"),
        ({"gated_norm": True}, "mamba.norm_groups = 1: mamba_ssm has one of each of 8 groups"),
    ],
)
def test_what_it_has_no_counterpart_of_is_refused(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = SHAPES["tiny-mamba"]
    assert shape.mamba is not None
    monkeypatch.setitem(SHAPES, "odd", dataclasses.replace(shape, mamba=dataclasses.replace(shape.mamba, **change)))
    with pytest.raises(InputError, match=message):
        arguments("random:odd")


@pytest.mark.parametrize(
    "name", ["random:llama-3.2-1b", "random:mamba-in-llama-3b", "random:tiny-hybrid", "tiny-mamba"]
)
def test_other_models_are_one_line(name: str) -> None:
    lines: list[str] = []
    assert list(measure_rival(name, [Cell(1, 1, 2)], circumstances(), lines.append)) == []
    assert len(lines) == 1 and lines[0].startswith(f"not beside mamba_ssm: {name}")


def test_a_cpu_or_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    assert list(measure_rival(NAME, [Cell(1, 1, 2)], circumstances(), lines.append)) == []
    assert lines == ["not beside mamba_ssm: its kernels run on a GPU"]
    monkeypatch.setattr(mamba_rival, "_NEEDS", {"no_such_module": "such-a-package", "nor_this": "such-a-package"})
    with pytest.raises(InputError, match=r"^pip install --no-deps such-a-package$"):
        mamba_rival._package.__wrapped__(torch.device("cuda"))


def test_nothing_of_it_stays_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is as mamba_ssm's pure-Python wheel is: no extension, and Mamba-3 that cannot be imported."""
    files = {
        "__init__": "import selective_scan_cuda\nfrom mamba_ssm.modules.mamba3 import Mamba3\n__version__ = '9'\n",
        "modules/__init__": "",
        "modules/mamba3": "import tilelang_that_is_not_there\n",
        "models/__init__": "",
        "models/mixer_seq_simple": "import mamba_ssm\nclass MambaLMHeadModel: pass\n",
        "models/config_mamba": "class MambaConfig: pass\n",
        "utils/__init__": "",
        "utils/generation": "def update_graph_cache(): return 7\n",
    }
    for name, text in files.items():
        path = tmp_path / "mamba_ssm" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(mamba_rival, "_NEEDS", {})
    package = mamba_rival._package.__wrapped__(torch.device("cuda"))
    assert (package.__version__, package.update_graph_cache()) == ("9", 7)
    assert package.MambaLMHeadModel.__module__ == "mamba_ssm.models.mixer_seq_simple"
    assert not [name for name in sys.modules if name.startswith(("mamba_ssm", "selective_scan_cuda"))]


class Fake:
    """A model whose ``generate`` moves a clock of its own; each run of one length is slower than the one before."""

    def __init__(self, config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype
        self.calls: list[tuple[int, int]] = []
        self.now = 0.0
        self._decoding_cache: Any = None
        Fake.made = self

    made: Fake

    def requires_grad_(self, flag: bool) -> Fake:
        return self

    def eval(self) -> None:
        """As torch.nn.Module's."""

    def generate(self, prompts: torch.Tensor, max_length: int, **given: Any) -> None:
        assert given == {"cg": True, "top_k": 0, "top_p": 0.0, "temperature": 0.8}
        assert self._decoding_cache.longest >= max_length, "captured anew"
        new_tokens = max_length - prompts.shape[1]
        self.calls.append((prompts.shape[0], new_tokens))
        repeat = self.calls.count((prompts.shape[0], new_tokens))
        self.now += FIRST_S + (new_tokens - 1) * STEP_S * (1 if new_tokens == 1 else repeat)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def update_graph_cache(model: Fake, cache: None, batch: int, prompt: int, longest: int) -> Any:
        states = {0: (None, torch.zeros(batch, 1, dtype=model.dtype))}
        return types.SimpleNamespace(
            longest=longest, inference_params=types.SimpleNamespace(key_value_memory_dict=states)
        )

    package = types.SimpleNamespace(
        __version__="9", MambaLMHeadModel=Fake, MambaConfig=dict, update_graph_cache=update_graph_cache
    )
    monkeypatch.setattr(mamba_rival, "_package", lambda device: package)
    monkeypatch.setattr(mamba_rival, "product_ceilings", lambda config, cells, given: {c.batch: 2e9 for c in cells})
    monkeypatch.setattr(rival, "time", types.SimpleNamespace(perf_counter=lambda: Fake.made.now))
    yield


def circumstances(dtype: torch.dtype = torch.bfloat16) -> Circumstances:
    return Circumstances(CPU, "a CPU", dtype, torch.float16, CEILINGS, True)


def test_a_row_is_of_decoding_alone(fake: None) -> None:
    lines: list[str] = []
    cell = Cell(4, 3, 100)
    (found,) = measure_rival(NAME, [cell], circumstances(), lines.append)
    # A warm-up of 64, the first token alone three times, then three runs of which each is slower by a step's time.
    assert Fake.made.calls == [(4, 64), *[(4, 1)] * 3, *[(4, 100)] * 3]
    steps, row = 99, found.row
    assert row.tokens_per_s == pytest.approx(4 * steps / (2 * STEP_S * steps))
    assert (found.fastest, found.slowest) == pytest.approx((4 / STEP_S, 4 / (3 * STEP_S)))
    assert row.ms_per_step == pytest.approx(1000 * 2 * STEP_S) and found.prefill_s == FIRST_S
    assert (row.engine, row.dtype, row.state_dtype) == ("mamba_ssm", "bfloat16", "bfloat16")
    assert row.peak_gib is None and row.joules_per_ktok is None
    work = Workload(4, 3, 100, dtype_bytes=2, state_bytes=2, deferred=False)
    ceilings = dataclasses.replace(CEILINGS, product_flop_per_s=2e9)
    limit_s = step_seconds(describe(NAME)[1], work, ceilings)
    assert row.roofline_share == pytest.approx(limit_s / (2 * STEP_S))
    whole = 4 * 100 / (FIRST_S + 2 * STEP_S * steps)
    assert f"4 x 100: {row.tokens_per_s:,.0f} tokens/s, {whole:,.0f} with prefill counted" in lines[0]
    assert "bfloat16 states" in lines[0] and "the continuous form of the same shape" in lines[0]


def test_long_cells_run_once_and_each_cell_is_freed(fake: None) -> None:
    found = list(measure_rival(NAME, [Cell(2, 3, 1), Cell(2, 3, 1025), Cell(8, 3, 2)], circumstances(), lambda _: None))
    assert [m.row.batch for m in found] == [2, 8] and Fake.made._decoding_cache is None
    assert Fake.made.calls.count((2, 1025)) == 1
    assert found[0].slowest == found[0].fastest == found[0].row.tokens_per_s


def test_joules_are_the_runs_less_their_first_tokens(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = itertools.chain([99.0], [5.0, 5.0, 6.0], [305.0, 205.0, 206.0])  # the warm-up, first tokens, runs

    def run(model: Any, prompts: torch.Tensor, new_tokens: int, device: torch.device) -> Run:
        return Run(4 * new_tokens, new_tokens, float(new_tokens), next(spent))

    monkeypatch.setattr(mamba_rival, "_run", run)
    (found,) = measure_rival(NAME, [Cell(4, 3, 51)], circumstances(), lambda _: None)
    assert found.row.joules_per_ktok is not None
    assert math.isclose(found.row.joules_per_ktok, 1000 * (206.0 - 5.0) / (4 * 50))
