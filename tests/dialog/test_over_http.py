"""Any server that speaks OpenAI's API: what it streams becomes events, what it breaks is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from danlu.chat.remote_partner import RemotePartner
from danlu.chat.settings import ChatSettings
from danlu.cli.main import main
from danlu.dialog.events import End, Text, Thought, Usage
from danlu.dialog.over_http import ServerDialog
from danlu.errors import DanluError, UsageError
from danlu.text.conversation import Conversation, Message, ToolCall
from tests.helpers.program import free_port, serving

QUESTION = [{"role": "user", "content": "你好"}]


@contextmanager
def server(reply: bytes, status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that gives one reply to everything; yield its address and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"key": self.headers["Authorization"], "path": self.path, **body})
            self.do_GET()

        def log_message(self, *_words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def stream(*chunks: dict[str, Any]) -> bytes:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([": a comment\n\n", *lines, "data: [DONE]\n\n"]).encode()


def delta(reason: str | None = None, **fields: str) -> dict[str, Any]:
    return {"choices": [{"delta": fields, "finish_reason": reason}]}


def test_a_stream_becomes_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
    reply = stream(delta(reasoning_content="想"), delta(content="你"), delta("length"), usage)
    with server(reply) as (url, asked):
        events = list(ServerDialog(url).answer(QUESTION, "fox", {"seed": 3}))
    assert events == [
        Thought(text="想"), Text(text="你"), Usage(prompt_tokens=3, completion_tokens=5),
        End(reason="length"),
    ]  # fmt: skip
    (request,) = asked
    assert request["key"] == "Bearer a-key"
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["messages"], request["seed"]) == ("fox", QUESTION, 3)


def test_a_thought_between_tags_is_a_thought() -> None:
    with server(stream(delta(content="<thi"), delta("stop", content="nk>a</think>b"))) as (url, _):
        events = list(ServerDialog(url).answer(QUESTION, "fox", {}))
    assert events[:2] == [Thought(text="a"), Text(text="b")]


@pytest.mark.parametrize(
    ("reply", "status", "why"),
    [
        (b'{"error": {"message": "no such model"}}', 404, "no such model"),
        (b"<html>", 502, "<html>"),
        (stream(delta(content="half")), 200, "the answer ended in its middle"),
        (stream({"error": {"message": "out of memory"}}), 200, "out of memory"),
    ],
)
def test_what_a_server_breaks_is_said(reply: bytes, status: int, why: str) -> None:
    with server(reply, status) as (url, _asked), pytest.raises(DanluError) as fault:
        list(ServerDialog(url).answer(QUESTION, "fox", {}))
    assert fault.value.why == why


def test_a_server_that_is_not_there_or_another_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "hello", "--url", f"http://127.0.0.1:{free_port()}"]) == 3
    with server(b'{"data": "none"}') as (url, _asked):
        assert main(["chat", "--url", url]) == 5
    assert "does not speak OpenAI's API" in capsys.readouterr().err
    for url in ("ftp://host", "http://", "http://host:port"):
        with pytest.raises(UsageError):
            ServerDialog(url)


def test_a_chat_over_danlu_serve_answers_as_a_chat_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    question = ["你好", "--do_sample", "false"]
    assert main(["chat", "starter", *question]) == 0
    here = capsys.readouterr().out
    port = free_port()
    with serving(["serve", "--port", port]):
        assert main(["chat", "--url", f"http://127.0.0.1:{port}", "--prompt", *question]) == 0
        there = capsys.readouterr().out
        assert main(["chat", "missing", "hi", "--url", f"127.0.0.1:{port}"]) == 2
        assert "There are: starter" in capsys.readouterr().err
    assert there == here


def test_a_conversation_with_tools_is_not_sent_as_one_without() -> None:
    tool = {"type": "function", "function": {"name": "weather"}}
    question = Message(role="user", content="?")
    call = Message(role="assistant", tool_calls=(ToolCall(name="weather", arguments={}),))
    partner = RemotePartner(ServerDialog("http://127.0.0.1:1"), ["base"])
    for conversation in (
        Conversation(messages=(question,), tools=(tool,)),
        Conversation(messages=(question, call, Message(role="tool", content="rain"))),
    ):
        with pytest.raises(UsageError, match="with tools is not sent"):
            partner.answer(conversation, ChatSettings(), voice="base")
