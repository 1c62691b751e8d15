"""Sentences shown to users, in English and Chinese, through gettext.

`_("Folder {path} does not exist").format(path=path)`: the template is looked up at call time, so
the language can be chosen once the program runs. DANLU_LANG decides, then LC_ALL, LC_MESSAGES and
LANG. Code, logs and file formats stay English.
"""

from __future__ import annotations

import errno
import gettext
import os
import unicodedata
from functools import lru_cache
from pathlib import Path

LOCALE_FOLDER = Path(__file__).parent / "locale"


def chosen_language() -> str:
    """Name the language in use: `zh_CN` or `en`."""
    for name in ("DANLU_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh_CN" if value.lower().startswith("zh") else "en"
    return "en"


@lru_cache(maxsize=2)
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation("danlu", LOCALE_FOLDER, languages=[language], fallback=True)


def _(template: str) -> str:
    """Return the template in the chosen language; the English text where no translation exists."""
    return _catalogue(chosen_language()).gettext(template)


# What users meet; the other reasons stay as the system words them.
SYSTEM_REASONS = {
    errno.ENOENT: "there is no such file or folder",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "it exists already",
    errno.EACCES: "permission denied",
    errno.EPERM: "the operation is not permitted",
    errno.EROFS: "the disk can only be read",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk failed to read or write",
    errno.ELOOP: "its links lead in a circle",
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "this machine does not have the address",
}


def system_reason(fault: OSError) -> str:
    """Say in the chosen language why the operating system refused."""
    reason = SYSTEM_REASONS.get(fault.errno or 0)
    return _(reason) if reason else fault.strerror or str(fault)


def columns(text: str) -> int:
    """Count the columns that a text takes in a terminal; a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
