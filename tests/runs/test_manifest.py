"""A resumed run must be the same run: the first field that differs is named, with both values."""

from __future__ import annotations

import copy

import pytest
import torch

from harness.records import InputError
from harness.runs.manifest import FIXED, LIBRARIES, check_same, commit, environment

MANIFEST = {
    "created": "2025-02-27T00:00:00+00:00",
    "commit": "abc",
    "task": {"name": "t", "sha256": "11", "prompt_template": "{prompt}", "problems": 3},
    "budget": {"seconds": [5.0, 10.0], "temperature": 0.8, "limit": None, "stop": []},
    "models": {"x": {"sha256": "22", "random": False}, "y": {"sha256": "33", "random": True}},
    "device_type": "cpu",
    "dtype": "float32",
    "state_dtype": "float32",
    "look_every": 8,
    "clock_source": "real",
    "batch": {"x": 4},
    "resumes": [],
}


def changed(path, value):
    manifest = copy.deepcopy(MANIFEST)
    *outer, last = path.split(".")
    part = manifest
    for key in outer:
        part = part[key]
    part[last] = value
    return manifest


@pytest.mark.parametrize(
    "path,value",
    [
        ("budget.temperature", 0.7),
        ("budget.seconds", [5.0]),
        ("budget.limit", 3),
        ("budget.stop", ["Q:"]),
        ("models.x.sha256", "23"),
        ("models.y.random", False),
        ("task.sha256", "12"),
        ("task.name", "other"),
        ("task.prompt_template", "{prompt}!"),
        ("task.problems", 4),
        ("device_type", "cuda"),
        ("dtype", "bfloat16"),
        ("state_dtype", "float64"),
        ("look_every", 4),
        ("clock_source", "fake"),
    ],
)
def test_the_field_that_differs_is_named(path, value):
    new = changed(path, value)
    with pytest.raises(InputError) as caught:
        check_same(MANIFEST, new, "runs/one")
    old = MANIFEST
    for key in path.split("."):
        old = old[key]
    assert str(caught.value) == (
        f"runs/one: {path} was {old!r}, is now {value!r}; resume with the same or name another --run"
    )


def test_models_that_come_or_go_are_named():
    new = copy.deepcopy(MANIFEST)
    del new["models"]["y"]
    with pytest.raises(InputError, match=r"models\.y was .*, is now None"):
        check_same(MANIFEST, new, "r")
    with pytest.raises(InputError, match=r"models\.y was None, is now"):
        check_same(new, MANIFEST, "r")


def test_what_may_change_between_two_resumes():
    new = copy.deepcopy(MANIFEST) | {"created": "later", "commit": "def+changes", "batch": {}, "resumes": ["x"]}
    new["budget"] = new["budget"] | {"seconds": (5.0, 10.0), "stop": ()}
    check_same(MANIFEST, new, "r")
    assert not {"created", "commit", "batch", "resumes", "python", "libraries"} & set(FIXED)


def test_every_number_carries_its_circumstances(monkeypatch):
    facts = environment(torch.device("cpu"))
    assert facts["device_type"] == "cpu" and facts["device"]["name"] and facts["device"]["cores"] >= 1
    assert set(facts["libraries"]) == set(LIBRARIES)
    assert facts["libraries"]["torch"] in (torch.__version__, torch.__version__.split("+")[0])
    assert facts["format"] == 1 and facts["python"].startswith("3.") and facts["created"].endswith("+00:00")
    commit.cache_clear()
    monkeypatch.setenv("HARNESS_COMMIT", "cafe")
    assert environment(torch.device("cpu"))["commit"] == "cafe"
    commit.cache_clear()
