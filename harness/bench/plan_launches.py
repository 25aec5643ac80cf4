"""What a stretch of code launches: Triton kernels, matrix products and other torch operations, in order.

The code itself runs. On tensors of the device "meta" nothing is computed and kernels are left out, so that a model of
any size can be asked what a step of it would launch; elsewhere everything is carried out and noted beside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import KernelInterface

Kind = Literal["kernel", "product", "torch"]
_PRODUCTS = frozenset({"mm", "linear", "addmm_"})
# Memory from the allocator; nothing runs on the device.
_ALLOCATIONS = frozenset({"empty", "new_empty", "empty_like", "empty_strided"})


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One launch.

    A kernel's name is ``file.function``, a product's ``mm [m, k] x [k, n]``, a torch operation's its own. ``arguments``
    by name, for a kernel with its ``grid``; for the others ``read`` and ``written``, tuples of tensors.
    """

    kind: Kind
    name: str
    arguments: dict[str, Any]


@contextlib.contextmanager
def recorded(
    around: Callable[[Call], contextlib.AbstractContextManager[object]] = lambda call: contextlib.nullcontext(),
) -> Iterator[list[Call]]:
    """The launches of the block, filled as it runs; ``around`` is entered about each kernel that is carried out."""
    calls: list[Call] = []
    mode = _Mode(calls)
    launcher_of = KernelInterface.__getitem__

    def at_grid(kernel: Any, grid: tuple[int, ...]) -> Callable[..., object]:
        def launch(*args: Any, **options: Any) -> object:
            signature = inspect.signature(kernel.fn)
            named = {k: v for k, v in options.items() if k in signature.parameters}  # the rest are warps and the like
            bound = signature.bind(*args, **named).arguments
            module = kernel.fn.__module__.rpartition(".")[2]
            call = Call("kernel", f"{module}.{kernel.fn.__name__.lstrip('_')}", {**bound, "grid": grid})
            calls.append(call)
            if any(isinstance(t, torch.Tensor) and t.device.type == "meta" for t in args):
                return None
            with mode.held(), around(call):
                return launcher_of(kernel, grid)(*args, **options)

        return launch

    with mock.patch.object(KernelInterface, "__getitem__", at_grid), mode:
        yield calls


class _Mode(TorchDispatchMode):
    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self.calls, self.holding = calls, False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What a launcher does to get its kernel going (the interpreter copies tensors about) is not noted."""
        self.holding = True
        yield
        self.holding = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        in_place = name.endswith("_")
        unchanged = not in_place and any(result is given for given in args)
        if self.holding or func.is_view or name in _ALLOCATIONS or unchanged:
            return result
        written = list(_tensors((result,)))
        read = [t for t in _tensors((*args, *(kwargs or {}).values())) if in_place or all(t is not w for w in written)]
        kind: Kind = "torch"
        if name in _PRODUCTS:
            left = args[1] if name == "addmm_" else read[0]
            kind, depth = "product", left.shape[-1]
            name = f"mm [{left.numel() // depth}, {depth}] x [{depth}, {written[0].shape[-1]}]"
        self.calls.append(Call(kind, name, {"read": tuple(read), "written": tuple(written)}))
        return result


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(tuple(value))
