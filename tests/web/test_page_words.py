"""Both languages of the page hold the same sentences with the same fields, and none is unused."""

from __future__ import annotations

import re
import unicodedata

from tests.helpers.page_words import catalogue
from tests.helpers.source import ROOT

FIELD = re.compile(r"\{(\w+)\}")
CHINESE = re.compile("[\u4e00-\u9fff]")


def alike(english: str, chinese: str) -> bool:
    """Whether it is the name of a thing, with signs in full width, or nothing but fields."""

    def bare(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKC", FIELD.sub("", text)).lower())

    return bare(chinese) in ("", bare(english), bare(english).removesuffix("s"))


def test_both_languages_say_the_same() -> None:
    english, chinese = dict(catalogue("en")), catalogue("zh")
    assert english.keys() == chinese.keys()
    assert len(english) > 300
    del english["shell.language"]  # names the other language
    for key, text in english.items():
        assert sorted(FIELD.findall(text)) == sorted(FIELD.findall(chinese[key])), key
        assert CHINESE.search(chinese[key]) or alike(text, chinese[key]), key


def test_chinese_is_set_as_chinese() -> None:
    for key, text in catalogue("zh").items():
        bare = FIELD.sub("x", text)
        assert not re.search(r"[\u4e00-\u9fff] ?[,;:?!()](?:\s|$)", bare), key
        assert "词元" not in bare, f"{key}: token is called token, as in the terminal"


def test_no_sentence_is_unused() -> None:
    source = "\n".join(
        file.read_text("utf-8")
        for kind in ("*.svelte", "*.ts")
        for file in (ROOT / "frontend" / "src").rglob(kind)
        if "language" not in file.parts
    )
    # Keys are also put together: `runs.state_${state}`.
    built = set(re.findall(r"[`'\"]([a-z]+\.[a-z_]*)\$\{", source))
    unused = [
        key
        for key in catalogue("en")
        if f"'{key}'" not in source and not any(key.startswith(start) for start in built)
    ]
    assert not unused
