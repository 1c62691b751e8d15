"""Rows to tokens: the same in any batches, with and without the cache, whatever happens to it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import tracemalloc
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.data.datasets import Row, find_datasets, rows_of
from danlu.data.findings import Finding
from danlu.data.tokens import token_cache
from danlu.data.tokens import tokenizing as tokenized
from danlu.data.tokens.examples import Rendering, tokenize_row
from danlu.data.tokens.pack import pack
from danlu.data.tokens.token_table import TokenizedData, TokenizedRows
from danlu.data.tokens.tokenizing import tokenize_datasets, tokenize_rows
from danlu.errors import UsageError
from danlu.text.conversation import Conversation, Message
from danlu.text.tokenizer import Tokenizer
from tests.helpers.conversations import conversations
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer
from tests.helpers.timing import processor_time

RENDERING = Rendering(template="qwen3", enable_thinking=True, cutoff_len=60)
BAD = Finding(place="bad:1", kind="broken_line", what="It is broken.", fix="Mend it.")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    return Tokenizer.load(folder)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Forty rows: some over the cutoff, one empty, one with a control token's name in it."""
    rows = [{"instruction": f"Fox {n}? " * (n % 9), "output": f"Yes {n}."} for n in range(1, 41)]
    rows[4]["output"] = "<|im_end|>"
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read(file: Path, tokenizer: Tokenizer, cache: Path | None, **changes: object) -> TokenizedData:
    overwrite = bool(changes.pop("overwrite", False))
    rendering = replace(RENDERING, **changes)  # type: ignore[arg-type]
    datasets = find_datasets(str(file), file.parent, max_samples=None, seed=42)
    if cache is None:
        return tokenize_rows(rows_of(datasets), tokenizer, rendering)
    return tokenize_datasets(datasets, tokenizer, rendering, cache=cache, overwrite=overwrite)


def every_row(data: TokenizedData) -> TokenizedRows:
    return TokenizedRows(data, np.arange(data.num_rows))


def same(left: TokenizedData, right: TokenizedData) -> bool:
    return all(
        np.array_equal(getattr(left, field.name), getattr(right, field.name))
        if isinstance(getattr(left, field.name), np.ndarray)
        else getattr(left, field.name) == getattr(right, field.name)
        for field in fields(TokenizedData)
    )


@given(
    items=st.lists(conversations | st.just(None), max_size=12),
    batch_rows=st.integers(1, 5),
    limit=st.integers(20, 200),
)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_batches_change_nothing(
    tokenizer: Tokenizer, items: list[Conversation | None], batch_rows: int, limit: int
) -> None:
    rows: list[Row | Finding] = [
        BAD if item is None else Row(place=f"a:{n}", conversation=item)
        for n, item in enumerate(items)
    ]
    rendering = replace(RENDERING, cutoff_len=limit)
    data = tokenize_rows(rows, tokenizer, rendering, batch_rows=batch_rows)
    assert same(data, tokenize_rows(rows, tokenizer, rendering, batch_rows=1000))
    assert [row.place for row in rows] == list(data.places)
    for item, examples, length in zip(items, every_row(data), data.lengths, strict=True):
        alone = [] if item is None else tokenize_row(item, tokenizer, rendering)
        assert max((len(example.tokens) for example in alone), default=0) == length
        if length <= limit:
            assert [e.tokens.tolist() for e in examples] == [e.tokens.tolist() for e in alone]
            assert [e.supervised.tolist() for e in examples] == [
                e.supervised.tolist() for e in alone
            ]
    batches = pack([example for row in every_row(data) for example in row], limit)
    assert sum(len(batch.tokens) for batch in batches) == len(data.tokens)


def test_every_row_keeps_its_number(tokenizer: Tokenizer) -> None:
    row = Conversation(
        messages=(Message(role="user", content="Q"), Message(role="assistant", content="A"))
    )
    items = [Row(place="a:1", conversation=row), BAD, Row(place="a:3", conversation=row)]
    data = tokenize_rows(items, tokenizer, RENDERING)
    assert [len(examples) for examples in every_row(data)] == [1, 0, 1]
    assert every_row(data)[2][0].row == 2
    assert data.usable(np.array([2, 1, 0])).tolist() == [2, 0]
    assert data.row_digests[0] == data.row_digests[2] != data.row_digests[1] == 0
    assert data.findings == (BAD,)


def test_half_a_character_costs_only_its_row(tokenizer: Tokenizer) -> None:
    items = [
        Row(
            place=f"a:{n}",
            conversation=Conversation(
                messages=(
                    Message(role="user", content="Q"),
                    Message(role="assistant", content=text),
                )
            ),
        )
        for n, text in enumerate(("good", "\ud83d", "good"))
    ]
    data = tokenize_rows(items, tokenizer, RENDERING)
    assert [len(examples) for examples in every_row(data)] == [1, 0, 1]
    assert [(finding.place, finding.kind) for finding in data.findings] == [
        ("a:1", "lone_surrogate")
    ]


def test_an_unknown_template_is_refused(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="unknown"):
        read(rows_file, tokenizer, tmp_path / "cache", template="llama3")


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.is_dir() else []


def test_the_cache_gives_the_same(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    plain = read(rows_file, tokenizer, None)
    assert {finding.kind for finding in plain.findings} == {
        "control_token_text",
        "empty_question",
        "shortened",
    }
    assert same(read(rows_file, tokenizer, cache), plain)
    monkeypatch.setattr(tokenized, "tokenize_rows", None)
    assert same(read(rows_file, tokenizer, cache), plain)
    assert len(entries(cache)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"template": "qwen3_nothink"},
        {"enable_thinking": None},
        {"mask_history": True},
        {"train_on_prompt": True},
        {"cutoff_len": 61},
        {"overlong": "drop"},
    ],
)
def test_other_settings_have_another_entry(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path, changes: dict[str, object]
) -> None:
    cache = tmp_path / "cache"
    read(rows_file, tokenizer, cache)
    assert same(
        read(rows_file, tokenizer, cache, **changes), read(rows_file, tokenizer, None, **changes)
    )
    assert len(entries(cache)) == 2


def test_other_content_and_another_tokenizer_have_another_entry(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    read(rows_file, tokenizer, cache)
    text = rows_file.read_text(encoding="utf-8")
    rows_file.write_text(text.replace("Fox 3", "Fix 3"), encoding="utf-8")
    assert same(read(rows_file, tokenizer, cache), read(rows_file, tokenizer, None))
    assert len(entries(cache)) == 2
    write_tiny_tokenizer(tmp_path / "other", vocab_size=300)
    other = Tokenizer.load(tmp_path / "other")
    assert same(read(rows_file, other, cache), read(rows_file, other, None))
    assert len(entries(cache)) == 3


def test_a_damaged_entry_is_made_anew_and_said(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    good = read(rows_file, tokenizer, cache)
    tokens = entries(cache)[0] / "tokens"
    data = bytearray(tokens.read_bytes())
    data[10] ^= 1
    tokens.write_bytes(data)
    again = read(rows_file, tokenizer, cache)
    note = again.findings[-1]
    assert (note.kind, note.severity) == ("cache_damaged", "note")
    assert "tokens" in note.what
    assert same(replace(again, findings=again.findings[:-1]), good)
    assert same(read(rows_file, tokenizer, cache), good)


def test_overwrite_makes_it_anew(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    good = read(rows_file, tokenizer, cache)
    made: list[int] = []

    def counted(*arguments: object, **options: object) -> TokenizedData:
        made.append(1)
        return tokenize_rows(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tokenized, "tokenize_rows", counted)
    assert same(read(rows_file, tokenizer, cache, overwrite=True), good)
    assert made == [1]
    assert len(entries(cache)) == 1


def test_a_file_that_changes_meanwhile_is_not_kept(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(*arguments: object, **options: object) -> TokenizedData:
        with rows_file.open("a", encoding="utf-8") as file:
            file.write('{"instruction": "late", "output": "row"}\n')
        return tokenize_rows(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tokenized, "tokenize_rows", changing)
    read(rows_file, tokenizer, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_stops_nothing(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    data = read(rows_file, tokenizer, tmp_path / "cache")
    assert data.findings[-1].kind == "cache_not_written"
    assert len(data.tokens)


def test_old_entries_go_when_there_are_too_many(
    rows_file: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    read(rows_file, tokenizer, cache, cutoff_len=50)
    (first,) = entries(cache)
    size = sum(file.stat().st_size for file in first.iterdir())
    monkeypatch.setattr(token_cache, "MOST_BYTES", int(2.5 * size))
    for cutoff in (51, 52, 53):
        read(rows_file, tokenizer, cache, cutoff_len=cutoff)
    left = entries(cache)
    assert len(left) == 2
    assert first not in left


def _tokenize(file: Path, folder: Path, cache: Path, results: multiprocessing.Queue[int]) -> None:
    data = read(file, Tokenizer.load(folder), cache, overwrite=True)
    results.put(int(data.tokens.sum()))


def test_two_processes_at_once(rows_file: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    arguments = (rows_file, tokenizer.path.parent, cache, results)
    processes = [context.Process(target=_tokenize, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    sums = {results.get(timeout=60) for _process in processes}
    for process in processes:
        process.join()
    expected = read(rows_file, tokenizer, None)
    assert sums == {int(expected.tokens.sum())}
    assert same(read(rows_file, tokenizer, cache), expected)
    assert [path.name for path in cache.iterdir()] == [entries(cache)[0].name]


# FORMAT of the cache -> what these rows give with it.
# 3: a row of very many answers is a finding; these rows have few.
# 4: rows of an array on one line have places of their own; these rows come from no file.
KNOWN = {2: "0a3ee45ca61ef701", 3: "0a3ee45ca61ef701", 4: "0a3ee45ca61ef701"}


def test_other_tokens_need_another_format(tokenizer: Tokenizer) -> None:
    """When this fails, tokens have changed for the same files: raise FORMAT, add its digest."""
    long = "The quick brown fox. " * 30
    thinking = Message(role="assistant", content="Yes.", reasoning=long)
    asked = Message(role="user", content=long)
    rows = [
        Row(place=f"a:{n}", conversation=Conversation(messages=messages))
        for n, messages in enumerate(((asked, thinking), (asked, thinking, asked, thinking)))
    ]
    digest = hashlib.sha256()
    for overlong in ("cut", "llamafactory"):
        for thinks in (True, False, None):
            rendering = replace(
                RENDERING, enable_thinking=thinks, overlong=overlong, train_on_prompt=True
            )
            data = tokenize_rows(rows, tokenizer, rendering)
            for array in (data.tokens, data.supervised, data.cut_tokens, data.row_digests):
                digest.update(array.tobytes())
            digest.update(repr(data.findings).encode())
    assert digest.hexdigest()[:16] == KNOWN[token_cache.FORMAT]


def many_rows(count: int) -> Iterator[Row]:
    text = "The quick brown fox answers the question. " * 20
    for n in range(count):
        messages = (
            Message(role="user", content=f"{n} {text}"),
            Message(role="assistant", content="Yes."),
        )
        yield Row(place=f"a:{n}", conversation=Conversation(messages=messages))


def test_conversations_are_not_held_in_memory(tokenizer: Tokenizer) -> None:
    """Python's memory beside the tokens grows by some bytes a row, not by the row's text."""
    rendering = replace(RENDERING, cutoff_len=1000)
    tokenize_rows(many_rows(10), tokenizer, rendering)
    tracemalloc.start()
    data = tokenize_rows(many_rows(1500), tokenizer, rendering, batch_rows=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    raw = 1500 * len("The quick brown fox answers the question. " * 20)
    tokens = data.tokens.nbytes + data.supervised.nbytes
    assert peak - 1.2 * tokens < raw / 2


@pytest.mark.parametrize("template", ["qwen3", "qwen3_nothink"])
@pytest.mark.parametrize(
    ("cutoff_len", "kind"), [(100, "overlong_left_out"), (1 << 20, "too_many_answers")]
)
def test_a_row_of_very_many_turns_costs_linear_time(
    tokenizer: Tokenizer, template: str, cutoff_len: int, kind: str
) -> None:
    """Each answer had an example of its own, with all before it: 10,000 took 4 GB and minutes."""
    turns = [("user", "q"), ("assistant", "a")] * 5_000
    messages = tuple(Message(role=role, content=text) for role, text in turns)  # type: ignore[arg-type]
    row = Row(place="a:1", conversation=Conversation(messages=messages))
    rendering = Rendering(template=template, enable_thinking=None, cutoff_len=cutoff_len)
    with processor_time() as spent:
        data = tokenize_rows([row, row], tokenizer, rendering)
    assert spent.seconds < 15
    assert [finding.kind for finding in data.findings] == [kind, kind]


def test_a_row_of_very_many_turns_may_teach_its_last_answer(tokenizer: Tokenizer) -> None:
    turns = [("user", "q"), ("assistant", "a")] * 1_500
    messages = tuple(Message(role=role, content=text) for role, text in turns)  # type: ignore[arg-type]
    row = Row(place="a:1", conversation=Conversation(messages=messages))
    rendering = Rendering(
        template="qwen3", enable_thinking=None, cutoff_len=1 << 20, mask_history=True
    )
    data = tokenize_rows([row], tokenizer, rendering)
    assert not data.findings
    assert len(data.examples(0)) == 1
