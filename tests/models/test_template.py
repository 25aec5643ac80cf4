"""Chat templates: rendered as transformers renders them, bounded in memory, time and length, and errors in one line."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from pathlib import Path

import pytest

from harness.models import template_worker
from harness.models.template import TEMPLATE_DATE, ChatTemplate, template_sha256
from harness.records import InputError

USER = [{"role": "user", "content": "x < ü"}]


def render(source, messages=USER, **special):
    return ChatTemplate(source, "model").render(messages, add_generation_prompt=True, **special)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("  {% if true %}\nyes\n  {% endif %}\nend", "yes\nend"),
        ("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}"
         "{{ i }}{% endfor %}", "0134"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "x < ü"}]'),
        ("{{ {'b': 'ü', 'a': 1} | tojson(indent=1, ensure_ascii=True, sort_keys=True) }}",
         '{\n "a": 1,\n "b": "\\u00fc"\n}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "x < ü!"),
        ("{{ tools is none }} {{ documents is defined }} {{ add_generation_prompt }}", "True True True"),
        ("{{ bos_token }}|{{ eos_token }}|{{ pad_token is defined }}", "<b>||False"),
        ("{{ strftime_now('%d %b %Y %H:%M') }}", "26 Jul 2024 00:00"),
    ],
)  # fmt: skip
def test_what_templates_may_ask_for(source, text):
    assert render(source, bos_token="<b>") == text


def test_the_date_is_the_one_that_the_manifest_names():
    assert render("{{ strftime_now('%Y-%m-%d') }}") == TEMPLATE_DATE


def test_one_template_renders_many_chats():
    template = ChatTemplate("{{ messages[0].content }}{{ add_generation_prompt }}", "model")
    for n in range(20):
        chat = [{"role": "user", "content": f"chat {n}"}]
        assert template.render(chat, add_generation_prompt=n % 2 == 0) == f"chat {n}{n % 2 == 0}"


NESTED_LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (NESTED_LOOPS, "runs for more than 2 s"),
        (DOUBLING, "needs more than 512 MiB"),
        ("{{ 'a' * 10 ** 10 }}", "needs more than 512 MiB"),
        ("{{ '%09999999999d' % 1 }}", "needs more than 512 MiB"),
        ("{% for i in range(99999) %}twelve chars{% endfor %}", "more than 1000000 characters"),
        ("{{ 'a' * 1000001 }}", "more than 1000000 characters"),
        ("{{ range(10 ** 6) }}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nests too deeply"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nests too deeply"),
        ("{% for a in 'a' %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ messages | nosuch }}", "No filter named 'nosuch'"),
        ("{% include 'other' %}", "TypeError: no loader"),
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{{ nothing.of_this }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0] + 1 }}", "TypeError"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ raise_exception.__globals__.os }}", "unsafe"),
        ("{{ strftime_now.__self__.year }}", "unsafe"),
        ("\ud800", "surrogates not allowed"),
        (r"{{ '\ud800' }}", "surrogates not allowed"),
    ],
    ids=range(23),
)
def test_a_hostile_or_broken_template_is_one_line(source, message):
    with pytest.raises(InputError) as caught:
        render(source)
    text = str(caught.value)
    assert text.startswith("model: chat template: ") and text.endswith("; mend the model's template")
    assert message in text and "\n" not in text and len(text) < 400


def test_a_template_that_failed_once_can_be_asked_again():
    template = ChatTemplate("{{ 'a' * messages[0].content | int }}", "model")
    chats = [[{"role": "user", "content": str(n)}] for n in (10**10, 10**6 + 1, 3)]
    for chat in chats[:2]:
        with pytest.raises(InputError, match="more than"):
            template.render(chat, add_generation_prompt=True)
    assert template.render(chats[2], add_generation_prompt=True) == "aaa"


def test_a_process_that_is_gone_says_so_each_time():
    template = ChatTemplate("a", "model")
    os.kill(template._process.pid, signal.SIGKILL)
    template._process.wait()
    for _ in range(2):
        with pytest.raises(InputError, match="its process ended with code -9"):
            template.render(USER, add_generation_prompt=True)


def test_the_process_ends_with_the_template():
    template = ChatTemplate("a", "model")
    process, gone = template._process, weakref.ref(template)
    assert process.poll() is None
    del template
    gc.collect()
    assert gone() is None and process.poll() is not None


def test_the_worker_takes_nothing_of_ours_along():
    """It must start in a moment and be small enough for its memory limit."""
    text = Path(template_worker.__file__).read_text(encoding="utf-8")
    assert "harness" not in text and "torch" not in text


def test_the_checksum_is_of_the_text():
    assert template_sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert ChatTemplate("a", "model").sha256 == template_sha256("a") != template_sha256("b")
