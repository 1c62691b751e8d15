"""Sentences shown to users, in English and Chinese, through gettext.

`_("Folder {path} does not exist").format(path=path)`: the template is looked up at call time, so
the language can be chosen once the program runs. DANLU_LANG decides, then LC_ALL, LC_MESSAGES and
LANG. What is done for a page is said in the page's language (`speak`). Code, logs and file formats
stay English.
"""

from __future__ import annotations

import gettext
import os
import re
import unicodedata
from collections.abc import Iterator
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

LOCALE_FOLDER = Path(__file__).parent / "locale"
_asked: ContextVar[str] = ContextVar("asked", default="")


def chosen_language() -> str:
    """Name the language in use: `zh_CN` or `en`."""
    if asked := _asked.get():
        return asked
    for name in ("DANLU_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh_CN" if value.lower().startswith("zh") else "en"
    return "en"


def speak(wanted: str) -> None:
    """Use a language, such as `zh-CN`, from here on in this task, and in what it begins."""
    _asked.set("zh_CN" if wanted.lower().startswith("zh") else "en")


@lru_cache(maxsize=2)
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation("danlu", LOCALE_FOLDER, languages=[language], fallback=True)


def _(template: str) -> str:
    """Return the template in the chosen language; the English text where no translation exists."""
    return _catalogue(chosen_language()).gettext(template)


def joined(*sentences: str) -> str:
    """Put whole sentences behind each other; Chinese ones need no space between them."""
    return "".join(
        sentence if sentence.endswith("。") else f"{sentence} " for sentence in sentences
    ).rstrip()


def columns(text: str) -> int:
    """Count the columns that a text takes in a terminal; a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, width: int) -> str:
    """Fill a text up with spaces to `width` columns, at least one."""
    return text + " " * max(1, width - columns(text))


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text into lines of at most `width` columns, the later ones behind `indent`.

    Breaks at spaces and after any wide character, as Chinese is set, never before its
    punctuation or behind what opens a bracket. A command of danlu's stays whole, so that it can be
    copied; like any other word it may then be longer than the line.
    """
    own = text[: len(text) - len(text.lstrip(" "))]
    lines = [own]
    for piece in _pieces(text[len(own) :]):
        line = lines[-1] + piece
        if columns(line.rstrip()) > width and lines[-1].strip():
            lines.append(own + indent)
        lines[-1] += piece
    return [line.rstrip() for line in lines]


_OPENS, _CLOSES = "（“《", "，。；：、！？）”》"
_WIDE = "\u2e80-\u9fff\uf900-\ufaff"
# Those of the shell go on to the end of the line, where they stand.
_OF_THE_SHELL = (
    r"(?:^|(?<=[:：]) ?)(?:\(umask|curl|iconv|ollama|pip|rm|mv|source|ls|df|sh|bash"
    r"|[A-Z_]+=\S+ (?:\S*/)?danlu) .*$"
)
# As shlex.quote writes what a shell would read otherwise: names with blanks or Chinese.
_QUOTED = r"""'[^']*'(?:"'"'[^']*')*"""
_COMMAND = re.compile(
    rf"{_OF_THE_SHELL}"
    rf"|(?:cd (?:{_QUOTED}|\S+) && )?(?:'[^']*/danlu'|(?:[^\s{_WIDE}{_CLOSES}]*/)?danlu)"
    rf"(?: [a-z]+){{1,2}}"
    rf"(?: -[\w-]+(?: (?:{_QUOTED}|[^\s{_WIDE}{_CLOSES}-][^\s{_WIDE}{_CLOSES}]*))?"
    rf"| {_QUOTED}"
    rf"| [^\s{_WIDE}{_CLOSES}]*[/._=][^\s{_WIDE}{_CLOSES}]*| [A-Z_]{{2,}})*"
    rf"[{_CLOSES}.,;)]*[ ]*"
)
_UNBROKEN = re.compile(
    rf"[{_OPENS}]*(?:[{_WIDE}]|[^\s{_WIDE}{_OPENS}{_CLOSES}]+)[{_CLOSES}]*[ ]*"
    rf"|[{_OPENS}{_CLOSES}]|\s+"
)


def _pieces(text: str) -> Iterator[str]:
    """Take a text apart where a line may end."""
    at = 0
    for command in _COMMAND.finditer(text):
        yield from _UNBROKEN.findall(text[at : command.start()])
        yield command[0]
        at = command.end()
    yield from _UNBROKEN.findall(text[at:])
