"""A fixed workload under the fake clock, and what the host asked of the device while it ran: counts, no seconds.

A tiny hybrid decodes four chains of uneven lengths in two slots, by the plain engine and by the native one (uncaptured,
in Triton's interpreter). Counted are windows, steps, prefills, and calls that wait for the device: ``item`` and what
comes down to it, copies to the host, and operations whose result's size depends on data.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.bench.plan_launches import recorded
from harness.engine.backend import EagerBackend
from harness.engine.clock import FakeClock
from harness.engine.graph import GraphBackend
from harness.engine.sampler import Job, RoundLabel, Sampler
from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig
from harness.models.decoder import Decoder
from harness.models.resolve import LoadedModel
from harness.models.text import Codec
from harness.records import Budget, Look, Trajectory

VOCAB, EOS = 40, tuple(range(8))
PROMPTS = ([9, 10, 11], [12, 13, 14, 15, 16, 17, 18])
SAMPLES, SLOTS, MOST_TOKENS, LOOK_EVERY = 2, 2, 7, 2  # the interpreter takes 0.1 s for a row's step
CONFIG = DecoderConfig(
    VOCAB, 32, ("attention", "mamba1", "discrete_mamba2"), 24, 64, EOS, None, AttentionConfig(2, 1, 16),
    MambaConfig(heads=1, head_dim=16, state=16, groups=1, chunk=16), Mamba1Config(32, 4, 16, xb=16),
)  # fmt: skip
# Below Python: what reads a number off the device, or sizes a result by its data.
_WAITING_OPERATIONS = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}
)


class SynchronisingCalls(TorchDispatchMode):
    """Counts by name the calls that would make the host wait for a GPU, while entered and not ``paused``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.paused = False
        self.above = _HostCopies(self)

    def note(self, name: str) -> None:
        if not self.paused:
            self.counts[name] += 1

    def __enter__(self) -> SynchronisingCalls:
        self.above.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.above.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING_OPERATIONS:
            self.note(name.strip("_"))
        elif name in ("index", "index_put", "index_put_") and any(
            t is not None and t.dtype == torch.bool for t in args[1]
        ):
            self.note("index by a mask")
        return func(*args, **(kwargs or {}))


class _HostCopies(TorchFunctionMode):
    """Copies to the host; on a CPU they move nothing and only Python sees them."""

    def __init__(self, counting: SynchronisingCalls) -> None:
        super().__init__()
        self.counting = counting

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (torch.Tensor.cpu, torch.Tensor.tolist):
            self.counting.note(func.__name__)
        elif func is torch.Tensor.to and not given.get("non_blocking") and _names_cpu((*args[1:], *given.values())):
            self.counting.note("cpu")
        return func(*args, **given)


def _names_cpu(values: Sequence[object]) -> bool:
    # A device taken from a tensor says where that lives; only a host spelt out is a copy to it.
    return any(isinstance(value, str) and value == "cpu" for value in values)


def workload_counts(engine: str) -> dict[str, int]:
    """What one run of the workload did; ``native`` wants Triton's interpreter (TRITON_INTERPRET=1) without a GPU."""
    model, budget = tiny_hybrid(), Budget((60.0,), "task", SAMPLES, MOST_TOKENS, 0.9, 1.0, 0, 11, SLOTS)
    ids = [f"p{i}" for i in range(len(PROMPTS))]
    made: EagerBackend | GraphBackend
    if engine == "native":
        made = GraphBackend(model, budget, PROMPTS, ids, SLOTS)
    else:
        made = EagerBackend(model, budget, PROMPTS, ids, SLOTS)
    backend, sink, clock = _Counting(made), _Sink(), FakeClock()
    lengths = [len(p) for p in PROMPTS]
    sampler = Sampler(backend, [bytes([33 + i]) for i in range(VOCAB)], EOS, lengths, budget, clock, sink, LOOK_EVERY)
    jobs = [Job(i, ids[i], j) for j in range(SAMPLES) for i in range(len(PROMPTS))]
    calls = SynchronisingCalls()

    @contextlib.contextmanager
    def uncounted(call: object) -> Iterator[None]:
        calls.paused = True  # the interpreter's own
        yield
        calls.paused = False

    with recorded(uncounted), calls:
        sampler.run(RoundLabel("workload", "workload", SLOTS, 0), jobs)
    return {
        "chains": sink.chains, "looks": sink.looks, "windows": backend.windows, "steps": backend.steps,
        "rows stepped": backend.rows_stepped, "prefills": backend.prefills,
        "fake clock in ms": round(1000 * clock.now()),
        "synchronising calls": calls.counts.total(),
        **{f"synchronising calls: {name}": count for name, count in sorted(calls.counts.items())},
    }  # fmt: skip


class _Sink:
    def __init__(self) -> None:
        self.chains = self.looks = 0

    def commit(self, finished: Sequence[Trajectory], look: Look) -> None:
        self.chains += len(finished)
        self.looks += 1


class _Counting:
    """A backend that counts what is asked of it."""

    def __init__(self, backend: EagerBackend | GraphBackend) -> None:
        self.backend, self.slots, self.depth = backend, backend.slots, backend.depth
        self.pass_tokens = backend.pass_tokens
        self.windows = self.steps = self.rows_stepped = self.prefills = 0
        self.fork, self.release, self.move = backend.fork, backend.release, backend.move
        self.collect: Any = backend.collect
        self.window = backend.window

    def prefill(self, prompts: Sequence[int]) -> None:
        self.prefills += len(prompts)
        self.backend.prefill(prompts)

    def launch(self, rows: int, steps: int) -> Any:
        self.windows, self.steps = self.windows + 1, self.steps + steps
        self.rows_stepped += rows * steps
        return self.backend.launch(rows, steps)


def tiny_hybrid() -> LoadedModel:
    """One layer of each kind, random weights, one step of a row quick enough for the interpreter."""
    decoder = Decoder(CONFIG)
    generator = torch.Generator().manual_seed(5)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2, generator=generator)
    tokenizer = Tokenizer(models.BPE(vocab={chr(33 + i): i for i in range(VOCAB)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return LoadedModel("workload", decoder.requires_grad_(False).eval(), Codec(tokenizer, VOCAB, EOS), "", random=True)
