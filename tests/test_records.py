"""Records: built strictly from what a user wrote, and every mistake is one line with field, value and cure."""

import dataclasses
from typing import Any, Literal

import pytest

from harness.records import Budget, InputError, Problem, Task, Trajectory, Verdict, build, nearest

BUDGET: dict[str, Any] = {
    "seconds": 20, "clock": "task", "samples_per_problem": 4, "max_new_tokens": 64, "temperature": 0.8,
    "top_p": 1, "top_k": 0, "seed": 7, "batch": "max",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Other:
    weight: float


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    either: Inner | Other | None = None
    anything: Any = None
    flag: bool = False


def fails(cls: type, data: Any) -> str:
    with pytest.raises(InputError) as caught:
        build(cls, data, "file.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def budget(**changes: Any) -> str:
    return fails(Budget, BUDGET | changes)


def test_a_record_of_every_type():
    got = build(Budget, BUDGET | {"stop": "Q:", "limit": None}, "file.yaml")
    assert got.seconds == (20.0,) and isinstance(got.seconds[0], float)
    assert (got.top_p, type(got.top_p)) == (1.0, float)
    assert (got.stop, got.limit, got.batch) == (("Q:",), None, "max")
    assert build(Budget, BUDGET | {"seconds": [2, 5.5], "batch": 8}, "file.yaml").deadline_s == 5.5


def test_unknown_keys_name_the_nearest():
    assert budget(sample_per_problem=1) == (
        "file.yaml: unknown key 'sample_per_problem'; did you mean 'samples_per_problem'?"
    )
    assert "known: anything, either, flag, inner, inners, name" in fails(Outer, {"name": "x", "qqqq": 1})
    assert "unknown key 3" in fails(Outer, {"name": "x", 3: 1})


def test_missing_keys():
    data = dict(BUDGET)
    del data["seed"]
    assert fails(Budget, data) == "file.yaml: seed is missing"


@pytest.mark.parametrize("data", [None, [1], "text", 3])
def test_what_is_no_mapping(data):
    assert "expected named fields" in fails(Outer, data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 5.0}, "max_new_tokens = 5.0: must be a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens = True: must be a whole number"),
        ({"temperature": "hot"}, "temperature = 'hot': must be a number"),
        ({"temperature": True}, "temperature = True: must be a number"),
        ({"drain": 1}, "drain = 1: must be true or false"),
        ({"drain": "no"}, "drain = 'no': must be true or false"),
        ({"clock": "tasks"}, "clock = 'tasks': must be one of problem, task"),
        ({"batch": "most"}, "batch = 'most': must be a whole number or 'max' or 'calibrated'"),
        ({"batch": True}, "batch = True: must be"),
        ({"limit": "all"}, "limit = 'all': must be a whole number or nothing"),
        ({"seconds": [1, "two"]}, "seconds[1] = 'two': must be a number"),
        ({"stop": [3]}, "stop[0] = 3: must be text"),
    ],
)
def test_wrong_types(changes, message):
    assert budget(**changes).startswith(f"file.yaml: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": []}, "budget.seconds = (): must be above 0"),
        ({"seconds": [1, 0]}, "budget.seconds = (1.0, 0.0): must be above 0"),
        ({"seconds": float("inf")}, "budget.seconds = (inf,): must be above 0, finite"),
        ({"seconds": float("nan")}, "budget.seconds = (nan,): must be above 0"),
        ({"samples_per_problem": 0}, "budget.samples_per_problem = 0: must be at least 1"),
        ({"max_new_tokens": 0}, "budget.max_new_tokens = 0: must be at least 1"),
        ({"temperature": -0.1}, "budget.temperature = -0.1: must be 0 (greedy) or from 0.01 to 100"),
        ({"temperature": float("inf")}, "budget.temperature = inf: must be 0 (greedy) or from 0.01"),
        ({"temperature": 1e-38}, "budget.temperature = 1e-38: must be 0 (greedy) or from 0.01"),
        ({"top_p": 0}, "budget.top_p = 0.0: must lie in (0, 1]"),
        ({"top_p": 1.01}, "budget.top_p = 1.01: must lie in (0, 1]"),
        ({"top_k": -1}, "budget.top_k = -1: must be 0 (off) or above"),
        ({"seed": -1}, "budget.seed = -1: must fit 64 bits"),
        ({"seed": 2**64}, f"budget.seed = {2**64}: must fit 64 bits"),
        ({"limit": 0}, "budget.limit = 0: must be at least 1"),
        ({"batch": 0}, "budget.batch = 0: must be at least 1"),
        ({"stop": ["\n\n", ""]}, r"budget.stop = ('\n\n', ''): an empty stop string"),
    ],
)
def test_values_that_a_budget_cannot_have(changes, message):
    assert budget(**changes).startswith(message)


def test_the_edges_of_a_budget():
    for changes in ({"seed": 2**64 - 1}, {"seed": 0}, {"temperature": 0}, {"top_p": 1e-6}, {"batch": 1}, {"limit": 1}):
        build(Budget, BUDGET | changes, "file.yaml")


def test_nested_records():
    got = build(
        Outer,
        {"name": "x", "inner": {"size": 2}, "inners": [{"size": 3, "kind": "b"}], "either": {"weight": 1}},
        "file.yaml",
    )
    assert got == Outer("x", Inner(2), (Inner(3, "b"),), Other(1.0))
    assert build(Outer, {"name": "x", "inner": Inner(2)}, "file.yaml").inner == Inner(2)
    assert build(Outer, {"name": "x", "inner": None, "anything": {"a": [1]}}, "file.yaml").anything == {"a": [1]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"inner": {"sizes": 2}}, "inner: unknown key 'sizes'; did you mean 'size'?"),
        ({"inner": {}}, "inner: size is missing"),
        ({"inner": {"size": "2"}}, "inner: size = '2': must be a whole number"),
        ({"inner": {"size": 2, "kind": "c"}}, "inner: kind = 'c': must be one of a, b"),
        ({"inner": 5}, "inner = 5: must be named fields or nothing"),
        ({"inners": [{"size": 1}, {"size": None}]}, "inners[1]: size = None: must be a whole number"),
        # Two records could be meant: the message stays with the whole.
        ({"either": {"wait": 1}}, "either = {'wait': 1}: must be named fields or named fields or nothing"),
    ],
)
def test_an_error_inside_names_the_field_inside(data, message):
    assert fails(Outer, {"name": "x"} | data) == f"file.yaml: {message}"


def test_nearest():
    assert nearest("tasl", ["task", "model"]) == "did you mean 'task'?"
    assert nearest("zzzz", ["task", "model"]) == "known: model, task"


def test_a_task_holds_problems_with_ids_of_their_own():
    with pytest.raises(InputError, match="holds no problems"):
        Task("t", (), "{prompt}", "math", "")
    twice = (Problem("p", "?", "1"), Problem("p", "?", "2"))
    with pytest.raises(InputError, match="id 'p' occurs twice"):
        Task("t", twice, "{prompt}", "math", "")


def test_a_trajectory_and_its_verdict_share_their_key():
    key = ("model", "task", 4, "p1", 0)
    trajectory = Trajectory(*key, 0.0, 0.1, 0.2, 8, 3, "eos", False, "", -1.0)
    assert trajectory.key == Verdict(*key, None, None, "no_answer", False).key == key


def test_records_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Problem("p", "?", "1").answer = "2"  # type: ignore[misc]
