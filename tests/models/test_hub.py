"""Fetching from the hub: which files, and what offline looks like. No test reaches the network."""

from __future__ import annotations

import types

import pytest

from harness.models import hub
from harness.records import InputError

ALL = [".gitattributes", "README.md", "config.json", "tokenizer.json", "chat_template.jinja", "original/params.json"]


@pytest.fixture
def library(monkeypatch):
    return pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            ["model-1.safetensors", "model.safetensors.index.json", "p-1.bin", "pytorch_model.bin.index.json"],
            ["model-1.safetensors", "model.safetensors.index.json"],
        ),
        (["p-1.bin", "pytorch_model.bin.index.json"], ["p-1.bin", "pytorch_model.bin.index.json"]),
    ],
)
def test_config_tokenizer_and_one_kind_of_weights_are_fetched(library, monkeypatch, tmp_path, weights, chosen):
    asked = {}
    listing = types.SimpleNamespace(list_repo_files=lambda hub_id, revision: [*ALL, *weights])
    monkeypatch.setattr(library, "HfApi", lambda: listing)
    monkeypatch.setattr(library, "snapshot_download", lambda hub_id, **given: asked.update(given, hub_id=hub_id))
    assert hub.fetch("a/b", "v1", tmp_path) == ["config.json", "tokenizer.json", "chat_template.jinja", *chosen]
    assert (asked["hub_id"], asked["revision"], asked["local_dir"]) == ("a/b", "v1", tmp_path)
    assert asked["allow_patterns"] == ["config.json", "tokenizer.json", "chat_template.jinja", *chosen]


@pytest.mark.parametrize("raised", ["offline", "client", "name"])
def test_what_keeps_it_from_fetching_is_one_line(library, monkeypatch, tmp_path, raised):
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    client = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    error = {"offline": OfflineModeIsEnabled("off"), "client": client(" refu\nsed"), "name": HFValidationError("bad")}

    def fail(*_, **__):
        raise error[raised]

    monkeypatch.setattr(library, "HfApi", lambda: types.SimpleNamespace(list_repo_files=fail))
    with pytest.raises(InputError, match=r"^a/b: cannot be fetched \(\w+: (off|refu sed|bad)\); check the network"):
        hub.fetch("a/b", None, tmp_path)


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"reasoning-harness\[hub\]"):
        hub.fetch("a/b", None, tmp_path)
