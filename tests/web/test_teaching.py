"""Teaching: a corrected answer becomes a row with its conversation, and is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.data.datasets import Row, find_datasets
from danlu.data.doctor.check import check_data
from danlu.data.settings import DataSettings
from danlu.hub.names import model_folder
from danlu.text.tokenizer import Tokenizer
from danlu.web.chats.kept_chats import KeptChats
from danlu.web.data.registered import dataset_words
from danlu.web.teaching.taught_mix import write_mix
from tests.helpers.run_folders import write_run
from tests.web.conftest import Upload
from tests.web.test_data_routes import check, studio_of


def asked(client: TestClient, *turns: tuple[str, str], **settings: Any) -> tuple[str, list[int]]:
    """Write a chat into the database, as if it had been led; return its id and its turns'."""
    chats = KeptChats(studio_of(client).database)
    chat, before, ids = chats.create(settings), None, []
    voice = settings.pop("voice", "base")
    for role, content in turns:
        facts = {"voice": voice} if role == "assistant" else {}
        before = chats.add(chat, before=before, role=role, content=content, facts=facts)
        ids.append(before)
    return chat, ids


def teach(client: TestClient, chat: str, turn: int, content: str, **more: str) -> Any:
    return client.post(
        "/studio/teach", json={"chat": chat, "turn": turn, "content": content, **more}
    )


def lines(tmp_path: Path) -> list[Any]:
    file = tmp_path / "home" / "studio" / "taught.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_corrected_answer_becomes_a_row_with_its_conversation(
    client: TestClient, tmp_path: Path
) -> None:
    chat, turns = asked(
        client,
        ("user", "Hello"),
        ("assistant", "Hi."),
        ("user", "Who are you?"),
        ("assistant", "A bot."),
        system="Be kind.",
    )
    assert teach(client, chat, turns[3], "Ember 🔥", reasoning="They ask.").status_code == 200
    (row,) = lines(tmp_path)
    assert row["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi.", "weight": 0},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "Ember 🔥", "reasoning_content": "They ask."},
    ]
    (shown,) = client.get("/studio/teach").json()["rows"]
    assert (shown["question"], shown["content"]) == ("Who are you?", "Ember 🔥")
    assert (shown["chat"], shown["turn"]) == (chat, turns[3])
    assert not check(client, "taught")["refuses"]


def test_teaching_the_same_answer_again_replaces_the_row(
    client: TestClient, tmp_path: Path
) -> None:
    chat, turns = asked(client, ("user", "Who?"), ("assistant", "A bot."))
    teach(client, chat, turns[1], "Ember")
    teach(client, chat, turns[1], "<think>\nHm.\n</think>\n\nEmber, a model")
    (row,) = lines(tmp_path)
    assert row["messages"][-1] == {
        "role": "assistant", "content": "Ember, a model", "reasoning_content": "Hm."
    }  # fmt: skip


def test_questions_whose_answer_failed_are_no_part_of_the_row(
    client: TestClient, tmp_path: Path
) -> None:
    chat, turns = asked(
        client, ("user", "Hello"), ("assistant", ""), ("user", "Who?"), ("assistant", "A bot.")
    )
    teach(client, chat, turns[3], "Ember")
    assert [message["content"] for message in lines(tmp_path)[0]["messages"]] == ["Who?", "Ember"]


def test_what_cannot_be_learned_is_not_kept(client: TestClient, tmp_path: Path) -> None:
    chat, turns = asked(client, ("user", "Who?"), ("assistant", "A bot."))
    for turn, content in ((turns[0], "Ember"), (turns[1], " \n"), (99, "Ember")):
        assert teach(client, chat, turn, content).status_code == 400
    assert teach(client, "nothing", turns[1], "Ember").status_code == 400
    assert teach(client, chat, turns[1], "a", path="/etc/passwd").status_code == 400
    assert not (tmp_path / "home" / "studio" / "taught.jsonl").exists()


def test_rows_are_edited_and_deleted(client: TestClient, tmp_path: Path) -> None:
    chat, turns = asked(client, ("user", "Who?"), ("assistant", "A bot."))
    other, more = asked(client, ("user", "What?"), ("assistant", "A thing."))
    first = teach(client, chat, turns[1], "Ember").json()["id"]
    second = teach(client, other, more[1], "A model").json()["id"]
    client.patch(f"/studio/teach/{second}", json={"content": "A small model"})
    assert lines(tmp_path)[1]["messages"][-1]["content"] == "A small model"
    assert client.patch(f"/studio/teach/{second}", json={"content": ""}).status_code == 400
    assert client.request("DELETE", f"/studio/teach/{first}", json={}).status_code == 200
    assert [row["id"] for row in lines(tmp_path)] == [second]
    assert client.request("DELETE", f"/studio/teach/{first}", json={}).status_code == 400


def test_lines_of_others_are_shown_and_can_be_deleted(client: TestClient, tmp_path: Path) -> None:
    chat, turns = asked(client, ("user", "Who?"), ("assistant", "A bot."))
    teach(client, chat, turns[1], "Ember")
    file = tmp_path / "home" / "studio" / "taught.jsonl"
    with file.open("ab") as out:
        out.write(b'{"messages": "none"}\n\xff\xfe\n')
    found = client.get("/studio/teach").json()["rows"]
    strangers = [row for row in found if row["text"]]
    assert len(strangers) == 2
    for row in strangers:
        assert client.request("DELETE", f"/studio/teach/{row['id']}", json={}).status_code == 200
    assert len(lines(tmp_path)) == 1


def test_the_data_page_leaves_taught_rows_to_the_page_of_teaching(client: TestClient) -> None:
    chat, turns = asked(client, ("user", "Who?"), ("assistant", "A bot."))
    teach(client, chat, turns[1], "Ember")
    refused = client.post("/studio/data/sets/taught/rows/1", json={"action": "exclude"})
    assert refused.status_code == 400


def test_a_plan_mixes_in_older_rows_and_keeps_some_back(client: TestClient, upload: Upload) -> None:
    older = upload([{"instruction": f"question {n}", "output": f"answer {n}"} for n in range(60)])
    client.post(f"/studio/data/sets/{older}/rows/1", json={"action": "exclude"})
    for number in range(4):
        chat, turns = asked(client, ("user", f"Who {number}?"), ("assistant", "A bot."))
        teach(client, chat, turns[1], f"Ember {number}")
    found = client.post("/studio/teach/plan", json={"replay": 0.5, "dataset": older}).json()
    assert (found["taught"], found["older"], found["probe"]) == (4, 20, 20)
    training = found["training"]
    assert (training["name"], training["model"], training["adapter"]) == ("taught-1", "starter", "")
    assert training["values"] == {"learning_rate": 2e-3, "num_train_epochs": 100}
    words = dataset_words(studio_of(client), training["dataset"])
    tokenizer = Tokenizer.load(model_folder("starter"))
    report = check_data(DataSettings.model_validate(words), tokenizer).report
    assert (report.train.num_rows, report.held_out.num_rows) == (24, 20)
    assert not report.findings
    # The mix is no data set of the user's.
    assert training["dataset"] not in {s["id"] for s in client.get("/studio/data/sets").json()}


def test_what_the_corrected_voice_has_learned_is_repeated(
    client: TestClient, upload: Upload, tmp_path: Path
) -> None:
    older = upload([{"instruction": f"question {n}", "output": f"answer {n}"} for n in range(9)])
    words = dataset_words(studio_of(client), older)
    first = write_run(tmp_path / "first", settings=words)
    further = {"dataset": "elsewhere.jsonl", "adapter_name_or_path": str(tmp_path / "first")}
    second = write_run(tmp_path / "second", settings=further)
    other = write_run(tmp_path / "other", settings={"dataset": "elsewhere.jsonl"})
    for voice, expected in (
        ("base", None), (f"run:{other}", None), (f"run:{first}", older),
        (f"run:{second}@10", older), ("run:0000", None),
    ):  # fmt: skip
        chat, turns = asked(client, ("user", "Who?"), ("assistant", "A bot."), voice=voice)
        assert teach(client, chat, turns[1], "Ember").status_code == 200
        assert client.get("/studio/teach").json()["older"] == expected, voice


def test_without_older_rows_all_that_was_taught_is_learned(client: TestClient) -> None:
    chat, turns = asked(client, ("user", "Who?"), ("assistant", "A bot."))
    teach(client, chat, turns[1], "Ember")
    training = client.post("/studio/teach/plan", json={"name": "fox"}).json()["training"]
    assert training["name"] == "taught-fox"
    assert training["values"]["val_size"] == 0
    assert dataset_words(studio_of(client), training["dataset"])["dataset"] == "taught"


def test_nothing_taught_is_no_plan(client: TestClient) -> None:
    assert client.post("/studio/teach/plan", json={}).status_code == 400
    for body in ({"replay": 1.0}, {"name": "../x"}, {"dataset": "nothing"}):
        assert client.post("/studio/teach/plan", json=body).status_code == 400


def test_the_same_older_rows_are_drawn_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    file = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"question {n}", "output": f"answer {n}"} for n in range(500)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, {"bad": 1}]))
    taught = [json.dumps({"messages": [{"role": "user", "content": "Who?"}]})] * 10
    drawn = []
    for _time in range(2):
        mix = write_mix(taught, {"dataset": str(file)}, 0.5)
        folder = tmp_path / "studio" / "data" / mix.id
        parts = find_datasets("older,probe", folder, max_samples=None, seed=0)
        drawn.append([[row for row in part.rows() if isinstance(row, Row)] for part in parts])
    older, probe = ([row.conversation for row in part] for part in drawn[0])
    assert [len(older), len(probe)] == [20, 20]
    assert not [row for row in older if row in probe]
    assert older == [row.conversation for row in drawn[1][0]]
