"""What one run is asked to do, checked before anything is loaded."""

from __future__ import annotations

import dataclasses

import torch

from harness.engine.engines import STATE_DTYPES, check_engine
from harness.models.prompts import DEFAULT_STYLE, PromptStyle, find_style
from harness.records import Budget, InputError, Problem, Task

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
# A fifth of the problems, whatever the model: the calibration split is frozen with the task.
CALIBRATION_EVERY = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """``models`` in the order they are sampled; the first all-attention one is the baseline of comparisons.

    ``task_source`` is the name or path that the task was loaded by. ``state_dtype`` is that of SSM states (float64 in a
    float64 model). ``request_seeds`` gives each request to vLLM a seed of its own. ``fixed_rows``: rows that every step
    of the native engine runs, whatever the batch, so that the batch changes no bit of a chain.
    """

    models: tuple[str, ...]
    task: Task
    budget: Budget
    device: torch.device
    dtype: torch.dtype
    fake_clock: bool = False
    task_source: str = ""
    engine: str = "eager"
    state_dtype: torch.dtype = torch.float32
    prompt_style: str = DEFAULT_STYLE
    request_seeds: bool = False
    fixed_rows: int | None = None

    def __post_init__(self) -> None:
        check_engine(self.engine, self.device, self.dtype, self.state_dtype)
        find_style(self.prompt_style)
        if not self.models:
            raise InputError("--model: none given; name at least one")
        if len(set(self.models)) < len(self.models):
            raise InputError(f"--model {' '.join(self.models)}: one is named twice; name each once")
        if self.request_seeds and self.engine != "vllm":
            raise InputError(f"--request-seeds: is for --engine vllm, not {self.engine}; leave it out")
        if self.request_seeds and len(self.models) > 1:
            raise InputError("--request-seeds: slows vLLM's sampler, so nothing is compared with it; give one --model")
        if self.fixed_rows is not None:
            self._check_fixed_rows(self.fixed_rows)
        if not self.problems:
            raise InputError(f"budget.limit = {self.budget.limit}: calibration takes all of these; allow 2 at least")

    def _check_fixed_rows(self, rows: int) -> None:
        if rows < 1:
            raise InputError(f"--fixed-rows {rows}: must be at least 1")
        if self.engine != "native":
            raise InputError(f"--fixed-rows: is for --engine native, not {self.engine}; leave it out")
        batch = self.budget.batch
        if isinstance(batch, int) and batch > rows:
            raise InputError(f"--fixed-rows {rows}: budget.batch = {batch} is more; give {batch} rows, or batch max")
        if batch == "calibrated":
            raise InputError(f"--fixed-rows {rows}: leaves no batch to calibrate; give budget.batch a number or max")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems that are evaluated."""
        return evaluated(self.task, self.budget)

    @property
    def style(self) -> PromptStyle:
        return find_style(self.prompt_style)

    @property
    def calibration(self) -> tuple[Problem, ...]:
        return tuple(p for i, p in enumerate(self.task.problems[: self.budget.limit]) if _calibrates(i))


def evaluated(task: Task, budget: Budget) -> tuple[Problem, ...]:
    """What a budget samples of a task: without the calibration split where the batch is calibrated."""
    limited = task.problems[: budget.limit]
    if budget.batch != "calibrated":
        return limited
    return tuple(p for i, p in enumerate(limited) if not _calibrates(i))


def _calibrates(place: int) -> bool:
    # One of each five in a row, the next one each time: a task that deals its five levels in turn gives some of each.
    block, inside = divmod(place, CALIBRATION_EVERY)
    return inside == block % CALIBRATION_EVERY


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device {name!r}: must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU answers here; use cpu, or look at nvidia-smi")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 on a GPU, fp32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise InputError(f"--dtype {name!r}: must be auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def choose_state_dtype(name: str) -> torch.dtype:
    if name not in STATE_DTYPES:
        raise InputError(f"--state-dtype {name!r}: must be {', '.join(STATE_DTYPES)}")
    return STATE_DTYPES[name]
