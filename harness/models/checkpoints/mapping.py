"""From a checkpoint's tensors to our parameters: a plan of entries, checked whole before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from harness.models.checkpoints.fields import printable
from harness.models.checkpoints.source import TensorSource
from harness.models.config import DecoderConfig
from harness.models.decoder import Decoder
from harness.models.mamba1 import KEPT_WIDE, Mamba1
from harness.records import InputError

Shape = tuple[int, ...]


def concatenated(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts one below the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Our parameter ``target``, made by ``build`` of the tensors ``sources`` with their expected shapes."""

    target: str
    sources: tuple[tuple[str, Shape], ...]
    build: Callable[[Sequence[torch.Tensor]], torch.Tensor] = concatenated


def same(target: str, source: str, *shape: int) -> Entry:
    """A parameter that is one tensor, unchanged."""
    return Entry(target, ((source, shape),))


def rows(target: str, source: str, sizes: Sequence[int], order: Sequence[int], width: int) -> Entry:
    """A matrix of row blocks ``sizes`` as the file has them, put in ``order`` (ours; numbers into ``sizes``)."""

    def build(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        blocks = parts[0].split(list(sizes))
        return torch.cat([blocks[i] for i in order])

    return Entry(target, ((source, (sum(sizes), width)),), build)


def conv(block: str, source: str, channels: int, taps: int) -> tuple[Entry, Entry]:
    """Weight and bias of a depthwise convolution, stored as torch's Conv1d does."""
    weight = ((f"{source}.weight", (channels, 1, taps)),)
    squeezed = Entry(f"{block}.conv_weight", weight, lambda parts: parts[0].squeeze(1))
    return squeezed, same(f"{block}.conv_bias", f"{source}.bias", channels)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a format makes of a folder: the config, and where each parameter comes from.

    ``twins`` (name, other name): a tensor that may be stored once more and must then equal the other (tied heads).
    ``ignored`` names tensors that may be there and are not used.
    """

    config: DecoderConfig
    entries: tuple[Entry, ...]
    twins: tuple[tuple[str, str], ...] = ()
    ignored: frozenset[str] = frozenset()


def fill(plan: Plan, source: TensorSource, dtype: torch.dtype, device: torch.device) -> Decoder:
    """A decoder in evaluation mode, its parameters in ``dtype`` (Mamba-1's ``KEPT_WIDE`` in fp32 at least).

    InputError listing every missing, unexpected and misshapen tensor by name; nothing is loaded then.
    """
    check(plan, source)
    with torch.device("meta"):
        model = Decoder(plan.config)
    parameters, wide = dict(model.named_parameters()), kept_wide(model)
    state = {}
    for entry in plan.entries:
        value = entry.build([source.get(name) for name, _ in entry.sources])
        kept = torch.promote_types(dtype, torch.float32) if entry.target in wide else dtype
        # A copy: a view of a mapped file would keep it open and be read page by page.
        state[entry.target] = value.to(device=device, dtype=kept, copy=True).contiguous()
        assert value.shape == parameters[entry.target].shape, entry.target
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def kept_wide(model: Decoder) -> set[str]:
    """Names of the parameters that a cast to 16 bits leaves in fp32."""
    mixers = [name for name, module in model.named_modules() if isinstance(module, Mamba1)]
    return {f"{mixer}.{name}" for mixer in mixers for name in KEPT_WIDE}


def check(plan: Plan, source: TensorSource) -> None:
    """InputError listing every missing, unexpected and misshapen tensor by name."""
    expected = {name: shape for entry in plan.entries for name, shape in entry.sources}
    twins = dict(plan.twins)
    shapes = source.shapes
    faults = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in shapes]
    unexpected = sorted(shapes.keys() - expected.keys() - plan.ignored - twins.keys())
    faults += [f"unexpected {printable(name)}" for name in unexpected]
    faults += [
        f"{name} is {list(shapes[name])}, the config says {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    faults += [
        f"{name} differs from {other}, though the config ties them"
        for name, other in plan.twins
        if name in shapes and other in shapes and not torch.equal(source.get(name), source.get(other))
    ]
    if faults:
        raise InputError(f"{source.folder}: {'; '.join(faults)}; give the weights that belong to this config")
