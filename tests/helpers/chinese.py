"""What a Chinese reader would not want to see on a screen of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator

from danlu.language import columns, wrapped

WIDTH = 80
CHINESE = re.compile("[\u4e00-\u9fff]")

# What is not prose: quotations, commands, flags, paths, addresses, code in brackets.
NO_PROSE = re.compile(
    r"“[^”]*”|'[^']*'|\"[^\"]*\"|`[^`]*`|<[^>]*>"
    r"|\S*danlu(?: [\w./~=,{}\"-]+)+|--?\w[\w-]*|\S*[/~_=.]\S*|ollama \w+.*|INFO GET .*"
)
SENTENCE = re.compile(r"(?<![\w-])[A-Za-z][A-Za-z'-]*(?: [A-Za-z][A-Za-z'-]*){2,}")
# Words for values that have a Chinese word, and pydantic's and gettext's nothing.
LEFT_OVER = re.compile(
    r"(?<![\w/{])(?:NAME|PATH|TEXT|INT|NUMBER|FLOAT|COMMAND|FILE|FOLDER|VALUE|KEY|DIR|RUN)(?![\w/}])"
    r"|\bNone\b|默认 null|\b(?:usage|options|positional arguments|default):"
)
# The machine's own names, and the starter's answers.
NAMES = re.compile(r"AMD EPYC[\w -]*|Intel[\w()@. -]*|Hugging Face|Apple [\w ]*|Copyright \w+")


def faults(line: str) -> Iterator[str]:
    """Say what a Chinese reader would not want to see in a line."""
    is_log = " INFO " in line  # for programs
    if columns(line) > WIDTH and not is_log and wrapped(line.strip(), WIDTH) != [line.strip()]:
        yield "too long"
    prose = NAMES.sub("", NO_PROSE.sub(" § ", line))
    if SENTENCE.search(prose):
        yield "English"
    if LEFT_OVER.search(line):
        yield "left over"
