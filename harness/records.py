"""The few types that cross module borders, and the strict reader that builds them from YAML or JSON.

Everything here is frozen, slotted and free of our own imports. A mistake a user can make is an
``InputError``: one line with the field, its value and the cure; the command line turns it into
exit code 2. Times are seconds on the run's clock (zero as ``docs/log.md`` defines it).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

T = TypeVar("T")


class InputError(ValueError):
    """Something the user can put right; the message is one line naming field, value and cure."""


Finish = Literal["eos", "stop", "length", "deadline", "error"]
Status = Literal["correct", "incorrect", "no_answer", "parse_error", "limit", "timeout", "error"]
UNSCORED: frozenset[str] = frozenset({"limit", "timeout", "error"})
AnswerType = Literal["math", "integer", "text"]


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer (LaTeX or plain text); ``level`` counts from 1."""

    id: str
    prompt: str
    answer: str
    subject: str | None = None
    level: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A named list of problems; ``prompt_template`` holds one ``{prompt}``; ``sha256`` pins the problems."""

    name: str
    problems: tuple[Problem, ...]
    prompt_template: str
    answer_type: AnswerType
    sha256: str

    def __post_init__(self) -> None:
        if not self.problems:
            raise InputError(f"task {self.name}: holds no problems; give a source with at least one row")
        seen: set[str] = set()
        for problem in self.problems:
            if problem.id in seen:
                raise InputError(f"task {self.name}: id {problem.id!r} occurs twice; ids must be unique")
            seen.add(problem.id)


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """One sweep: what is sampled, for how long, by which clock (``time_budgets``: every budget is read off one log).

    ``seconds`` may be several values: the largest is sampled, each gets a row in the table.
    ``batch`` is a number of slots, ``"max"`` (what memory holds) or ``"calibrated"``.
    ``clock`` is ``"problem"`` (the device to itself for ``seconds``) or ``"task"`` (all problems share it).
    ``top_k`` 0 and ``top_p`` 1.0 switch those filters off. ``reward_on_clock``: the curves that need a reward model
    pay for its seconds (``harness.scoring.best_of``); nothing else changes, and nothing at all where none is scored.
    """

    seconds: tuple[float, ...]
    clock: Literal["problem", "task"]
    samples_per_problem: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    batch: int | Literal["max", "calibrated"]
    stop: tuple[str, ...] = ()
    stop_after_boxed: bool = False
    drain: bool = False
    reward_on_clock: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        def check(ok: bool, field: str, cure: str) -> None:
            if not ok:
                raise InputError(f"budget.{field} = {getattr(self, field)!r}: {cure}")

        check(bool(self.seconds) and all(0 < s < math.inf for s in self.seconds), "seconds", "must be above 0, finite")
        check(self.samples_per_problem > 0, "samples_per_problem", "must be at least 1")
        check(self.max_new_tokens > 0, "max_new_tokens", "must be at least 1")
        # Beyond, logits divided by it overflow fp32, or are all the same.
        warm = self.temperature == 0 or 0.01 <= self.temperature <= 100
        check(warm, "temperature", "must be 0 (greedy) or from 0.01 to 100")
        check(0 < self.top_p <= 1, "top_p", "must lie in (0, 1]; 1 switches it off")
        check(self.top_k >= 0, "top_k", "must be 0 (off) or above")
        check(0 <= self.seed < 2**64, "seed", "must fit 64 bits, unsigned")
        check(self.limit is None or self.limit > 0, "limit", "must be at least 1, or left out for all problems")
        check(isinstance(self.batch, str) or self.batch > 0, "batch", "must be at least 1, or max, or calibrated")
        check(all(self.stop), "stop", "an empty stop string would stop at once; leave it out")

    @property
    def deadline_s(self) -> float:
        return max(self.seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled chain, keyed by its first five fields.

    ``t_finish`` is when the host could see the last token; ``new_tokens`` includes EOS; ``late`` marks
    one that finished after the deadline of a drained run; ``logprob`` is the sum of the log
    probabilities of its tokens under the model at temperature 1, None from an engine that does not say them.
    """

    model: str
    task: str
    batch: int
    problem_id: str
    sample: int
    t_submit: float
    t_first_token: float
    t_finish: float
    prompt_tokens: int
    new_tokens: int
    finish: Finish
    late: bool
    text: str
    logprob: float | None

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        return (self.model, self.task, self.batch, self.problem_id, self.sample)


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What the grader says of one trajectory (same key); ``class_id`` is None where there is no answer to vote with."""

    model: str
    task: str
    batch: int
    problem_id: str
    sample: int
    answer: str | None
    class_id: str | None
    status: Status
    correct: bool

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        return (self.model, self.task, self.batch, self.problem_id, self.sample)


@dataclasses.dataclass(frozen=True, slots=True)
class Reward:
    """What a reward model says of one trajectory (same key); higher is better.

    ``score`` is None where the ``tokens`` it had to read were more than it can. ``steps`` are the scores of a process
    reward model's steps. ``seconds`` is the sample's share, by tokens, of what its batch took.
    """

    model: str
    task: str
    batch: int
    problem_id: str
    sample: int
    score: float | None
    steps: tuple[float, ...]
    tokens: int
    seconds: float

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        return (self.model, self.task, self.batch, self.problem_id, self.sample)


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """One look of the host at a running round: the log's unit of commitment.

    ``look`` counts from 0; ``clock_s`` is when the host looked; ``submitted`` are the (problem id,
    sample, t_submit) admitted before this look's window; ``ended`` closes the round. Rows in flight
    at a look are those submitted and not finished; each holds ``look_every`` tokens a look since.
    """

    model: str
    batch: int
    round: int
    look: int
    clock_s: float
    submitted: tuple[tuple[str, int, float], ...]
    ended: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What a log holds of one round: its looks, who finished, and the clock of its last row."""

    looks: tuple[Look, ...]
    finished: frozenset[tuple[str, int]]
    clock_s: float


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """``did you mean 'x'?`` for the nearest known word, or the list of known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(names)


def build(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build a record from a mapping: unknown and missing keys and wrong types are InputErrors naming the key.

    ``where`` names the source in the message (a file, say). Lists become tuples; a single value is
    taken for a tuple field (``seconds: 20``).
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: expected named fields, found {type(data).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(str(key), fields)}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _coerce(data[name], hints[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}: {name} is missing")
    return cls(**values)


def build_from_yaml(cls: type[T], path: Path, example: str) -> T:
    """Build a record from a YAML file; every error begins with the file's name. ``example`` names some fields."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path.name}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path.name}: expected named fields ({example}, ...), found {data!r}")
    try:
        return build(cls, data, path.name)
    except InputError as error:
        # A record checks its own values and knows no file; build() names the file itself.
        message = str(error)
        raise InputError(message if message.startswith(path.name) else f"{path.name}: {message}") from None


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        raise InputError(f"{where} = {value!r}: must be one of {', '.join(map(str, args))}")
    if origin in (typing.Union, types.UnionType):
        records = [a for a in args if dataclasses.is_dataclass(a)]
        if isinstance(value, Mapping) and len(records) == 1:
            # Nothing else can be meant, and the error inside says more than one about the whole.
            return _coerce(value, records[0], where)
        for option in args:
            try:
                return _coerce(value, option, where)
            except InputError:
                continue
        wanted = " or ".join(_describe(a) for a in args)
        raise InputError(f"{where} = {value!r}: must be {wanted}")
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(item, args[0], f"{where}[{i}]") for i, item in enumerate(items))
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    raise InputError(f"{where} = {value!r}: must be {_describe(hint)}")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if dataclasses.is_dataclass(hint):
        return "named fields"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}.get(
        hint, str(hint)
    )
