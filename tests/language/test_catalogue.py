"""The Chinese catalogue: whole, true to the English fields, compiled, and what users then see."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog

import danlu
from danlu.cli.demo import DemoSettings
from danlu.cli.generate import GenerateSettings
from danlu.cli.machine.info import InfoSettings
from danlu.cli.main import main
from danlu.cli.merge import MergeSettings
from danlu.language import _
from danlu.program import COMMANDS
from danlu.server.settings import ServeSettings
from danlu.settings.schema import Settings, options_of
from danlu.train.settings import TrainSettings
from tools import translations

CHINESE = re.compile("[\u4e00-\u9fff]")
PUNCTUATION = {
    "English mark after or before Chinese": re.compile(
        "[\u4e00-\u9fff][,.;:?!()]|[,;:?!()][\u4e00-\u9fff]"
    ),
    "space beside a Chinese mark": re.compile(" [，。；：？！（）、]|[，。；：？！（）、] "),
    "no space between Chinese and Latin": re.compile(
        "[\u4e00-\u9fff][A-Za-z0-9{]|[A-Za-z0-9}][\u4e00-\u9fff]"
    ),
}


@pytest.fixture
def in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose Chinese, whatever the machine's language is."""
    monkeypatch.setenv("DANLU_LANG", "zh")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """The catalogue as an update would write it."""
    return translations.updated_catalog()


def pairs(catalog: Catalog) -> list[tuple[str, str]]:
    """List templates with their translations."""
    return [(str(message.id), str(message.string or "")) for message in catalog if message.id]


def test_every_template_is_translated_with_its_fields(catalog: Catalog) -> None:
    assert len(catalog) > 300
    assert not translations.faults(catalog)


def test_the_files_are_up_to_date(catalog: Catalog) -> None:
    """Sentences have changed when this fails: run `python -m tools.translations`."""
    assert not translations.stale_files(catalog)


def test_punctuation(catalog: Catalog) -> None:
    faults = [
        f"{name}: {found[0]!r} in {chinese!r}"
        for _english, chinese in pairs(catalog)
        for name, pattern in PUNCTUATION.items()
        if (found := pattern.search(chinese))
    ]
    faults += [
        f"Chinese mark in {e!r}" for e, _c in pairs(catalog) if re.search("[，。；：？！]", e)
    ]
    faults += [f"{e!r} -> {c!r}" for e, c in pairs(catalog) if e.endswith(".") != c.endswith("。")]
    assert not faults, "\n".join(faults)


def test_what_to_do_is_a_sentence_or_a_command() -> None:
    source = Path(danlu.__file__).parent
    fixes = [
        word.value
        for file in source.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "fix"
        for call in ast.walk(node.value)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_"
        for word in call.args
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    ]
    assert len(fixes) > 150
    assert not [fix for fix in fixes if re.match("[a-z].* ", fix) and not fix.startswith("danlu ")]


@pytest.mark.usefixtures("in_chinese")
def test_every_template_can_be_filled_in(catalog: Catalog) -> None:
    for english, chinese in pairs(catalog):
        assert _(english) == chinese
        parts = [part for part in string.Formatter().parse(english) if part[1] is not None]
        if not all(str(name).isidentifier() for _text, name, _spec, _kind in parts):
            continue  # an example in JSON, which nobody fills in
        values = {str(name): 0.25 if spec else "值" for _text, name, spec, _kind in parts}
        assert "{" not in _(english).format(**values)


@pytest.mark.usefixtures("in_chinese")
def test_help_is_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert "用法：danlu 命令" in overview
    assert all(CHINESE.search(_(text)) and _(text) in overview for text in COMMANDS.values())
    assert main(["train", "--help"]) == 0
    assert "用您自己的数据微调模型。" in capsys.readouterr().out


@pytest.mark.usefixtures("in_chinese")
@pytest.mark.parametrize(
    "cls",
    [TrainSettings, GenerateSettings, MergeSettings, InfoSettings, DemoSettings, ServeSettings],
)
def test_every_setting_is_explained_in_chinese(cls: type[Settings]) -> None:
    texts = [cls.__doc__ or "", *(option.help for option in options_of(cls).values())]
    assert not [text for text in texts if not CHINESE.search(_(text))]


@pytest.mark.usefixtures("in_chinese")
def test_an_error_is_three_chinese_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "没有 trian 这个命令。"
    assert lines[1].startswith("可用的命令有：demo, ")
    assert lines[2] == "您是不是想运行 danlu train？"
    assert len(lines) == 3


def test_english_stays_english(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DANLU_LANG", "en")
    assert main(["--help"]) == 0
    assert not CHINESE.search(capsys.readouterr().out)


def test_faults_are_found() -> None:
    catalog = Catalog()
    catalog.add("a", "甲")
    catalog.add("empty")
    catalog.add("guessed", "猜的", flags=["fuzzy"])
    catalog.add("{name} in {file}", "{file} 里")
    catalog.add("{loss:.4f}", "{loss:.2f}")
    catalog.add("{path}", "{path")
    found = translations.faults(catalog)
    assert [text.split(": ")[0] for text in found] == [
        "not translated", "not translated", *["other fields than in English"] * 3,
    ]  # fmt: skip


def test_a_reworded_template_keeps_its_translation_as_a_guess() -> None:
    catalog = translations.StableCatalog()
    catalog.add("The folder {path} is not empty", "文件夹 {path} 不是空的")
    source = Catalog()
    source.add("The folder {path} is not empty.")
    catalog.update(source)
    message = catalog.get("The folder {path} is not empty.")
    assert message is not None
    assert message.fuzzy
    assert message.string == "文件夹 {path} 不是空的"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("_('a {b}').format(b=1)", ["a {b}"]),
        ("_(\n    'one '\n    'two'\n)", ["one two"]),
        ("x: int = option(1, 'help', position=0)", ["help"]),
        ("x: int = option(1, help='help')", ["help"]),
        ("class ChatSettings(Settings):\n    '''Chat.'''", ["Chat."]),
        ("class Other(Base):\n    '''Other.'''", []),
        ("COMMANDS = {'chat': 'talk'}", ["talk"]),
        ("_(text)\n_((cls.__doc__ or '').strip())", []),
    ],
)
def test_templates_are_collected(text: str, found: list[str]) -> None:
    collected = translations.templates(ast.parse(text), "example.py")
    assert [template for _line, template in collected] == found


@pytest.mark.parametrize(
    "text",
    [
        "_(f'a {b}')",
        "_('a ' + b)",
        "_('a {b}'.format(b=b))",
        "_('a' if b else 'c')",
        "class ChatSettings(Settings):\n    '''Chat.\n\n    More.\n    '''",
    ],
)
def test_a_text_that_no_lookup_would_find_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match=r"example\.py:1"):
        list(translations.templates(ast.parse(text), "example.py"))
