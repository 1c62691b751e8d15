"""Tokenizer files good and bad, and ids that are never mistaken for others."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def written(folder: Path, change: dict[str, Any]) -> Path:
    """Write the tiny tokenizer with some of its fields changed."""
    write_tiny_tokenizer(folder)
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields, **change}), encoding="utf-8")
    return folder


# What transformers leaves in the file when it saves after a call for a batch.
CUT = {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0}
PADDED = {
    "strategy": {"Fixed": 40},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}


def test_texts_are_read_whole_whatever_a_batch_left_in_the_file(
    tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    text = "What is the name of the quick brown fox? " * 3
    expected = tokenizer.encode_text(text)
    assert len(expected) > 6
    assert not caplog.messages
    for name, change in (("truncation", CUT), ("padding", PADDED)):
        loaded = Tokenizer.load(written(tmp_path / name, {name: change}))
        assert loaded.encode_text(text) == expected
        assert loaded.encode_texts([text, "a"]) == [expected, tokenizer.encode_text("a")]
        [line] = caplog.messages
        assert f"asks for {name}:" in line
        caplog.clear()


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Replace", "pattern": {"String": "H"}, "content": "x" * 1000},
        {"type": "Prepend", "prepend": "x"},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]},
        {"type": "Lowercase"},
    ],
)
def test_a_normalizer_that_rewrites_the_text_is_refused(
    tmp_path: Path, normalizer: dict[str, Any]
) -> None:
    with pytest.raises(DataError) as refused:
        Tokenizer.load(written(tmp_path, {"normalizer": normalizer}))
    assert f"{normalizer['type']}; Qwen3's is NFC" in refused.value.why


def test_a_tokenizer_without_normalizer_loads(tmp_path: Path, tokenizer: Tokenizer) -> None:
    loaded = Tokenizer.load(written(tmp_path, {"normalizer": None}))
    assert loaded.encode_text("fox") == tokenizer.encode_text("fox")


def test_a_panic_of_the_library_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As pyo3's: no Exception."""

    def panic(*_texts: Any, **_options: Any) -> Any:
        raise PanicException("called `Result::unwrap()` on an `Err` value\nwith a second line")

    panicking = SimpleNamespace(encode=panic, encode_batch_fast=panic)
    tokenizer = Tokenizer.load(folder)
    monkeypatch.setattr(tokenizer, "_backend", panicking)
    for call in (tokenizer.encode_text, tokenizer.token_starts, tokenizer.encode_texts):
        with pytest.raises(DataError, match="unwrap") as told:
            call("text")
        assert len(str(told.value).splitlines()) == 3


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
    with pytest.raises(DataError, match=r"It holds U\+D83D"):
        tokenizer.encode_text("ab\ud83d")


def test_gbk_on_standard_input_is_called_what_it_is(tokenizer: Tokenizer) -> None:
    text = "hello 你好".encode("gbk").decode("utf-8", "surrogateescape")
    with pytest.raises(DataError, match="not UTF-8") as refused:
        tokenizer.encode_text(text)
    assert "the byte 0xC4" in refused.value.why
    assert "GBK" in refused.value.why
    assert "iconv -f GB18030" in refused.value.fix


def test_long_texts_are_encoded_as_short_ones(tokenizer: Tokenizer) -> None:
    piece = "The fox 你好 🤖 <|im_end|> <think>\n"
    count = 1000  # longer than where another way is taken
    assert tokenizer.encode_text(piece * count) == tokenizer.encode_text(piece) * count
    with pytest.raises(DataError, match=r"U\+D83D"):
        tokenizer.encode_text(piece * count + "\ud83d")


def test_a_long_text_does_not_stop_other_threads(tokenizer: Tokenizer) -> None:
    """A server's event loop is one: it stood still for two seconds a million characters."""
    encoding = threading.Thread(target=tokenizer.encode_text, args=("long text " * 100_000,))
    turns = 0
    encoding.start()
    while encoding.is_alive():
        encoding.join(0.001)
        turns += 1
    assert turns > 10  # one, where the other thread keeps the interpreter to itself


def test_ids_without_a_token_have_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b""
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""


def test_decode_equals_that_of_the_library(tokenizer: Tokenizer, folder: Path) -> None:
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode_text("你好, world 🤖 <think>")
    for cut in range(len(ids) + 1):
        assert tokenizer.decode(ids[:cut]) == backend.decode(ids[:cut])
        assert tokenizer.decode(ids[cut:]) == backend.decode(ids[cut:])
