"""Sentences shown to users, in English and Chinese, through gettext.

`_("Folder {path} does not exist").format(path=path)`: the template is looked up at call time, so
the language can be chosen once the program runs. DANLU_LANG decides, then LC_ALL, LC_MESSAGES and
LANG. Code, logs and file formats stay English.
"""

from __future__ import annotations

import gettext
import os
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
