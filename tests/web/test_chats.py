"""Chats: kept by the server, branching, their answers going on without the page."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.engine.request import Request as EngineRequest
from danlu.errors import CapacityError, DataError
from danlu.web.chats.kept_chats import KeptChats
from danlu.web.database import MIGRATIONS, Database
from tests.helpers.models import tiny_engine
from tests.helpers.studio import StudioClient, studio_client
from tests.helpers.waiting import wait_until

CHOICE = {"voice": "base"}


def ask(client: StudioClient, chat: str, content: str, before: int | None = None) -> dict[str, int]:
    body = {"content": content, "before": before, "settings": CHOICE}
    made = client.post(f"/studio/chats/{chat}/ask", json=body)
    assert made.status_code == 200, made.text
    return dict(made.json())


def answered(client: StudioClient, chat: str, content: str, before: int | None = None) -> int:
    made = ask(client, chat, content, before)
    client.events(f"/studio/chats/answers/{made['answer']}/events")
    return made["answer"]


def answer_events(answer: int) -> str:
    return f"/studio/chats/answers/{answer}/events"


def new_chat(client: StudioClient) -> str:
    return str(client.post("/studio/chats", json={}).json()["id"])


def turns(client: StudioClient, chat: str) -> dict[int, dict[str, Any]]:
    return {turn["id"]: turn for turn in client.get(f"/studio/chats/{chat}").json()["turns"]}


def prompts(client: StudioClient) -> list[str]:
    tokenizer = tiny_engine.tokenizer()
    return [tokenizer.decode(request.prompt) for request in client.engine.requests]


def test_an_answer_is_streamed_kept_and_found(tmp_path: Path) -> None:
    with studio_client(tmp_path, lambda _request: "<think>\nhm\n</think>\n\nyes") as client:
        chat = new_chat(client)
        made = ask(client, chat, "is it so?")
        events = client.events(f"/studio/chats/answers/{made['answer']}/events")
        said = "".join(event["text"] for _id, event in events if event["kind"] == "text")
        assert said.strip() == "yes"
        turn = turns(client, chat)[made["answer"]]
        assert (turn["content"].strip(), turn["reasoning"].strip()) == ("yes", "hm")
        assert turn["state"] == "done"
        assert turn["facts"]["tokens"] > 0
        assert client.get("/studio/chats?search=it so").json()[0]["id"] == chat
        assert client.get("/studio/chats?search=100%").json() == []


def test_a_page_that_was_away_gets_what_it_missed(tmp_path: Path) -> None:
    with studio_client(tmp_path, lambda _request: "one two three four") as client:
        client.engine.step_seconds = 0.02
        made = ask(client, new_chat(client), "count")
        path = f"/studio/chats/answers/{made['answer']}/events"
        client.engine.step_seconds = 0.05
        all_of_it = client.events(path)
        assert [number for number, _event in all_of_it] == list(range(1, len(all_of_it) + 1))
        later = ask(client, new_chat(client), "count")
        rest = client.events(f"/studio/chats/answers/{later['answer']}/events", seen=3)
        assert rest[0][0] == 4


def test_editing_and_asking_again_make_branches(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        first = ask(client, chat, "first")
        client.events(f"/studio/chats/answers/{first['answer']}/events")
        answered(client, chat, "second", first["answer"])
        edited = answered(client, chat, "instead", first["answer"])
        again = client.post(
            f"/studio/chats/{chat}/again", json={"question": first["question"], "settings": CHOICE}
        ).json()["answer"]
        client.events(f"/studio/chats/answers/{again}/events")
        kept = turns(client, chat)
        assert kept[again]["before"] == kept[first["answer"]]["before"] == first["question"]
        assert kept[kept[edited]["before"]]["before"] == first["answer"]
        assert client.get(f"/studio/chats/{chat}").json()["shown"] == again
        # What a branch does not hold is not asked.
        assert "second" not in prompts(client)[2]
        assert "instead" in prompts(client)[2]


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat, other = new_chat(client), new_chat(client)
        turn = answered(client, chat, "hello")
        question = {"content": "x", "settings": CHOICE}
        for path, body in (
            (f"/studio/chats/{other}/ask", {**question, "before": turn}),
            (f"/studio/chats/{chat}/ask", {**question, "before": 10_000}),
            ("/studio/chats/none/ask", question),
            (f"/studio/chats/{chat}/ask", {**question, "content": ""}),
            (f"/studio/chats/{chat}/ask", {**question, "settings": {"voice": "base", "x": 1}}),
            (f"/studio/chats/{chat}/again", {"question": turn, "settings": CHOICE}),
            (f"/studio/chats/{chat}/correct", {"answer": turn - 1, "content": "x"}),
            (f"/studio/chats/{chat}/ask", {**question, "before": 2**70}),
        ):
            assert client.post(path, json=body).status_code == 400, (path, body)
        assert len(turns(client, chat)) == 2
        assert turns(client, other) == {}


def test_an_unknown_voice_is_an_error_of_the_answer(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        body = {"content": "x", "settings": {"voice": "../../etc"}}
        answer = client.post(f"/studio/chats/{chat}/ask", json=body).json()["answer"]
        events = client.events(f"/studio/chats/answers/{answer}/events")
        assert "no voice" in events[0][1]["message"]
        assert turns(client, chat)[answer]["state"] == "failed"


def test_stopping_keeps_what_has_arrived(tmp_path: Path) -> None:
    with studio_client(tmp_path, lambda _request: "word " * 4000) as client:
        client.engine.step_seconds = 0.01
        chat = new_chat(client)
        answer = ask(client, chat, "go on")["answer"]
        log = client.studio.answers[f"turn {answer}"]
        wait_until(lambda: len(log.events) > 12)
        stopped = client.post(f"/studio/chats/answers/{answer}/stop", json={})
        assert stopped.json() == {"stopped": True}
        client.events(f"/studio/chats/answers/{answer}/events")
        turn = turns(client, chat)[answer]
        assert turn["state"] == "stopped"
        assert turn["content"].startswith("word w")
        wait_until(lambda: client.engine.num_unfinished == 0)


def test_what_the_engine_fails_at_is_told(tmp_path: Path) -> None:
    with studio_client(tmp_path, lambda _request: DataError("broken", why="y", fix="z")) as client:
        chat = new_chat(client)
        answer = answered(client, chat, "x")
        assert "broken" in turns(client, chat)[answer]["facts"]["error"]


def test_a_server_that_was_killed_leaves_no_running_answer(tmp_path: Path) -> None:
    database = Database(tmp_path / "studio.db")
    chats = KeptChats(database)
    chat = chats.create({})
    question = chats.add(chat, before=None, role="user", content="x")
    chats.add(chat, before=question, role="assistant", content="so f", state="running")
    database.close()
    again = Database(tmp_path / "studio.db")
    KeptChats(again).cut_off()
    assert [turn.state for turn in KeptChats(again).turns(chat)] == ["done", "stopped"]
    again.close()


def test_title_draft_and_branch_are_kept(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        answered(client, chat, "the first question names it")
        assert (
            client.patch(f"/studio/chats/{chat}", json={"draft": "half a sen"}).status_code == 200
        )
        assert client.patch(f"/studio/chats/{chat}", json={"title": ""}).status_code == 400
        kept = client.get(f"/studio/chats/{chat}").json()
        assert (kept["title"], kept["draft"]) == ("the first question names it", "half a sen")
        assert client.request("DELETE", f"/studio/chats/{chat}", json={}).status_code == 200
        assert client.get(f"/studio/chats/{chat}").status_code == 400
        assert client.studio.database.all("SELECT * FROM turns") == []


def test_the_gauge_counts_what_would_be_asked(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        answer = answered(client, chat, "hello there")

        def count(content: str, before: int | None) -> dict[str, Any]:
            body = {"content": content, "before": before, "settings": CHOICE}
            return dict(client.post(f"/studio/chats/{chat}/count", json=body).json())

        assert count("more", answer)["tokens"] > count("more", None)["tokens"] > 0
        assert count("more", None)["context"] == 4096
        full = count("long " * 9000, None)
        assert (full["tokens"], full["is_too_long"]) == (None, True)
        body = {"content": "more", "settings": {**CHOICE, "voice": "run:gone"}}
        gone = client.post(f"/studio/chats/{chat}/count", json=body).json()
        assert (gone["tokens"], gone["is_too_long"]) == (None, False)
        assert gone["problem"].startswith("There is no such run.")
        assert len(client.engine.requests) == 1


def test_a_correction_becomes_a_branch(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        answer = answered(client, chat, "who?")
        body = {"answer": answer, "content": "the right one"}
        right = client.post(f"/studio/chats/{chat}/correct", json=body).json()["answer"]
        kept = turns(client, chat)
        assert kept[right]["before"] == kept[answer]["before"]
        assert kept[right]["facts"]["corrected"] == answer
        answered(client, chat, "and?", right)
        assert "the right one" in prompts(client)[-1]


def test_10_000_chats_are_listed_and_searched_at_once(tmp_path: Path) -> None:
    database = Database(tmp_path / "studio.db")
    with database.transaction() as connection:
        connection.executemany(
            "INSERT INTO chats (id, title, created, changed, settings) VALUES (?, ?, 0, ?, '{}')",
            ((str(n), f"chat {n}", n) for n in range(10_000)),
        )
        connection.executemany(
            "INSERT INTO turns (chat, role, content, state, created) "
            "VALUES (?, 'user', ?, 'done', 0)",
            ((str(n % 10_000), f"text {n} 好 " * 20) for n in range(40_000)),
        )
    chats = KeptChats(database)
    least = {}
    for search in ("", "text 39999 "):
        times = []
        for _ in range(3):
            started = time.process_time()
            found = chats.titles(search)
            times.append(time.process_time() - started)
        least[search] = min(times)
        assert found[0]["id"] == "9999"
    assert least[""] < 0.2
    assert least["text 39999 "] < 0.2
    database.close()


def test_a_newer_or_foreign_database_is_refused(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(DataError, match="newer"):
        Database(newer)
    foreign = tmp_path / "foreign.db"
    foreign.write_text("no database " * 100)
    with pytest.raises(DataError, match="cannot be used"):
        Database(foreign)


def test_without_a_model_chats_can_be_read_but_not_asked(tmp_path: Path) -> None:
    with studio_client(tmp_path, has_model=False) as client:
        chat = new_chat(client)
        assert client.get("/studio/chats").json()[0]["id"] == chat
        body = {"content": "x", "settings": CHOICE}
        assert client.post(f"/studio/chats/{chat}/ask", json=body).status_code == 503
        assert turns(client, chat) == {}
        assert client.get("/v1/models").status_code == 503


def test_prompts_of_a_system_prompt_and_a_seed(tmp_path: Path) -> None:
    seen: list[EngineRequest] = []

    def script(request: EngineRequest) -> str:
        seen.append(request)
        return "x"

    with studio_client(tmp_path, script) as client:
        chat = new_chat(client)
        settings = {
            "voice": "base",
            "system": "Be brief.",
            "seed": 7,
            "temperature": 0.3,
            "top_k": 5,
        }
        made = client.post(
            f"/studio/chats/{chat}/ask", json={"content": "hello", "settings": settings}
        ).json()
        client.events(f"/studio/chats/answers/{made['answer']}/events")
    sampling = seen[0].sampling
    assert (sampling.seed, sampling.temperature, sampling.top_k) == (7, 0.3, 5)
    assert "Be brief." in tiny_engine.tokenizer().decode(seen[0].prompt)


def test_with_a_seed_nothing_is_taken_from_the_cache(tmp_path: Path) -> None:
    """A prompt that was found computed differs in its last bits, and so might the answer."""
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        for settings in ({"seed": 7}, {"seed": 7}, {}, {}):
            body = {"content": "hello", "settings": settings}
            answer = client.post(f"/studio/chats/{chat}/ask", json=body).json()["answer"]
            client.events(f"/studio/chats/answers/{answer}/events")
        owners = [request.owner for request in client.engine.requests]
        assert len(set(owners)) == 3
        assert owners[2] == owners[3]


def test_a_chat_with_another_model_is_not_answered_by_this_one(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        for model, said in (("tiny", "an answer"), ("Qwen3-8B", "")):
            body = {"content": "x", "settings": {"model": model}}
            answer = client.post(f"/studio/chats/{chat}/ask", json=body).json()["answer"]
            client.events(f"/studio/chats/answers/{answer}/events")
            turn = turns(client, chat)[answer]
            assert turn["content"] == said
            assert ("Qwen3-8B" in turn["facts"].get("error", "")) == (not said)


def test_only_a_turn_of_the_chat_can_be_shown(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        answered(client, chat, "hello")
        for shown in (999_999, -5, 2**70):
            path = f"/studio/chats/{chat}"
            assert client.patch(path, json={"shown": shown}).status_code == 400


def test_an_answer_ends_where_it_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, or another program holds the file: whoever waits is told."""
    with studio_client(tmp_path) as client:
        chat = new_chat(client)

        def full(*_words: object, **_values: object) -> None:
            raise CapacityError("The disk is full.", why="y", fix="z")

        monkeypatch.setattr(KeptChats, "write_answer", full)
        answer = ask(client, chat, "hello")["answer"]
        events = client.events(f"/studio/chats/answers/{answer}/events")
        assert events[-1][1]["state"] == "failed"
        assert "disk is full" in events[-1][1]["facts"]["error"]


def test_a_locked_database_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danlu.web.database._PATIENCE_S", 0.1)
    with studio_client(tmp_path) as client:
        other = sqlite3.connect(tmp_path / "studio.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = client.post("/studio/chats", json={})
        assert answer.status_code == 503
        assert "cannot be used at the moment" in answer.json()["error"]["message"]
        other.execute("ROLLBACK")
        other.close()
        assert client.post("/studio/chats", json={}).status_code == 200


def test_a_long_prompt_says_how_far_it_is_read(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        client.engine.tokens_per_step, client.engine.step_seconds = 100, 0.02
        made = ask(client, new_chat(client), "word " * 300)
        events = [event for _n, event in client.events(answer_events(made["answer"]))]
        read = [event["tokens"] for event in events if event["kind"] == "reading"]
        prompt = next(event for event in events if event["kind"] == "prompt")["prompt_tokens"]
        assert read == list(range(100, prompt, 100))
        # 5,000 a second; beside other work some events come late, and then together.
        rates = [event["rate"] for event in events if event["kind"] == "reading"]
        assert 0 < rates[-1] < 20_000


TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "tells the weather"},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def test_a_tool_is_called_and_its_result_answered(tmp_path: Path) -> None:
    def script(request: EngineRequest) -> str:
        prompt = tiny_engine.tokenizer().decode(request.prompt)
        return "It rains." if "<tool_response>" in prompt else CALL

    with studio_client(tmp_path, script) as client:
        chat, choice = new_chat(client), {**CHOICE, "tools": [TOOL]}
        body = {"content": "and in Rome?", "settings": choice}
        client.engine.step_seconds = 0.02
        made = client.post(f"/studio/chats/{chat}/ask", json=body).json()
        early = {"answer": made["answer"], "results": ["x"], "settings": choice}
        refused = client.post(f"/studio/chats/{chat}/results", json=early)
        assert "still being written" in refused.json()["error"]["message"]
        client.engine.step_seconds = 0.0
        client.events(answer_events(made["answer"]))
        assert "tells the weather" in prompts(client)[-1]
        [call] = turns(client, chat)[made["answer"]]["tool_calls"]
        assert call["function"]["name"] == "weather"
        body = {"answer": made["answer"], "results": [], "settings": choice}
        assert client.post(f"/studio/chats/{chat}/results", json=body).status_code == 400
        body["results"] = ["rain", "snow"]
        assert client.post(f"/studio/chats/{chat}/results", json=body).status_code == 400
        body["results"] = ["rain"]
        then = client.post(f"/studio/chats/{chat}/results", json=body).json()
        client.events(answer_events(then["answer"]))
        assert turns(client, chat)[then["answer"]]["content"] == "It rains."
        assert turns(client, chat)[then["results"][0]]["role"] == "tool"
        again = {"question": then["results"][0], "settings": choice}
        other = client.post(f"/studio/chats/{chat}/again", json=again).json()["answer"]
        client.events(answer_events(other))
        assert turns(client, chat)[other]["content"] == "It rains."


@pytest.mark.parametrize("tools", [[{}], [{"type": "function", "function": {"name": ""}}], {}, [3]])
def test_tools_that_are_none_are_refused(tmp_path: Path, tools: Any) -> None:
    with studio_client(tmp_path) as client:
        body = {"content": "x", "settings": {**CHOICE, "tools": tools}}
        asked = client.post(f"/studio/chats/{new_chat(client)}/ask", json=body)
        assert asked.status_code == 400


def test_a_database_that_is_gone_is_told_before_anything_is_lost(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        chat = new_chat(client)
        (tmp_path / "studio.db").rename(tmp_path / "moved.db")
        refused = client.post("/studio/chats", json={})
        assert "studio.db is gone" in refused.json()["error"]["message"]
        assert "moved or removed" in refused.json()["error"]["message"]
        (tmp_path / "moved.db").rename(tmp_path / "studio.db")
        assert client.get("/studio/chats").json()[0]["id"] == chat
