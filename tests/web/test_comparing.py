"""Comparisons: one question and seed for all columns, streamed together, kept with the vote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.engine.request import Request as EngineRequest
from danlu.errors import DataError
from tests.helpers.studio import StudioClient, studio_client

TWO = [{"voice": "base"}, {"voice": "base", "temperature": 0.5}]


def compared(client: StudioClient, **fields: Any) -> str:
    made = client.post("/studio/compare", json={"prompt": "who?", "choices": TWO, **fields})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def test_columns_answer_together_with_one_seed(tmp_path: Path) -> None:
    seen: list[EngineRequest] = []

    def script(request: EngineRequest) -> str:
        seen.append(request)
        return f"answer {len(seen)}"

    with studio_client(tmp_path, script) as client:
        name = compared(client, seed=9)
        events = [event for _id, event in client.events(f"/studio/compare/{name}/events")]
        assert {event["column"] for event in events} == {0, 1}
        assert [request.sampling.seed for request in seen] == [9, 9]
        kept = client.get(f"/studio/compare/{name}").json()
        assert sorted(answer["text"] for answer in kept["answers"]) == ["answer 1", "answer 2"]
        assert kept["has_vote"] is False
        assert client.post(f"/studio/compare/{name}/vote", json={"column": 1}).status_code == 200
        (listed,) = client.get("/studio/compare").json()
        assert (listed["vote"], listed["has_vote"], listed["prompt"]) == (1, True, "who?")
        client.post(f"/studio/compare/{name}/vote", json={"column": None})
        assert client.get(f"/studio/compare/{name}").json()["has_vote"] is True
        client.request("DELETE", f"/studio/compare/{name}", json={})
        assert client.get(f"/studio/compare/{name}").status_code == 404


def test_a_column_that_fails_leaves_the_other(tmp_path: Path) -> None:
    answers = iter(["fine", DataError("broken", why="y", fix="z")])
    with studio_client(tmp_path, lambda _request: next(answers)) as client:
        name = compared(client)
        client.events(f"/studio/compare/{name}/events")
        kept = client.get(f"/studio/compare/{name}").json()["answers"]
        assert sorted(("error" in answer, answer["text"]) for answer in kept) == [
            (False, "fine"),
            (True, ""),
        ]


def test_one_column_or_five_are_refused(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        for choices in ([], TWO[:1], [TWO[0]] * 5, [{"voice": "base", "path": "/etc"}] * 2):
            body = {"prompt": "x", "choices": choices}
            assert client.post("/studio/compare", json=body).status_code == 400
        assert client.get("/studio/compare").json() == []
        assert client.post("/studio/compare/none/vote", json={"column": 0}).status_code == 404
