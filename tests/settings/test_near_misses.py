"""What a beginner types wrong is answered with what to type, in the language of the user."""

from __future__ import annotations

import re

import pytest

from danlu.cli.main import help_text as help_of_all
from danlu.errors import UsageError
from danlu.language import columns
from danlu.settings.resolve import resolve
from danlu.settings.show import help_text
from danlu.train.settings import TrainSettings


def refusal(*words: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(TrainSettings, ["--dataset", "d", "--output_dir", "o", *words], {})
    return caught.value


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("epoch", "num_train_epochs"),
        ("epochs", "num_train_epochs"),
        ("batch_size", "per_device_train_batch_size"),
        ("lr", "learning_rate"),
        ("rank", "lora_rank"),
        ("learning_rat", "learning_rate"),
    ],
)
def test_a_part_of_a_name_leads_to_the_name(flag: str, meant: str) -> None:
    assert meant in refusal(f"--{flag}", "3").fix


@pytest.mark.parametrize(
    "word", ["－－max_steps", "—max_steps", "——max-steps", "–max_steps=3", "−max_steps＝3"]
)
def test_dashes_of_a_chinese_keyboard_are_named(word: str) -> None:
    fault = refusal(word)
    assert "hyphens" in fault.why
    assert re.search(r"--max.steps", fault.fix)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--learning_rate", "高"], "必须是数字"),
        (["--max_steps", "1.5"], "必须是整数"),
        (["--max_steps", "十"], "必须是整数"),
        (["--template", "qwen"], "必须是下面列出的值之一"),
        (["--learning_rate", "-1"], "必须"),
        (["nosuch.yaml"], "没有这个文件或文件夹"),
    ],
)
def test_rules_are_in_chinese(words: list[str], rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_LANG", "zh")
    with pytest.raises(UsageError) as caught:
        resolve(TrainSettings, words, {})
    assert rule in caught.value.why
    assert not re.search(r"[a-z]+ [a-z]+ [a-z]+", caught.value.why)


@pytest.mark.parametrize("width", ["44", "50", "60", "80", "100"])
def test_lines_of_the_chinese_help_break_as_chinese_is_set(
    width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANLU_LANG", "zh")
    monkeypatch.setenv("COLUMNS", width)
    text = help_text(TrainSettings, "train")
    assert "（默认" in text
    for line in text.splitlines():
        assert line.strip()[:1] not in tuple("，。；：、！？）”"), line
        assert line[-1:] not in tuple("（“"), line
        # The names of choices are longer than a line may be.
        assert columns(line) <= int(width) or line.lstrip().startswith("--"), line


def test_of_the_overview_only_the_list_of_commands_is_indented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    listing, end = help_of_all().split("\n\n")[2:]
    assert all(re.match(r"  \w| {12}\w", line) for line in listing.splitlines())
    assert not [line for line in end.splitlines() if line.startswith(" ")]
