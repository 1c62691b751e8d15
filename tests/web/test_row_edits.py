"""Rows are edited and excluded beside the file, and training sees just that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.cli.main import main
from danlu.data.reading.rows import READERS
from danlu.web.data.changed_rows import ChangedRows
from danlu.web.data.registered import dataset_path
from tests.helpers.studio import studio_at_home
from tests.web.conftest import Upload
from tests.web.test_data_routes import GOOD, OTHER, check, rows, studio_of


def change(client: TestClient, id_of_set: str, number: int, action: str, **more: Any) -> Any:
    answer = client.post(
        f"/studio/data/sets/{id_of_set}/rows/{number}", json={"action": action, **more}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def bad(upload: Upload) -> str:
    """Six rows, of which the second, the third and the fourth cannot be used."""
    lines = [
        json.dumps(GOOD),
        json.dumps({"instruction": "x", "output": ""}),
        "{not json",
        json.dumps({"other": 1}),
        json.dumps(OTHER),
        json.dumps({"instruction": "你好", "output": "你好 🙂", "id": 7}, ensure_ascii=False),
    ]
    return upload("\n".join(lines).encode())


def test_bad_rows_are_mended_and_excluded_until_training_takes_the_rest(
    client: TestClient, bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = dataset_path(studio_of(client), bad)
    before = original.read_bytes()
    assert rows(client, bad)["rows"][2]["text"] == "{not json"
    assert change(client, bad, 2, "edit", row={"instruction": "x", "output": "y"})["saved"]
    assert change(client, bad, 3, "edit", row=OTHER)["saved"]
    assert check(client, bad)["refuses"]
    change(client, bad, 4, "exclude")
    report = check(client, bad)
    assert not report["refuses"]
    # A finding still names the row by its number in the file.
    places = [f["row"] for kind in report["kinds"] for f in kind["findings"]]
    assert places == [5]
    derived = dataset_path(studio_of(client), bad)
    assert derived.name == "derived.jsonl"
    assert original.read_bytes() == before
    assert derived.read_text(encoding="utf-8").splitlines()[3] == ""
    assert json.loads(derived.read_text(encoding="utf-8").splitlines()[5])["id"] == 7
    assert main(["data", "check", str(derived)]) == 0
    assert "Training would take this data." in capsys.readouterr().out
    (listed,) = (s for s in client.get("/studio/data/sets").json() if s["id"] == bad)
    assert (listed["excluded"], listed["edited"]) == (1, 2)


def test_a_row_that_nobody_mended_still_stops_training(client: TestClient, bad: str) -> None:
    change(client, bad, 2, "exclude")
    report = check(client, bad)
    assert report["refuses"]
    assert [f["row"] for kind in report["kinds"] for f in kind["findings"]] == [3, 4]


def test_an_edit_that_cannot_be_learned_is_not_kept(client: TestClient, bad: str) -> None:
    answer = change(client, bad, 1, "edit", row={"instruction": "x", "output": 5})
    assert not answer["saved"]
    assert answer["findings"][0]["kind"] == "not_text"
    assert not rows(client, bad, only="changed")["rows"]
    empty = client.post(f"/studio/data/sets/{bad}/rows/1", json={"action": "edit"})
    assert empty.status_code == 400


def test_changes_are_undone_one_after_the_other(client: TestClient, bad: str) -> None:
    change(client, bad, 1, "edit", row=OTHER)
    change(client, bad, 1, "exclude")
    (row,) = rows(client, bad, only="changed")["rows"]
    assert (row["excluded"], row["edited"], row["row"]) == (True, True, OTHER)
    change(client, bad, 1, "restore")
    (row,) = rows(client, bad, only="changed")["rows"]
    assert (row["excluded"], row["edited"]) == (False, True)
    change(client, bad, 1, "restore")
    assert rows(client, bad)["rows"][0]["row"] == GOOD
    assert dataset_path(studio_of(client), bad).name == "rows.jsonl"


def test_changes_survive_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: TestClient, bad: str
) -> None:
    change(client, bad, 4, "exclude")
    with studio_at_home(tmp_path, monkeypatch) as later:
        assert rows(later, bad, only="changed")["rows"][0]["number"] == 4


def test_a_change_meets_no_other_row_in_a_file_that_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    file = folder / "rows.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(OTHER)}\n")
    with studio_at_home(tmp_path, monkeypatch, data_dir=str(folder)) as client:
        (one,) = (s for s in client.get("/studio/data/sets").json() if s["kind"] == "folder")
        change(client, one["id"], 1, "exclude")
        assert check(client, one["id"])["num_rows"] == 1
        file.write_text(f"{json.dumps(OTHER)}\n{json.dumps(GOOD)}\n")
        assert check(client, one["id"])["num_rows"] == 2
        assert not rows(client, one["id"])["rows"][0]["excluded"]


def test_behind_what_cannot_be_read_nothing_is_left_out_silently(
    client: TestClient, upload: Upload
) -> None:
    id_of_set = upload(f"[{json.dumps(GOOD)}, {json.dumps(OTHER)} oops".encode(), "rows.json")
    last = rows(client, id_of_set)["rows"][-1]
    assert last["findings"][0]["kind"] == "broken_json"
    refused = client.post(
        f"/studio/data/sets/{id_of_set}/rows/{last['number']}", json={"action": "exclude"}
    )
    assert refused.status_code == 400
    change(client, id_of_set, 1, "exclude")
    assert check(client, id_of_set)["refuses"]


@pytest.mark.parametrize("number", [0, -1, 7, 10**9])
def test_there_are_no_other_rows(client: TestClient, bad: str, number: int) -> None:
    answer = client.post(f"/studio/data/sets/{bad}/rows/{number}", json={"action": "exclude"})
    assert answer.status_code == 400
    assert not ChangedRows(studio_of(client).database).of(bad)


def test_tables_are_edited_too(client: TestClient, upload: Upload) -> None:
    id_of_set = upload(b"instruction,output\nWho?,Ember\nWhat?,\n", "rows.csv")
    assert ".csv" in READERS
    change(client, id_of_set, 2, "edit", row={"instruction": "What?", "output": "A model"})
    assert not check(client, id_of_set)["refuses"]


def test_numbers_that_a_page_cannot_hold_stay_exact(client: TestClient, upload: Upload) -> None:
    """JavaScript rounds them: an edit of the answer leaves the id as the file has it."""
    row = {**GOOD, "id": 12345678901234567890, "more": [{"n": 2**60 + 1}], "small": 7}
    id_of_set = upload([row, OTHER])
    sent = {**row, "output": "Fox", "id": 12345678901234567000, "more": [{"n": float(2**60)}]}
    body = {"action": "edit", "row": {**sent, "small": 8}}
    answer = client.post(f"/studio/data/sets/{id_of_set}/rows/1", json=body)
    assert answer.json()["saved"]
    changes = ChangedRows(studio_of(client).database).of(id_of_set)
    assert changes[1].content == {**row, "output": "Fox", "small": 8}
