r"""From the text of a chain to the answer it states, or None.

The rules, first match wins:

1. the last complete ``\boxed{...}`` (or ``\fbox``) that is not empty. Boxes joined to it in one sentence by nothing, a
   comma, "and" or "or" are parts of one answer and come out as a list: ``\boxed{1} and \boxed{2}`` is ``1, 2``. A box
   that comes "then", after a full stop, or after ``=`` corrects the one before it, and a repeated box counts once. A
   minus sign directly before a box belongs to it.
2. whatever is last of ``<answer>...</answer>``, "answer is ..." or "answer: ...", "... is the answer", ``A: ...`` on
   the last line, and ``#### ...``;
3. the value a finished closing sentence states (``closing.py``).

A box the chain was cut off in ends the text: what it would have held is not known. What follows ``</think>`` goes
before what was thought. Every rule takes its last occurrence, since chains correct themselves, and runs in time
linear in the text, whatever the text.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator

from harness.grading.closing import TAIL_CHARS, Value, closing_answer, is_join, leading_answer, listed, sentence_answer

CUES_TRIED = 4
"""Of the places where an answer is announced, how many are tried from the end until one has something to say."""
TURN_END_CHARS = 200
"""How much of the end is searched for a chat marker."""
LEAD_CHARS = 30
"""How far before "answer" is read for what makes it a heading, or the end of "is the answer"."""
SIGN_CHARS = 20
"""How far before a box its minus sign is looked for."""

_BOX = re.compile(r"\\\\?f?box(?:ed)?\s*(?=[{0-9])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_DIGITS = re.compile(r"[0-9.]*[0-9]")
_NOT_SPACE = re.compile(r"\S")
_SIGN = re.compile(r"(?:(?:[=(\[,:;$&<>]|\b(?:is|are)) {0,3}([-−]) {0,3}|(?:^|\n)([-−]))$")  # "- 5" is a list's item
_ONE_TERM = re.compile(r"[^-+,=]*")
_CUE = re.compile(
    r"answers?\**\s{0,3}(?:(?:is|are|(?:would|must|should) be)\b|:|=|(?=\$|\\[(\[]))\s{0,3}:?", re.IGNORECASE
)
_HEADING_BEGINS = re.compile(r"[#*\t ]{0,9}(?:the )?(?:final )?", re.IGNORECASE)
_HEADING_ENDS = re.compile(r"[*\t ]{0,9}(?:\n|$)")
_CUE_AFTER = re.compile(r"\bis (?:the|our|my) (?:final |correct )?$", re.IGNORECASE)
_FORMULA_END = re.compile(r"(?<!\\)(?:\$|\\[)\]])")
_VALUE_BEGINS = re.compile(r"[-+−$\\(\[{0-9.√]")
_PROSE_BEGINS = re.compile(r"(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|max|min|gcd|lcm|arc[a-z]+)\b)[A-Za-z]{3,} ")
_CLAUSE_END = re.compile(r"(?:[.;?]|!(?! *[-+*/=<>\\]))\s|\s(?:because|since|as)\s")
_TURN_END = re.compile(r"(?:<\|[a-z_]{1,20}\|>\s*(?:user|assistant|system)?|</s>|<eos>|<end_of_turn>)\s*$")
_PLEASANTRY = re.compile(r"\s*I hope (?:it|this) is correct\.?\s*$")


def extract_answer(text: str) -> str | None:
    """The answer stated in ``text``, as written there, or None where it states none."""
    text = _without_turn_end(text)
    thought, _, told = text.rpartition("</think>")
    for part in (told, text) if thought else (text,):
        answer = _marked(part)
        if answer is not None:
            return answer
    return closing_answer(_before_unfinished_box(told))


def reference_answer(text: str) -> str:
    """The answer in a field that holds a bare one, a boxed one, a sentence that states one or a whole solution."""
    answer = _marked(_without_turn_end(text))
    if answer is None and _PROSE_BEGINS.match(text):
        answer = closing_answer(text)
    return answer or text.strip()


def _marked(text: str) -> str | None:
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    text = _before_unfinished_box(text)
    found = [value for rule in (_tagged, _announced, _on_last_line, _after_hashes) if (value := rule(text)) is not None]
    return (max(found, key=lambda value: value.start).text.strip() or None) if found else None


def _boxed(text: str) -> str | None:
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    closing = _box_ends(text, boxes)
    last: list[Value] = []  # the last box and those joined to it, from the last to the first
    for box in reversed(boxes):
        start, end = _box_content(text, box, closing)
        if end is None or _NOT_SPACE.search(text, start, end) is None:
            continue
        if last and (end >= last[-1].start or not is_join(text[end : last[-1].start])):
            break
        last.append(_box_value(text, box, start, end))
    return listed(value.text for value in reversed(last)) if last else None


def _box_content(text: str, box: re.Match[str], closing: dict[int, int]) -> tuple[int, int | None]:
    start = box.end()
    if text[start] == "{":
        return start + 1, closing.get(start)
    digits = _DIGITS.match(text, start)  # \boxed 5
    return start, digits.end() if digits else None


def _box_value(text: str, box: re.Match[str], start: int, end: int) -> Value:
    content = text[start:end].strip()
    sign = _SIGN.search(text, max(0, box.start() - SIGN_CHARS), box.start())
    if sign is None:
        return Value(box.start(), end, content)
    negative = f"-{content}" if _ONE_TERM.fullmatch(content) else f"-({content})"
    return Value(sign.start(sign.lastindex or 0), end, negative)


def _box_ends(text: str, boxes: list[re.Match[str]]) -> dict[int, int]:
    """Opening brace of a box -> its closing one, in one pass (a scan for each box would be quadratic)."""
    wanted = {box.end() for box in boxes}
    closing: dict[int, int] = {}
    stack: list[int] = []
    for token in _BRACE.finditer(text, boxes[0].end()):
        if token[0] == "{":
            stack.append(token.start())
        elif token[0] == "}" and stack and (start := stack.pop()) in wanted:
            closing[start] = token.start()
    return closing


def _before_unfinished_box(text: str) -> str:
    """``text`` up to a last box that never closes: the chain was cut off in it.

    Where the formula around the box ends, the chain went on and a brace was forgotten: then without the box.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes or text[boxes[-1].end()] != "{" or _box_ends(text, boxes[-1:]):
        return text
    before, inside = text[: boxes[-1].start()], text[boxes[-1].end() + 1 :]
    return before + inside if _FORMULA_END.search(inside) else before


def _tagged(text: str) -> Value | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    content = text[start + len("<answer>") : end].strip() if start >= 0 else ""
    return Value(start, end, content) if content else None


def _announced(text: str) -> Value | None:
    tried = 0
    for start in _cue_words(text):
        lead = text[max(0, start - LEAD_CHARS) : start]
        after = _CUE_AFTER.search(lead) is not None
        cue = _CUE.match(text, start)
        end = cue.end() if cue else start + len("answer")
        if not (cue or after or _is_heading(text, start, lead)):
            continue
        answer = None if after and not cue else _after(text[end : end + TAIL_CHARS])
        answer = answer or _before(text[max(0, start - TAIL_CHARS) : start])
        if answer:
            return Value(start, end, answer)
        tried += 1
        if tried == CUES_TRIED:
            break
    return None


def _is_heading(text: str, start: int, lead: str) -> bool:
    """Whether the line around "answer" says nothing else, as in ``### Final Answer``."""
    _, newline, before = lead.rpartition("\n")
    alone = _HEADING_BEGINS.fullmatch(before) and _HEADING_ENDS.match(text, start + len("answer"))
    return bool(alone) and (bool(newline) or start <= LEAD_CHARS)


def _on_last_line(text: str) -> Value | None:
    start = text.rstrip().rfind("\n") + 1
    answer = _after(text[start + 2 : start + 2 + TAIL_CHARS]) if text.startswith("A:", start) else None
    return Value(start, start + 2, answer) if answer else None


def _cue_words(text: str) -> Iterator[int]:
    """Where the word "answer" begins, from the last to the first; found without a regular expression, for speed."""
    return (at - 1 for at in heapq.merge(_rfound(text, "nswer"), _rfound(text, "NSWER"), reverse=True) if at)


def _rfound(text: str, word: str) -> Iterator[int]:
    at = len(text)
    while (at := text.rfind(word, 0, at)) >= 0:
        yield at


def _after(rest: str) -> str | None:
    """What follows "answer is": a formula, a bare answer up to the end of its sentence, or a sentence's value."""
    rest = rest.lstrip(" *:\n\t>_`")
    formula = leading_answer(rest)
    line = rest.split("\n", 1)[0]
    line = line[: end.start()] if (end := _CLAUSE_END.search(line + " ")) else line
    line = line.strip(" *,_`").rstrip(".`")
    if formula is not None and not (re.fullmatch(r"[A-Za-z]", formula.text) and " " in line):
        return formula.text
    if re.match(r"\$?[A-Za-z]+\$? ", line):
        return sentence_answer(line) or line  # "Final answer: the largest n is 34"
    return line


def _before(text: str) -> str | None:
    """The value of the sentence that ends in "... is the answer" or "... answer:"."""
    sentence = re.split(r"\n|[.!?;]\s", text)[-1]
    return sentence_answer(sentence)


def _after_hashes(text: str) -> Value | None:
    start = text.rfind("####")
    if start < 0:
        return None
    line, _, rest = text[start + 4 : start + 4 + TAIL_CHARS].lstrip(": \t").partition("\n")
    line = line.strip()
    if not line or (rest.strip() and not _VALUE_BEGINS.match(line)):
        return None  # a heading of the fourth level
    return Value(start, start + 4, line)


def _without_turn_end(text: str) -> str:
    """``text`` without the chat marker and the pleasantry a turn may end with."""
    for sign, pattern in (("<", _TURN_END), ("I hope", _PLEASANTRY)):
        start = max(0, len(text) - TURN_END_CHARS)
        if text.find(sign, start) >= 0 and (end := pattern.search(text, start)):
            text = text[: end.start()]
    return text
