"""Checkpoints from the Hugging Face hub, into a folder; a fetch that was cut off goes on where it stopped."""

from __future__ import annotations

import logging
from pathlib import Path

from harness.records import InputError

_WANTED = (".json", ".safetensors", ".jinja")
_ONLINE = "check the network, the name and HF_TOKEN, or copy the folder here by hand"


def fetch(hub_id: str, revision: str | None, folder: Path) -> list[str]:
    """Bring config, weights and tokenizer of ``hub_id`` at ``revision`` into ``folder``; the names of the files.

    Pickled weights are fetched only where there are no others. InputError offline or without huggingface_hub.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise InputError(
            f"fetching needs the package huggingface_hub ({error}); pip install 'reasoning-harness[hub]'"
        ) from error
    # What the library raises of its own, and what the HTTP client beneath it does, which changes with its version.
    raised = [kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception)]
    of_client = [kind for kind in raised if kind.__name__ == "HTTPError"]
    expected: tuple[type[Exception], ...] = (OSError, ValueError, *of_client)
    # It tells of each of its own retries; the error at their end is enough.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        names = huggingface_hub.HfApi().list_repo_files(hub_id, revision=revision)
        chosen = _chosen(names)
        huggingface_hub.snapshot_download(hub_id, revision=revision, local_dir=folder, allow_patterns=chosen)
    except expected as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{hub_id}: cannot be fetched ({reason}); {_ONLINE}") from error
    finally:
        logger.setLevel(level)
    return chosen


def _chosen(names: list[str]) -> list[str]:
    # The original checkpoints some repositories hold once more lie in folders of their own.
    top = [name for name in names if "/" not in name]
    weights = ".safetensors" if any(name.endswith(".safetensors") for name in top) else ".bin"
    chosen = [name for name in top if name.endswith((*_WANTED, weights))]
    return [name for name in chosen if not (weights == ".safetensors" and name.endswith(".bin.index.json"))]
