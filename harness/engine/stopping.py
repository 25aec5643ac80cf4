"""Where a chain ends by its text: at a stop string, or with the token that closes its first balanced box.

Bytes are fed token by token and looked at once; brace counting skips ``\\{`` and ``\\}``.
"""

from __future__ import annotations

from collections.abc import Sequence

_BOX = b"\\boxed"


class StopScanner:
    """Takes a chain's tokens as they come and says which of them ends it."""

    def __init__(self, stop: Sequence[str], after_boxed: bool) -> None:
        self.stop = [s.encode() for s in stop]
        self.after_boxed = after_boxed
        self.text = bytearray()
        self.cut: int | None = None
        self._box_from = 0  # where to look for the first box
        self._at: int | None = None  # inside the box: next byte to look at
        self._depth = 0

    def feed(self, tokens: Sequence[bytes]) -> int | None:
        """Take the bytes of some tokens; the index of the one that ends the chain (later ones are dropped)."""
        if not self.stop and self._at is None and self.after_boxed:
            self.text += (chunk := b"".join(tokens))
            # The common case in one search: no box has begun.
            if self.text.find(_BOX, self._box_from) < 0:
                self._box_from = max(self._box_from, len(self.text) - len(_BOX) + 1)
                return None
            del self.text[len(self.text) - len(chunk) :]
        elif not self.stop and not self.after_boxed:
            self.text += b"".join(tokens)
            return None
        return next((i for i, token in enumerate(tokens) if self._feed(token)), None)

    def _feed(self, token: bytes) -> bool:
        before = len(self.text)
        self.text += token
        return (bool(self.stop) and self._stop_string(before)) or (self.after_boxed and self._box_closed())

    def kept(self) -> bytes:
        """The chain's text: without the stop string that ended it."""
        return bytes(self.text if self.cut is None else self.text[: self.cut])

    def _stop_string(self, before: int) -> bool:
        found = [self.text.find(s, max(0, before - len(s) + 1)) for s in self.stop]
        hits = [at for at in found if at >= 0]
        if hits:
            self.cut = min(hits)
        return bool(hits)

    def _box_closed(self) -> bool:
        text = self.text
        while True:
            if self._at is None and not self._enter_box():
                return False
            assert self._at is not None
            while self._at < len(text):
                byte = text[self._at]
                if byte == 0x5C:  # a backslash takes the next byte with it
                    if self._at + 1 == len(text):
                        return False
                    self._at += 2
                    continue
                self._at += 1
                self._depth += (byte == 0x7B) - (byte == 0x7D)
                if self._depth == 0:
                    return True
            return False

    def _enter_box(self) -> bool:
        """Find ``\\boxed``, spaces, ``{`` and stand on the brace."""
        while True:
            at = self.text.find(_BOX, self._box_from)
            if at < 0:
                self._box_from = max(self._box_from, len(self.text) - len(_BOX) + 1)
                return False
            brace = at + len(_BOX)
            while brace < len(self.text) and self.text[brace] in b" \n\t":
                brace += 1
            if brace == len(self.text):
                self._box_from = at
                return False
            if self.text[brace] == 0x7B:
                self._at, self._depth = brace, 0
                return True
            self._box_from = at + 1
