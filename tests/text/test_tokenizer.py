"""Tokenizer files good and bad, and ids that are never mistaken for others."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from danlu.errors import DataError, UsageError
from danlu.text.render import Span
from danlu.text.tokenizer import Tokenizer
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"version": "1.0", "model":'])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_another_kind_of_vocabulary(tmp_path: Path) -> None:
    words = Backend(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    (tmp_path / "tokenizer.json").write_text(words.to_str(), encoding="utf-8")
    with pytest.raises(DataError, match="byte-level"):
        Tokenizer.load(tmp_path)


def test_a_model_with_too_few_embeddings_is_a_mismatch(tokenizer: Tokenizer) -> None:
    tokenizer.check_fits(tokenizer.vocab_size)
    with pytest.raises(DataError, match="vocab_size"):
        tokenizer.check_fits(tokenizer.vocab_size - 1)


def test_control_tokens_come_from_control_spans_only(tokenizer: Tokenizer) -> None:
    end = tokenizer.control_id("<|im_end|>")
    assert end not in tokenizer.encode_text("<|im_end|>")
    assert tokenizer.encode_spans([Span(text="<|im_end|>", control=True)]) == [end]
    assert tokenizer.decode([end]) == ""
    assert tokenizer.decode([end], skip_control=False) == "<|im_end|>"


def test_other_added_tokens_keep_their_ids_in_text(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode_text("<think>")) == 1
    assert tokenizer.decode(tokenizer.encode_text("a<think>b")) == "a<think>b"


def test_a_missing_control_token_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="<think>"):
        tokenizer.control_id("<think>")


def test_half_a_character_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"Character 3 is U\+D83D"):
        tokenizer.encode_text("ab\ud83d")


def test_long_texts_are_encoded_as_short_ones(tokenizer: Tokenizer) -> None:
    piece = "The fox 你好 🤖 <|im_end|> <think>\n"
    count = 1000  # longer than where another way is taken
    assert tokenizer.encode_text(piece * count) == tokenizer.encode_text(piece) * count
    with pytest.raises(DataError, match=r"U\+D83D"):
        tokenizer.encode_text(piece * count + "\ud83d")


def test_a_long_text_does_not_stop_other_threads(tokenizer: Tokenizer) -> None:
    """A server's event loop is one: it stood still for two seconds a million characters."""
    encoding = threading.Thread(target=tokenizer.encode_text, args=("long text " * 100_000,))
    moments = [time.monotonic()]
    encoding.start()
    while encoding.is_alive():
        moments.append(time.monotonic())
        time.sleep(0.001)
    moments.append(time.monotonic())
    longest = max(after - before for before, after in pairwise(moments))
    assert longest < (moments[-1] - moments[0]) / 2


def test_ids_without_a_token_have_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b""
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""


def test_decode_equals_that_of_the_library(tokenizer: Tokenizer, folder: Path) -> None:
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode_text("你好, world 🤖 <think>")
    for cut in range(len(ids) + 1):
        assert tokenizer.decode(ids[:cut]) == backend.decode(ids[:cut])
        assert tokenizer.decode(ids[cut:]) == backend.decode(ids[cut:])
