"""The process in which chat templates run: ``python -P template_worker.py``, which imports jinja2 and nothing of ours.

A template is foreign code. jinja2's sandbox keeps it from Python's internals, not from endless loops or endless text,
and constants are folded as early as when it is compiled; so the kernel bounds this process's memory and processor time.
One JSON object a line, in and out: first {"template", "date"} -> {}, then {"messages", "add_generation_prompt",
"special"} -> {"text"}; {"error"} for either. It ends when its input does.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import sys
import time
from typing import Any

import jinja2
import jinja2.debug  # imported late otherwise, when a template has failed, perhaps for want of memory
import jinja2.ext
import jinja2.sandbox

MEMORY_LIMIT_BYTES = 512 * 2**20
CPU_LIMIT_S = 2
"""Of one line; the kernel counts whole seconds, so it may be one less."""
MAX_CHARS = 1_000_000
"""Of one rendered chat: more than the longest context here, 131072 tokens, can hold."""
_MAX_ERROR_CHARS = 300


class _Generation(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}`` marks what is trained on; rendered, it is its body."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compiled(template: str, date: datetime.date) -> jinja2.Template:
    """The template in the environment that transformers gives it, but for ``strftime_now``, which knows one day."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **given: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **given)

    template.encode()
    midnight = datetime.datetime.combine(date, datetime.time())
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": midnight.strftime}
    return environment.from_string(template)


def rendered(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """The text, piece by piece, so that one too long is given up while it grows."""
    pieces, chars = [], 0
    for piece in template.generate(variables):
        chars += len(piece)
        if chars > MAX_CHARS:
            raise ValueError(f"more than {MAX_CHARS} characters")
        pieces.append(piece)
    text = "".join(pieces)
    text.encode()  # half a surrogate pair, which JSON can hold, is no text
    return text


def _cap(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends this process
    _cap(resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)
    _cap(resource.RLIMIT_CORE, 0)
    _cap(resource.RLIMIT_FSIZE, 0)
    template: jinja2.Template | None = None
    for line in sys.stdin:
        _cap(resource.RLIMIT_CPU, int(time.process_time()) + CPU_LIMIT_S)
        answer: dict[str, str] = {}
        try:
            asked = json.loads(line)
            if template is None:
                template = compiled(asked["template"], datetime.date.fromisoformat(asked["date"]))
            else:
                # Absent ones are None, not undefined: templates ask whether there are tools, and which.
                special = asked.pop("special")
                answer["text"] = rendered(template, {"tools": None, "documents": None, **special, **asked})
        except MemoryError:
            answer = {"error": f"needs more than {MEMORY_LIMIT_BYTES >> 20} MiB"}
        except RecursionError:
            answer = {"error": "nests too deeply"}
        except Exception as error:  # a template can raise whatever Python's operators and methods can
            kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            answer = {"error": (kind + " ".join(str(error).split()))[:_MAX_ERROR_CHARS]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
