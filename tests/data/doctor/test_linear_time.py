"""Files that cost the square of their size elsewhere: the check takes a time that grows with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.data.doctor.check import check_data
from danlu.data.settings import DataSettings
from danlu.text.tokenizer import Tokenizer
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer
from tests.helpers.timing import grows_at_most, processor_time


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    return Tokenizer.load(folder)


def near_duplicates(size: int) -> str:
    """Rows that are the same but for their ends."""
    same = "the same question in many words, " * 4
    rows = ({"instruction": f"{same}{n}", "output": f"{same}{n}"} for n in range(size))
    return "".join(json.dumps(row) + "\n" for row in rows)


def quoted_table(size: int) -> str:
    """One field of a table, with quotation marks, commas and new lines without end."""
    return 'instruction,output\n"' + 'He says ""no"",\n' * size + '",ok\n'


def open_quotation(size: int) -> str:
    """A quotation mark that is never closed: all that follows is one field."""
    return 'instruction,output\n"' + "question,answer\n" * size


def long_text(size: int) -> str:
    return json.dumps({"instruction": "a word and more " * size, "output": "ok"})


def text_without_spaces(size: int) -> str:
    return json.dumps({"instruction": "ab" * size, "output": "好" * size})


def blanks(size: int) -> str:
    return json.dumps({"instruction": " \n" * size, "output": "ok"})


@pytest.mark.parametrize(
    ("content", "suffix", "size"),
    [
        (near_duplicates, ".jsonl", 400),
        (quoted_table, ".csv", 10_000),
        (open_quotation, ".csv", 60_000),
        (long_text, ".jsonl", 15_000),  # with four times as many nearly a million characters
        (text_without_spaces, ".jsonl", 80_000),
        (blanks, ".jsonl", 30_000),
    ],
)
def test_the_time_grows_with_the_size(
    tmp_path: Path, tokenizer: Tokenizer, content: Callable[[int], str], suffix: str, size: int
) -> None:
    def seconds(size: int) -> float:
        file = tmp_path / f"{size}{suffix}"
        file.write_text(content(size), encoding="utf-8")
        settings = DataSettings(dataset=str(file), cutoff_len=64, overwrite_cache=True)
        with processor_time() as spent:
            check_data(settings, tokenizer)
        return spent.seconds

    seconds(size // 10)  # what is done once
    # Four times as much: a time that grows with the square would be 16 times as long.
    assert grows_at_most(seconds, size, 4 * size, factor=10)
