"""Any sequence classifier of Hugging Face as a reward model, through transformers (an optional extra).

With a chat template the problem is the user's turn and the solution the assistant's; without one they are a pair, as
the tokenizer joins pairs. One output: its logit, or the logit's sigmoid (the probability that a Bradley-Terry model
gives the solution against one of logit 0). Several: those of one label, as logit or as softmax probability. Code from
a checkpoint is never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.models.checkpoints.source import weight_files
from harness.models.template import ChatTemplate
from harness.records import InputError, nearest
from harness.rewards.dialogue import DialogueEncoder, plain_tokenizer, special_tokens
from harness.rewards.scorer import Encoded, Scored, Value, digest, right_padded


class Classifier:
    """``model`` and ``tokenizer`` as transformers' auto classes give them."""

    def __init__(
        self, model: Any, tokenizer: Any, name: str, sha256: str, value: Value, label: str | None, device: torch.device
    ) -> None:
        self.name, self.sha256 = name, sha256
        self._model, self._value, self._device = model, value, device
        self._label = _label_index(model.config, label, name)
        self._takes_types = getattr(model.config, "type_vocab_size", 1) > 1
        backend = tokenizer.backend_tokenizer
        self._own_pad = tokenizer.pad_token_id
        self._specials = sorted(special_tokens(backend).values())
        self._plain = plain_tokenizer(backend, name)
        self._dialogue = None
        if tokenizer.chat_template is not None:
            special = {n: text for n, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
            template = ChatTemplate(tokenizer.chat_template, name)
            self._dialogue = DialogueEncoder(backend, template, special, name)
        limits = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
        # transformers says "no limit" with a number of thirty digits.
        known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 1 << 40]
        self.context = min(known, default=None)

    @classmethod
    def load(
        cls, folder: Path, value: Value, label: str | None, dtype: torch.dtype, device: torch.device
    ) -> Classifier:
        try:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
        except ImportError as error:
            raise InputError(
                f"--kind classifier needs transformers ({error}); pip install 'reasoning-harness[transformers]'"
            ) from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, found = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        except Exception as error:  # the libraries beneath raise kinds of their own, plain Exception among them
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"--reward {folder}: transformers cannot load a classifier from it: {reason}") from error
        if missing := sorted(found["missing_keys"]):
            raise InputError(
                f"--reward {folder}: no weights for {', '.join(missing[:3])}, which would be random; give a model that"
                " was trained as a classifier"
            )
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise InputError(f"--reward {folder}: no tokenizer.json can be made of its tokenizer; convert it first")
        model = model.to(device).eval().requires_grad_(False)
        name, sha256 = folder.resolve().name, digest(weight_files(folder))
        return cls(model, tokenizer, name, sha256, value, label, device)

    def encode(self, question: str, solution: str) -> Encoded:
        if self._dialogue is not None:
            turns = (("user", question.strip()), ("assistant", solution.strip()))
            ids, types = self._dialogue.encode(turns)[0], None
        else:
            pair = self._plain.encode(question, solution)
            ids, types = pair.ids, np.array(pair.type_ids, dtype=np.int32)
        fits = self.context is None or len(ids) <= self.context
        return Encoded(np.array(ids, dtype=np.int32), types=types, readable=fits)

    @torch.inference_mode()
    def score(self, batch: Sequence[Encoded]) -> list[Scored]:
        pad = self._padding(batch)
        tokens = right_padded([e.tokens for e in batch], pad, self._device)
        lengths = torch.tensor([[len(e.tokens)] for e in batch], device=self._device)
        given = {
            "input_ids": tokens,
            "attention_mask": (torch.arange(tokens.shape[1], device=self._device) < lengths).long(),
        }
        types = [e.types for e in batch if e.types is not None]
        if self._takes_types and types:
            given["token_type_ids"] = right_padded(types, 0, self._device)
        self._model.config.pad_token_id = pad
        logits = self._model(**given).logits.double()
        if self._value == "logit":
            values = logits[:, self._label]
        elif logits.shape[1] == 1:
            values = logits[:, 0].sigmoid()
        else:
            values = logits.softmax(dim=-1)[:, self._label]
        return [Scored(value) for value in values.tolist()]

    def _padding(self, batch: Sequence[Encoded]) -> int:
        """A token that no row holds: decoders take the last token that is not padding for the end of the text."""
        used = set(np.unique(np.concatenate([e.tokens for e in batch])).tolist())
        if self._own_pad is not None and self._own_pad not in used:
            return int(self._own_pad)
        candidates = (t for t in (*self._specials, *range(len(used) + 1)) if t not in used)
        return next(candidates)


def _label_index(config: Any, label: str | None, where: str) -> int:
    names = {str(name): int(i) for i, name in config.id2label.items()}
    if label is not None:
        if label not in names:
            raise InputError(f"--label {label!r}: {where} has no such label; {nearest(label, names)}")
        return names[label]
    if len(names) > 1:
        raise InputError(f"{where} has {len(names)} labels; say with --label which is the score: {', '.join(names)}")
    return 0
