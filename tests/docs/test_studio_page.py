"""The guide to the studio names its pages, settings and pictures as they are."""

from __future__ import annotations

import re

import pytest

from danlu.program import COMMANDS
from danlu.web.access import KEY_FILE
from danlu.web.database import FILE
from danlu.web.settings import WebSettings
from tests.helpers.page_words import Language, words
from tests.helpers.source import ROOT

PAGES = ("chat", "compare", "data", "train", "runs", "teach", "merge", "models")
GUIDES: dict[Language, str] = {"en": "studio.md", "zh": "studio.zh-CN.md"}


def guide(language: Language) -> str:
    return (ROOT / "docs" / GUIDES[language]).read_text("utf-8")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_are_those_of_the_menu(language: Language) -> None:
    t, rows = words(language), re.findall(r"^\| ([^|]+) \|", guide(language), flags=re.MULTILINE)
    assert rows[1:9] == [t(f"shell.{page}") for page in PAGES]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_it_names_is_there(language: Language) -> None:
    text = guide(language)
    (command,) = re.findall(r"```console\n(.*?)\n```", text, flags=re.DOTALL)
    assert command.split() == ["danlu", "web"]
    assert "web" in COMMANDS
    for name in re.findall(r"--(\w+)", text):
        assert name == "help" or name in WebSettings.model_fields, name
    assert f"127.0.0.1:{WebSettings().port}" in text
    for file in (FILE, KEY_FILE):
        assert f"`{file}`" in text
    for picture in re.findall(r"\]\((images/[^)]+)\)", text):
        assert (ROOT / "docs" / picture).stat().st_size < 300_000
