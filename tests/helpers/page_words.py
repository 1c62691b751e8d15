"""The studio's sentences in a language, by their keys, as its page has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from tests.helpers.source import ROOT

Language = Literal["en", "zh"]
_ENTRY = re.compile(r"'([\w.]+)':\s*(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")")


@lru_cache
def catalogue(language: Language) -> dict[str, str]:
    """Read all sentences of a language."""
    folder = ROOT / "frontend" / "src" / "language" / language
    text = "\n".join(file.read_text("utf-8") for file in sorted(folder.glob("*.ts")))
    return {key: (one or two).replace("\\'", "'") for key, one, two in _ENTRY.findall(text)}


def words(language: Language) -> Callable[..., str]:
    """Give what the page calls `t`: a sentence with its fields filled in."""

    def t(key: str, **fields: object) -> str:
        return re.sub(
            r"\{(\w+)\}",
            lambda found: str(fields.get(found[1], found[0])),
            catalogue(language)[key],
        )

    return t
