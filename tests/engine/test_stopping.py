"""A chain ends with the token that closes its first balanced box, or completes its first stop string."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.stopping import StopScanner


def naive_box(text: bytes) -> bool:
    """Whether the first ``\\boxed{`` of a text is closed, by reading it anew from the start."""
    at = 0
    while (at := text.find(b"\\boxed", at)) >= 0:
        i = at + 6
        while i < len(text) and text[i] in b" \n\t":
            i += 1
        if i == len(text):
            return False
        if text[i : i + 1] == b"{":
            break
        at += 1
    else:
        return False
    depth = 0
    while i < len(text):
        if text[i : i + 1] == b"\\":
            i += 2
            continue
        depth += {b"{": 1, b"}": -1}.get(text[i : i + 1], 0)
        if depth == 0:
            return True
        i += 1
    return False


def naive(tokens: list[bytes], stop: list[str], after_boxed: bool) -> tuple[int | None, bytes]:
    """Index of the ending token and the text kept: each token looked at with all the text before it."""
    text = b""
    for i, token in enumerate(tokens):
        text += token
        hits = [at for s in stop if (at := text.find(s.encode())) >= 0]
        if hits:
            return i, text[: min(hits)]
        if after_boxed and naive_box(text):
            return i, text
    return None, text


def fed(tokens, chunks, stop, after_boxed):
    """Feed in chunks of the given lengths (the last one repeats)."""
    scanner, at = StopScanner(stop, after_boxed), 0
    while at < len(tokens):
        size = chunks.pop(0) if len(chunks) > 1 else chunks[0]
        ended = scanner.feed(tokens[at : at + size])
        if ended is not None:
            return at + ended, scanner.kept()
        at += size
    return None, scanner.kept()


def ends(text: str, closes: str | None, stop=(), after_boxed=True):
    """Cut ``text`` into two tokens at every byte, and into bytes: it ends with the last byte of ``closes``."""
    data = text.encode()
    last = None if closes is None else len(closes.encode()) - 1
    one = StopScanner(stop, after_boxed)
    assert one.feed([bytes([b]) for b in data]) == last
    slow = StopScanner(stop, after_boxed)
    assert next((i for i, b in enumerate(data) if slow.feed([bytes([b])]) is not None), None) == last
    for cut in range(len(data) + 1):
        for together in (True, False):
            tokens = [data[:cut], data[cut:]]
            wanted = None if last is None else (0 if last < cut else 1)
            scanner = StopScanner(stop, after_boxed)
            if together:
                got = scanner.feed(tokens)
            else:
                got = next((i for i in (0, 1) if scanner.feed([tokens[i]]) == 0), None)
            assert got == wanted, (cut, together)


BOXES = [
    (r"so \boxed{42}. And", r"so \boxed{42}"),
    (r"\boxed{}", r"\boxed{}"),
    (r"a \boxed{\frac{1}{2}} b", r"a \boxed{\frac{1}{2}}"),
    (r"a \boxed{\{1, 2\}} b", r"a \boxed{\{1, 2\}}"),
    (r"\boxed{a\}b} c", r"\boxed{a\}b}"),
    (r"\boxed{a\\} c", r"\boxed{a\\}"),
    ("\\boxed \n\t{7} c", "\\boxed \n\t{7}"),
    (r"\boxed{1 + \boxed{2}} c", r"\boxed{1 + \boxed{2}}"),
    (r"\boxed 5, \boxed{6} c", r"\boxed 5, \boxed{6}"),
    (r"\boxed\boxed{6} c", r"\boxed\boxed{6}"),
    (r"\boxed", None),
    (r"\boxed 7 and no more", None),
    (r"\boxed{never {closed}", None),
    (r"\boxe{d} } \box{1}", None),
    (r"{x} } no box }", None),
    (r"é \boxed{½} x", r"é \boxed{½}"),
    (r"} \boxed{1}", r"} \boxed{1}"),
]


@pytest.mark.parametrize("text,closes", BOXES)
def test_boxes(text, closes):
    ends(text, closes)
    ends(text, None, after_boxed=False)


@pytest.mark.parametrize("text,closes", [("Q: x\nQ: y", "Q:"), ("no Q then", None), ("aaQ Q:", "aaQ Q:")])
def test_stop_strings_split_across_tokens(text, closes):
    ends(text, closes, stop=("Q:",), after_boxed=False)


def test_the_text_is_cut_before_the_stop_string():
    scanner = StopScanner(("\n\nQ:", "END"), False)
    assert scanner.feed([b"an", b"swer\n", b"\nQ", b": next"]) == 3
    assert scanner.kept() == b"answer"


def test_the_earliest_stop_string_wins():
    scanner = StopScanner(("two", "one"), False)
    assert scanner.feed([b"x one two"]) == 0
    assert scanner.kept() == b"x "
    overlapping = StopScanner(("bcd", "abcde"), False)
    assert overlapping.feed([b"_abcde"]) == 0
    assert overlapping.kept() == b"_"


def test_a_box_keeps_its_whole_token_and_a_stop_string_goes_before_a_later_box():
    scanner = StopScanner((), True)
    assert scanner.feed([b"\\boxed", b"{1", b"}. So"]) == 2
    assert scanner.kept() == b"\\boxed{1}. So"
    both = StopScanner(("END",), True)
    assert both.feed([b"x END \\boxed{1}"]) == 0
    assert both.kept() == b"x "
    box_first = StopScanner(("END",), True)
    assert box_first.feed([b"\\boxed{1}", b" END"]) == 0
    assert box_first.kept() == b"\\boxed{1}"


def test_nothing_asked_for_keeps_everything():
    scanner = StopScanner((), False)
    assert scanner.feed([b"\\boxed{1}", b"END"]) is None and scanner.feed([]) is None
    assert scanner.kept() == b"\\boxed{1}END"


PIECES = [b"\\boxed", b"{", b"}", b"\\", b" ", b"\n", b"box", b"ed", b"1", b"END", b"E", b"ND", b"\xc3", b"\\{", b""]


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=2)), max_size=25),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from([(), ("END",), ("END", "D1"), ("}",), ("\\boxed", " 1")]),
    st.booleans(),
)
def test_any_chunking_ends_at_the_token_of_the_naive_reference(tokens, chunks, stop, after_boxed):
    assert fed(tokens, chunks, stop, after_boxed) == naive(tokens, list(stop), after_boxed)
