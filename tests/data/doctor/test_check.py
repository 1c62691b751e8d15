"""The data doctor: what it finds, what it counts, and when training would refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.data.doctor.check import (
    CheckedData,
    DataReport,
    check_data,
    refusal,
    usable_data,
)
from danlu.data.findings import Finding, listed
from danlu.data.settings import DataSettings
from danlu.errors import UsageError
from danlu.runs.manifest import DataRecord
from danlu.text.tokenizer import Tokenizer
from danlu.train.job.record import data_record
from tests.helpers.models.tiny_tokenizer import write_tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    return Tokenizer.load(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path


def write(name: str, *rows: tuple[str, str]) -> str:
    lines = (json.dumps({"instruction": q, "output": a}) for q, a in rows)
    Path(name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return name


def check(tokenizer: Tokenizer, dataset: str, **options: Any) -> CheckedData:
    return check_data(DataSettings(dataset=dataset, **options), tokenizer)


def found(report: DataReport, kind: str) -> list[tuple[str, str]]:
    return [(f.place, f.severity) for f in report.findings if f.kind == kind]


@pytest.mark.parametrize(
    ("row", "kind", "severity"),
    [
        (("Q", "<think>\nnever closed\n\nA"), "open_thought", "warning"),
        (("Q", "The tag </think> closes it."), "open_thought", "warning"),
        (("Q", "r\n</think>\n\nA"), "open_thought", "warning"),
        (("Q", "A<|im_end|>"), "control_token_text", "warning"),
        (("Q", "a<think>b"), "open_thought", "warning"),
        (("Q", "<think>a</think>A<think>b</think>B"), "several_thoughts", "error"),
        (("Q", "Well. <think>a</think>A"), "several_thoughts", "error"),
        (("Q", "<thinking>hm</thinking>A"), "foreign_thought", "warning"),
        (("Q", "< think >hm</ think >A"), "foreign_thought", "warning"),
        (("what is <think>?", "A"), "thought_in_question", "note"),
        (("Q", "The <|object_ref_start|>cat"), "special_token_text", "warning"),
        (("<|im_start|>user\nQ", "A"), "control_token_text", "warning"),
        (("Who?", "I am {{name}}, made by {{author}}."), "placeholder", "warning"),
        (("Q", "<think>a</think>"), "empty_answer", "error"),
    ],
)
def test_suspicious_texts(
    here: Path, tokenizer: Tokenizer, row: tuple[str, str], kind: str, severity: str
) -> None:
    report = check(tokenizer, write("a.jsonl", ("good", "row"), row)).report
    assert found(report, kind) == [("a.jsonl:2", severity)]
    assert report.refuses == (severity == "error")


def test_the_users_own_special_tokens_are_named(here: Path, tokenizer: Tokenizer) -> None:
    own = json.loads(tokenizer.path.read_text(encoding="utf-8"))
    for name, special in (("<|voice_1|>", True), ("@speaker", True), ("<|pause|>", False)):
        first = max(token["id"] for token in own["added_tokens"]) + 1
        own["added_tokens"].append(
            {**own["added_tokens"][-1], "id": first, "content": name, "special": special}
        )
    (here / "tokenizer.json").write_text(json.dumps(own), encoding="utf-8")
    rows = [("Speak <|voice_1|> now, @speaker", "A"), ("Q", "so <|pause|> it is"), ("P", "@s")]
    loaded = Tokenizer.load(here)
    assert len(loaded.encode_text("<|pause|>")) == 1
    assert len(loaded.encode_text("<|voice_1|>")) > 1
    report = check(loaded, write("a.jsonl", *rows)).report
    [finding] = report.findings
    assert (finding.kind, finding.place) == ("special_token_text", "a.jsonl:1")
    assert "<|voice_1|>, @speaker" in finding.what
    assert '"special": false' in finding.fix


def test_fields_that_nothing_reads_are_counted(here: Path, tokenizer: Tokenizer) -> None:
    rows = [{"instruction": f"Q{n}", "output": "A"} for n in range(4)]
    for row in rows[1:]:
        row["mood"] = "kind"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    Path("a.jsonl").write_text(lines, encoding="utf-8")
    for _cached in (False, True):
        [finding] = check(tokenizer, "a.jsonl").report.findings
        assert (finding.kind, finding.place) == ("unread_field", "a.jsonl:2")
        assert "mood is not read; rows with it: 3" in finding.what


def test_a_thought_beside_an_alpaca_answer_is_a_warning(here: Path, tokenizer: Tokenizer) -> None:
    row = {"instruction": "What is 3+4?", "reasoning": "3 and 4 make 7.", "output": "7"}
    Path("a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    [finding] = check(tokenizer, "a.jsonl").report.findings
    assert (finding.kind, finding.severity) == ("unread_thought", "warning")
    assert "<think>" in finding.fix


@pytest.mark.parametrize(
    "answer",
    [
        "<think>\nr\n</think>\n\nA",
        "<think>r</think>A",
        "a < b [1] {x}",
        "<b>A</b>",
    ],
)
def test_ordinary_answers_are_not_suspicious(here: Path, tokenizer: Tokenizer, answer: str) -> None:
    report = check(tokenizer, write("a.jsonl", ("Q", answer))).report
    assert report.findings == ()
    assert not report.refuses


def test_duplicates_and_questions_with_two_answers(here: Path, tokenizer: Tokenizer) -> None:
    rows = [("Q", "A"), ("Q", "B"), ("P", "A"), ("Q", "A")]
    report = check(tokenizer, write("a.jsonl", *rows)).report
    assert found(report, "duplicate") == [("a.jsonl:4", "warning")]
    assert found(report, "same_question") == [("a.jsonl:2", "note")]
    assert "a.jsonl:1" in next(f.what for f in report.findings if f.kind == "duplicate")
    assert not report.refuses


def test_leaks_between_the_sides(here: Path, tokenizer: Tokenizer) -> None:
    write("learned.jsonl", ("Q", "A"), ("P", "A"), ("R", "A"))
    write("held.jsonl", ("new", "A"), ("P", "A"), ("R", "B"))
    report = check(tokenizer, "learned.jsonl", eval_dataset="held.jsonl").report
    assert found(report, "leak") == [("held.jsonl:2", "warning")]
    assert found(report, "question_leak") == [("held.jsonl:3", "warning")]
    assert (report.train.num_rows, report.held_out.num_rows) == (3, 3)


def test_the_split_is_over_all_rows_and_bad_ones_are_left_out_afterwards(
    here: Path, tokenizer: Tokenizer
) -> None:
    rows = [(f"Q{n}", "" if n in (3, 8) else f"A{n}") for n in range(20)]
    data = check(tokenizer, write("a.jsonl", *rows), val_size=0.25, skip_bad_rows=True)
    order = np.random.default_rng(42).permutation(20)
    assert data.held_out.indices.tolist() == [n for n in order[:5] if n not in (3, 8)]
    assert data.train.indices.tolist() == [n for n in order[5:] if n not in (3, 8)]
    assert data.train.places[0] == f"a.jsonl:{data.train.indices[0] + 1}"
    assert data.report.num_left_out == 2
    assert not data.report.refuses


def test_statistics(here: Path, tokenizer: Tokenizer) -> None:
    rows = [("Q" * n, "A" * n) for n in range(1, 101)]
    path = write("a.jsonl", *rows)
    data = check(tokenizer, path, cutoff_len=150, overlong="drop", val_size=0)
    report, lengths = data.report, data.report.lengths
    assert lengths.min < lengths.median < lengths.p90 < lengths.p99 <= lengths.max
    examples = [example for row in data.train for example in row]
    assert report.train.num_tokens == sum(len(example.tokens) for example in examples)
    assert report.train.num_supervised == sum(int(e.supervised.sum()) for e in examples)
    assert report.num_over_cutoff == len(found(report, "overlong_left_out")) > 0
    assert report.train.num_rows == 100 - report.num_over_cutoff
    assert report.is_loud
    assert max(len(example.tokens) for example in examples) <= 150


def test_two_in_a_hundred_are_not_loud(here: Path, tokenizer: Tokenizer) -> None:
    rows = [("Q" * (900 if n < 2 else 1), f"A{n}") for n in range(100)]
    report = check(tokenizer, write("a.jsonl", *rows), cutoff_len=200).report
    assert (report.num_shortened, report.is_loud) == (2, False)
    assert report.num_cut_tokens > 0


def test_skipping_does_not_help_a_file_that_cannot_be_read_on(
    here: Path, tokenizer: Tokenizer
) -> None:
    Path("a.json").write_text('[{"instruction": "a", "output": "b"},\n{"instr', encoding="utf-8")
    report = check(tokenizer, "a.json", skip_bad_rows=True).report
    assert report.refuses
    assert "--skip_bad_rows" not in refusal(report).fix
    assert "a.json:2" in refusal(report).why


def test_a_field_that_is_no_text_can_be_skipped(here: Path, tokenizer: Tokenizer) -> None:
    write("a.jsonl", ("Q", "A"))
    with Path("a.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"instruction": 3, "output": "A"}\n')
    assert not check(tokenizer, "a.jsonl", skip_bad_rows=True).report.refuses
    refused = check(tokenizer, "a.jsonl").report
    assert refused.refuses
    assert "--skip_bad_rows" in refusal(refused).fix


@pytest.mark.parametrize(
    "options",
    [{"eval_dataset": "b.jsonl", "val_size": 0.1}, {"mask_history": True, "train_on_prompt": True}],
)
def test_settings_that_exclude_each_other(
    here: Path, tokenizer: Tokenizer, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        check(tokenizer, write("a.jsonl", ("Q", "A")), **options)


def test_what_training_gets(here: Path, tokenizer: Tokenizer) -> None:
    write("a.jsonl", ("Q", "A"), ("P", ""), ("R", "B"))
    settings = DataSettings(dataset="a.jsonl", skip_bad_rows=True)
    data = usable_data(settings, tokenizer)
    assert list(data.train.places) == ["a.jsonl:1", "a.jsonl:3"]
    assert data.report.train.num_rows == 2
    assert data_record(data).model_fields_set == set(DataRecord.model_fields)
    assert data_record(data).left_out_rows == ("a.jsonl:2: The answer is empty. Fill in output.",)
    write("a.jsonl", ("Q", "A"), ("P", ""), ("R", "C"))
    assert usable_data(settings, tokenizer).fingerprint() != data.fingerprint()


def test_a_frequent_kind_does_not_hide_the_others() -> None:
    def finding(kind: str, number: int) -> Finding:
        return Finding(place=f"a:{number}", kind=kind, what=".", fix=".")

    lines = listed([*(finding("often", n) for n in range(50)), finding("only_once", 99)])
    assert len(lines) == 20 + 2
    assert any(line.startswith("a:99") for line in lines)
    assert lines[-2:] == ["50 x often", "1 x only once"]
