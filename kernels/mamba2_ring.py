"""What a Mamba-2 layer remembers while decoding with a deferred commit (published as ReplaySSM, vLLM #48018).

The state S is read at every step and written only every K-th; in between, the inputs since the last
commit lie in a ring of K - 1 entries. All of it follows from the trajectory, nothing is counted: at
position t of a trajectory that began at position0, with n = t - position0,

    phase r = (t + sample + layer) mod K      entry index of this step's input in the ring
    fill    = min(n, r)                       entries before it: indices r - fill ... r - 1
    commit  at the end of the step with r = K - 1, which takes its own input along
    S is the prompt's snapshot while n <= r (no commit yet), the slot's own place afterwards

A slot that is handed to another trajectory needs no clearing, rounding does not depend on slots or
refill, and forking copies the convolution's last rows alone. A snapshot may be freed once all
that were forked from it have n >= K.
"""

from __future__ import annotations

import dataclasses
import math

import torch

RING_LENGTHS = (8, 16)


def ring_length(
    shape: tuple[int, int, int], shared: int, state_dtype: torch.dtype, dtype: torch.dtype = torch.bfloat16
) -> int:
    """The K of ``RING_LENGTHS`` that moves the fewest bytes a step and row.

    ``shape`` (heads, dim, N) of the state; ``shared``: channels of x and of B together, kept in ``dtype``.
    bytes(K) = S (1 + 1/K) + r (K - 1) / 2 + r: the state read, and written every K-th step; the ring
    read, (K - 1) / 2 entries on average; one entry of r = x + B + dt + log decay appended.
    """
    state_bytes = math.prod(shape) * state_dtype.itemsize
    entry_bytes = shared * dtype.itemsize + 2 * shape[0] * torch.float32.itemsize
    return min(RING_LENGTHS, key=lambda k: state_bytes * (1 + 1 / k) + entry_bytes * (k + 1) / 2)


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """What a step reads of each slot, on the device; vectors [slots], integers of any width.

    ``position``: tokens consumed so far, this step's own index; ``position0``: that of the first step
    after the fork; ``sample``: number of the trajectory among its problem's; ``snapshot``: the place of
    its prompt's state; ``running``: 0 for a row that must leave everything alone.
    """

    position: torch.Tensor
    position0: torch.Tensor
    sample: torch.Tensor
    snapshot: torch.Tensor
    running: torch.Tensor

    def phase_and_age(self, slots: torch.Tensor, layer: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """r and n of ``slots``, int64."""
        position, position0, sample = (t[slots].long() for t in (self.position, self.position0, self.sample))
        return (position + sample + layer) % length, position - position0


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """One layer's states and rings; place s of ``state`` is slot s's, snapshots of prompts lie behind the slots.

    ``state`` [places, heads, dim, N], fp32, fp16 or bf16; ``conv`` [slots, width, channels]: the
    convolution's raw inputs, row position mod width (width - 1 would do, but then heads that share B
    and C would overwrite what others still read); ``x`` [slots, K - 1, heads * dim or fewer] and ``b``
    [slots, K - 1, groups * N]: inputs behind the convolution, in the activations' dtype; ``dt``
    (continuous form alone) and ``decay`` [slots, K - 1, heads]: step size, and sum of log a since the last
    commit up to the entry, fp32; ``saturated`` int32 [1]: state entries clamped to fp16's range so far.
    """

    state: torch.Tensor
    conv: torch.Tensor
    x: torch.Tensor
    b: torch.Tensor
    dt: torch.Tensor | None
    decay: torch.Tensor
    saturated: torch.Tensor

    @classmethod
    def allocate(
        cls,
        slots: int,
        snapshots: int,
        shape: tuple[int, int, int],
        parts: tuple[int, int, int],
        length: int,
        width: int,
        discrete: bool,
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        device: torch.device | str,
    ) -> Memory:
        """Zeros for states of ``shape`` (heads, dim, N), ``parts`` channels of x, B and C, K = ``length``."""
        exact = torch.float64 if dtype == torch.float64 else torch.float32

        def zeros(*size: int, kind: torch.dtype = dtype) -> torch.Tensor:
            return torch.zeros(size, dtype=kind, device=device)

        return cls(
            zeros(slots + snapshots, *shape, kind=state_dtype),
            zeros(slots, width, sum(parts)),
            zeros(slots, length - 1, parts[0]),
            zeros(slots, length - 1, parts[1]),
            None if discrete else zeros(slots, length - 1, shape[0], kind=exact),
            zeros(slots, length - 1, shape[0], kind=exact),
            zeros(1, kind=torch.int32),
        )

    @property
    def length(self) -> int:
        """K: steps from commit to commit."""
        return self.decay.shape[1] + 1

    @property
    def nbytes(self) -> int:
        """Bytes of all of it; ``allocate`` on the device "meta" plans without allocating."""
        return sum(t.nbytes for t in self._tensors())

    def _tensors(self) -> list[torch.Tensor]:
        fields = (getattr(self, f.name) for f in dataclasses.fields(self))
        return [t for t in fields if t is not None]

    def fork_conv(self, tail: torch.Tensor, slots: torch.Tensor, position0: torch.Tensor) -> None:
        """Hand the last width - 1 raw inputs before ``position0`` [n] to ``slots`` [n].

        ``tail`` [n, width - 1, channels], oldest first, zeros before the start of a short prompt.
        """
        self.conv[slots[:, None], self._taps(position0)] = tail.to(self.conv.dtype)

    def _taps(self, position: torch.Tensor) -> torch.Tensor:
        """Rows of ``conv`` that hold the width - 1 inputs before ``position`` [n], oldest first: [n, width - 1]."""
        width = self.conv.shape[1]
        return (position.long()[:, None] + torch.arange(1, width, device=position.device)) % width

    def conv_tail(self, slots: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """The inverse of ``fork_conv``: the last width - 1 raw inputs of ``slots`` before ``position`` [n]."""
        return self.conv[slots[:, None], self._taps(position)]

    def move(self, source: int, target: int) -> None:
        """Slot ``target`` takes over what ``source`` remembers."""
        for t in (self.state, self.conv, self.x, self.b, self.dt, self.decay):
            if t is not None:
                t[target] = t[source]

    def freeze(self, rows: Rows, layer: int, slots: torch.Tensor, places: torch.Tensor) -> None:
        """Write the whole state of ``slots`` [n], rings included, to snapshot ``places`` [n], rounded once.

        ``rows.position`` counts the consumed tokens. The slots go on unchanged, to the bit. What forks
        from a trajectory in its middle starts from such a place with position0 = that position.
        """
        kind = torch.promote_types(self.decay.dtype, torch.float32)
        state, total, weight, x, b = self.pending(rows, layer, slots, kind)
        added = torch.einsum("nkh,nkhp,nkhs->nhps", weight, x, b)
        self.write(places, state * total.exp()[..., None, None] + added)

    def pending(
        self, rows: Rows, layer: int, slots: torch.Tensor, kind: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Last written state [n, heads, dim, N] of ``slots`` and what came since, all in ``kind``.

        The log decay since [n, heads]; of each ring entry the weight e^(total - l_k) dt_k [n, K - 1, heads],
        x [n, K - 1, heads, dim] and b [n, K - 1, heads, N], zero where the ring holds nothing of this trajectory.
        """
        heads, dim, size = self.state.shape[1:]
        phase, age = rows.phase_and_age(slots, layer, self.length)
        index = torch.arange(self.length - 1, device=slots.device)
        empty = ((index >= phase[:, None]) | (index < (phase - age)[:, None]))[..., None]
        place = torch.where(age <= phase, rows.snapshot[slots].long(), slots)
        decay = self.decay[slots].to(kind).masked_fill(empty, 0)
        # Sums of log a never rise, so the lowest is the latest.
        total = decay.amin(1) if self.length > 1 else decay.sum(1)
        weight = (total[:, None] - decay).exp().masked_fill(empty, 0)
        if self.dt is not None:
            weight = weight * self.dt[slots].to(kind).masked_fill(empty, 0)
        x = by_head(self.x[slots].to(kind).masked_fill(empty, 0), heads, dim)
        b = by_head(self.b[slots].to(kind).masked_fill(empty, 0), heads, size)
        return self.state[place].to(kind), total, weight, x, b

    def write(self, places: torch.Tensor, whole: torch.Tensor) -> None:
        """Round ``whole`` [n, heads, dim, N] into ``places``; what fp16 cannot hold is clamped and counted."""
        if self.state.dtype == torch.float16:
            most = torch.finfo(torch.float16).max
            self.saturated.add_((whole.abs() > most).sum())
            whole = whole.clamp(-most, most)
        self.state[places] = whole.to(self.state.dtype)


def by_head(t: torch.Tensor, heads: int, dim: int) -> torch.Tensor:
    """[..., g * dim] -> [..., heads, dim]: head h has row h * g // heads."""
    split = t.unflatten(-1, (-1, dim))
    return split.repeat_interleave(heads // split.shape[-2], dim=-2)
