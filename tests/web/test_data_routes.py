"""Data sets in the studio: the list, the doctor's report, rows as the model sees them, columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.data.doctor.check import check_data
from danlu.data.settings import DataSettings
from danlu.data.tokens.examples import Rendering
from danlu.hub.names import model_folder
from danlu.text.tokenizer import Tokenizer
from danlu.web.data.registered import dataset_path, dataset_words
from danlu.web.studio import Studio
from tests.helpers.studio import studio_at_home
from tests.web.conftest import Upload

GOOD = {"instruction": "Who are you?", "output": "Ember"}
OTHER = {"instruction": "What is 1 + 1?", "output": "2"}
LONG = {"instruction": "word " * 400 + "end", "output": "the answer"}


def studio_of(client: TestClient) -> Studio:
    studio: Studio = client.app.state.studio  # type: ignore[attr-defined]
    return studio


def check(client: TestClient, id_of_set: str, **words: Any) -> Any:
    while True:
        answer = client.get(f"/studio/data/sets/{id_of_set}/check", params=words)
        assert answer.status_code == 200, answer.text
        if answer.json()["state"] != "running":
            return answer.json()


def rows(client: TestClient, id_of_set: str, **words: Any) -> Any:
    answer = client.get(f"/studio/data/sets/{id_of_set}/rows", params=words)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_example_is_there_and_good(client: TestClient) -> None:
    (example,) = client.get("/studio/data/sets").json()
    assert (example["id"], example["kind"], example["rows"]) == ("example", "example", 60)
    assert not check(client, "example")["refuses"]


def test_a_registered_folder_shows_its_data_files_and_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps(GOOD) + "\n")
    (folder / "renamed.json").write_text(json.dumps([{"ask": "Who?", "reply": "Ember"}]))
    columns = {"prompt": "ask", "response": "reply"}
    (folder / "dataset_info.json").write_text(
        json.dumps({"r": {"file_name": "renamed.json", "columns": columns}})
    )
    (folder / "secret.jsonl").symlink_to("/etc/passwd")
    (folder / "notes.md").write_text("no data")
    with studio_at_home(tmp_path, monkeypatch, data_dir=str(folder)) as client:
        sets = [s for s in client.get("/studio/data/sets").json() if s["kind"] == "folder"]
        assert [s["name"] for s in sets] == ["a.jsonl", "renamed.json"]
        for one in sets:
            assert not check(client, one["id"])["refuses"]


def test_the_report_names_rows_and_is_the_doctors(client: TestClient, upload: Upload) -> None:
    content = [GOOD, {"instruction": "x", "output": ""}, GOOD, {"a": 1}]
    lines = [json.dumps(row) for row in content]
    id_of_set = upload("\n".join([*lines[:2], "", *lines[2:], "{broken"]).encode(), "rows.jsonl")
    report = check(client, id_of_set)
    found = {kind["kind"]: [f["row"] for f in kind["findings"]] for kind in report["kinds"]}
    assert found == {
        "empty_answer": [2], "missing_column": [4], "broken_line": [5], "duplicate": [3]
    }  # fmt: skip
    assert "row 1" in report["kinds"][-1]["findings"][0]["what"]
    assert report["refuses"]
    tokenizer = Tokenizer.load(model_folder("starter"))
    words = dataset_words(studio_of(client), id_of_set)
    said = check_data(DataSettings.model_validate(words), tokenizer).report
    assert (report["num_rows"], report["train"]["num_tokens"]) == (
        said.num_rows, said.train.num_tokens
    )  # fmt: skip
    assert sum(count for _length, count in report["length_counts"]) == 2


def test_findings_in_an_array_on_one_line_are_at_their_rows(
    client: TestClient, upload: Upload
) -> None:
    content = [GOOD, {"instruction": "x", "output": ""}, GOOD, OTHER]
    report = check(client, upload(json.dumps(content).encode(), "rows.json"))
    found = {kind["kind"]: [f["row"] for f in kind["findings"]] for kind in report["kinds"]}
    assert found == {"empty_answer": [2], "duplicate": [3]}
    (duplicate,) = report["kinds"][-1]["findings"]
    assert "row 1" in duplicate["what"]


def test_rows_are_shown_as_training_tokenizes_them(client: TestClient, upload: Upload) -> None:
    id_of_set = upload([GOOD, OTHER])
    page = rows(client, id_of_set)
    assert page["total"] == 2
    (example,) = page["rows"][0]["examples"]
    texts = "".join(text for segment in example["segments"] for text in segment["texts"])
    assert texts == (
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\nEmber<|im_end|>\n"
    )
    learned = [s for s in example["segments"] if s["learned"]]
    assert "".join(text for s in learned for text in s["texts"]) == (
        "<think>\n\n</think>\n\nEmber<|im_end|>\n"
    )
    assert sum(len(s["texts"]) for s in learned) == example["learned"]
    assert page["rows"][0]["row"] == GOOD


def test_what_is_cut_out_stands_in_its_place(client: TestClient, upload: Upload) -> None:
    id_of_set = upload([GOOD, LONG])
    (row,) = rows(client, id_of_set, only="cut", cutoff_len=100)["rows"]
    assert row["number"] == 2
    (example,) = row["examples"]
    assert example["tokens"] <= 100 < row["tokens"]
    (cut,) = (segment for segment in example["segments"] if segment["cut"])
    kept = "".join(t for s in example["segments"] if not s["cut"] for t in s["texts"])
    assert set(cut["texts"]) == {" w", "ord"}
    assert len(cut["texts"]) + cut["skipped"] + example["tokens"] >= row["tokens"]
    assert "the answer" in kept
    assert "end<|im_end|>" in kept
    (short,) = rows(client, id_of_set, only="cut", cutoff_len=20)["rows"]
    assert short["left_out"]
    assert all(segment["cut"] for segment in short["examples"][0]["segments"])


def test_pages_and_choices(client: TestClient, upload: Upload) -> None:
    id_of_set = upload([{**GOOD, "output": str(n) if n != 30 else ""} for n in range(45)])
    page = rows(client, id_of_set, at=40, count=20)
    assert [row["number"] for row in page["rows"]] == [41, 42, 43, 44, 45]
    assert next(row["number"] for row in rows(client, id_of_set, only="findings")["rows"]) == 2
    only = rows(client, id_of_set, only="findings", at=40)["rows"]
    assert [row["number"] for row in only] == [42, 43, 44, 45]
    client.post(f"/studio/data/sets/{id_of_set}/rows/7", json={"action": "exclude"})
    assert [row["number"] for row in rows(client, id_of_set, only="changed")["rows"]] == [7]
    assert not rows(client, id_of_set, at=1000)["rows"]


@pytest.mark.parametrize(
    "words", [{"at": -1}, {"count": 51}, {"cutoff_len": 0}, {"only": "x"}, {"template": "llama3"}]
)
def test_what_is_asked_for_is_bounded(client: TestClient, words: dict[str, Any]) -> None:
    answer = client.get("/studio/data/sets/example/rows", params=words)
    assert answer.status_code == 400


def test_half_characters_and_infinity_can_be_shown(client: TestClient, upload: Upload) -> None:
    id_of_set = upload(b'{"instruction": "a\\ud800", "output": "b", "score": 1e999}\n')
    (row,) = rows(client, id_of_set)["rows"]
    assert row["row"]["score"] == "inf"
    assert row["findings"][0]["kind"] == "lone_surrogate"
    assert client.get(f"/studio/data/sets/{id_of_set}/columns").status_code == 200


def test_columns_are_chosen_and_training_reads_them(
    client: TestClient, upload: Upload, tmp_path: Path
) -> None:
    id_of_set = upload(b"ask,reply,topic\nWho?,Ember,x\nWhat?,A model,y\n", "t,able.csv")
    assert check(client, id_of_set)["state"] == "unreadable"
    found = client.get(f"/studio/data/sets/{id_of_set}/columns").json()
    assert found["fields"] == ["ask", "reply", "topic"]
    assert found["problem"]
    assert "home/studio" not in found["problem"]
    assert rows(client, id_of_set)["rows"][0]["row"]["reply"] == "Ember"
    choice = {
        "formatting": "alpaca",
        "columns": {"prompt": "ask", "query": "", "response": "reply"},
    }
    chosen = client.post(f"/studio/data/sets/{id_of_set}/columns", json=choice).json()
    assert chosen["chosen"]
    assert not chosen["problem"]
    assert not check(client, id_of_set)["refuses"]
    words = dataset_words(studio_of(client), id_of_set)
    assert words["dataset"] == "t-able"
    assert Path(words["dataset_dir"]).parent == tmp_path / "home" / "studio" / "data"
    assert rows(client, id_of_set)["rows"][1]["examples"]
    client.post(f"/studio/data/sets/{id_of_set}/columns", json={})
    assert check(client, id_of_set)["state"] == "unreadable"


def test_a_wrong_choice_of_columns_is_refused(client: TestClient, upload: Upload) -> None:
    id_of_set = upload([GOOD])
    for choice in (
        {"formatting": "alpaca", "columns": {"prompt": "a", "response": "a"}},
        {"formatting": "alpaca", "columns": {"nothing": "a"}},
        {"formatting": "parquet"},
        {"formatting": "alpaca", "file_name": "/etc/passwd"},
    ):
        answer = client.post(f"/studio/data/sets/{id_of_set}/columns", json=choice)
        assert answer.status_code == 400, choice


def test_messages_with_other_names(client: TestClient, upload: Upload) -> None:
    id_of_set = upload(
        [{"dialog": [{"who": "human", "text": "Hi"}, {"who": "bot", "text": "Hello"}]}]
    )
    found = client.get(f"/studio/data/sets/{id_of_set}/columns").json()
    assert found["inner"] == {"dialog": ["who", "text"]}
    tags = {
        "role_tag": "who", "content_tag": "text", "user_tag": "human", "assistant_tag": "bot"
    }  # fmt: skip
    choice = {"formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": tags}
    client.post(f"/studio/data/sets/{id_of_set}/columns", json=choice)
    assert not check(client, id_of_set)["refuses"]


def test_findings_are_in_the_language_of_the_page(client: TestClient, upload: Upload) -> None:
    id_of_set = upload([{"instruction": "x", "output": ""}])
    answer = client.get(
        f"/studio/data/sets/{id_of_set}/check", headers={"accept-language": "zh-CN"}
    ).json()
    assert answer["kinds"][0]["findings"][0]["what"] == "回答是空的。"
    assert Rendering(template="qwen3", enable_thinking=True).cutoff_len == answer["cutoff_len"]


def test_the_file_to_train_on_is_the_users_own_until_it_is_changed(
    client: TestClient, upload: Upload
) -> None:
    id_of_set = upload([GOOD])
    assert dataset_path(studio_of(client), id_of_set).name == "rows.jsonl"
    assert dataset_words(studio_of(client), id_of_set).keys() == {"dataset"}


def test_findings_speak_of_what_a_page_has(client: TestClient, upload: Upload) -> None:
    """No options of commands, and no file that nobody sees there."""
    long = upload([{"instruction": "x " * 50, "output": "y " * 3000}] * 3)
    found = [f for kind in check(client, long)["kinds"] for f in kind["findings"]]
    assert any("cutoff_len" in finding["fix"] for finding in found)
    odd = upload([{"instruction": "a", "output": "b"}, {"question": "a", "reply": "b"}] * 3)
    found += [f for kind in check(client, odd)["kinds"] for f in kind["findings"]]
    assert any("the view Columns" in finding["fix"] for finding in found)
    for finding in found:
        assert "--" not in finding["what"] + finding["fix"]
        assert "dataset_info" not in finding["what"] + finding["fix"]
