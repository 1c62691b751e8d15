"""Renders probes by a model folder's own chat template, in a process of its own: a script.

A template is a program of others. jinja2's sandbox keeps it from files and attributes, but not from
endless loops or from filling the memory; here that ends this process only. It runs isolated, so it
knows nothing of danlu. Standard input holds {"template": text, "probes": [variables]} as JSON;
standard output gets the texts as a JSON list, null for one that cannot be rendered.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

CPU_SECONDS = 2.0
MEMORY_BYTES = 1 << 30


def main() -> None:
    """Render what standard input holds."""
    task = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
    json.dump(rendered(task["template"], task["probes"]), sys.stdout)


def rendered(text: str, probes: list[dict[str, Any]]) -> list[str | None]:
    """Render as transformers does: the same environment, filters and functions."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(reason: str) -> None:
        raise TemplateError(reason)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    texts: list[str | None] = []
    for probe in probes:
        try:
            texts.append(environment.from_string(text).render(**probe))
        except Exception:  # foreign code, which may raise anything
            texts.append(None)
    return texts


if __name__ == "__main__":
    main()
