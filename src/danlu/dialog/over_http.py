"""Messages in, typed events out, over HTTP: any server that speaks OpenAI's chat API.

Knows the API and its server-sent events; loads neither torch nor an HTTP library beyond Python's
own. Must not know screens. What a server sends is not trusted: lines and errors are bounded.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

from danlu.dialog.events import End, Event, Text, Thought, Usage
from danlu.errors import DataError, EnvironmentFault, UsageError
from danlu.language import _
from danlu.reasons import as_sentence, reason_of
from danlu.text.parse import Parser

_MOST_LINE_BYTES = 1 << 20
_MOST_SHOWN = 300
# A large model on a slow machine may need long for its first token.
_PATIENCE_S = 600


class ServerDialog:
    """Talks to the server below `url`, such as http://127.0.0.1:8000/v1.

    The key is OPENAI_API_KEY's, as other programs read it. Raises UsageError for what is no URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise UsageError(
                _("{url} is no address of a server.").format(url=url),
                why=_("It begins with http:// or https://, and names a host."),
                fix="--url http://127.0.0.1:8000",
            )
        self._parts, self._port = parts, port
        path = parts.path.rstrip("/")
        self._path = path if path.endswith("/v1") else f"{path}/v1"
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._path}"

    def models(self) -> list[str]:
        """List the server's models. Raises EnvironmentFault and DataError."""
        with self._reply("GET", "/models", None) as response:
            listed = response.read(_MOST_LINE_BYTES)
        try:
            return [str(entry["id"]) for entry in json.loads(listed)["data"]]
        except (ValueError, TypeError, KeyError) as fault:
            raise self._not_openai() from fault

    def answer(
        self, messages: Sequence[Mapping[str, Any]], model: str, settings: Mapping[str, Any]
    ) -> Generator[Event, None, None]:
        """Yield the events of the next answer; Usage and End come last.

        settings: further fields of the request. Closing the iterator ends the connection, and with
        it the answer. Raises EnvironmentFault and DataError.
        """
        body = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **settings,
        }
        with self._reply("POST", "/chat/completions", body) as response:
            yield from self._events(response)

    def _events(self, response: http.client.HTTPResponse) -> Iterator[Event]:
        parser = Parser(may_call=False)  # servers without a reasoning parser send the tags as text
        reason = None
        usage: Mapping[str, Any] = {}
        pieces = 0
        for chunk in _chunks(response):
            if "error" in chunk:
                raise self._broken(_message_of(chunk))
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices") or ():
                delta = choice.get("delta") or {}
                thought = delta.get("reasoning_content") or delta.get("reasoning")
                if isinstance(thought, str):
                    yield Thought(text=thought)
                if isinstance(delta.get("content"), str):
                    pieces += 1
                    yield from (
                        piece
                        for piece in parser.feed(delta["content"])
                        if isinstance(piece, Thought | Text)
                    )
                reason = choice.get("finish_reason") or reason
        for piece in parser.finish():
            if isinstance(piece, Thought | Text):
                yield piece
        if reason is None:
            raise self._broken(_("the answer ended in its middle"))
        yield Usage(
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or pieces),
        )
        yield End(reason="length" if reason == "length" else "stop")

    @contextmanager
    def _reply(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and hand out the reply; whatever breaks is an EnvironmentFault."""
        is_secret = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if is_secret else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._port, timeout=_PATIENCE_S)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with closing(connection):
                connection.request(method, self._path + path, data, headers)
                with connection.getresponse() as response:
                    if response.status != 200:
                        raise self._refused(response.status, response.read(_MOST_LINE_BYTES))
                    yield response
        except (OSError, http.client.HTTPException) as fault:
            raise self._broken(as_sentence(reason_of(fault))) from fault

    def _refused(self, status: int, content: bytes) -> EnvironmentFault:
        try:
            said = _message_of(json.loads(content))
        except ValueError:
            said = content.decode("utf-8", errors="replace")[:_MOST_SHOWN]
        fix = _("Correct the question or the settings.")
        if status in (401, 403):
            fix = "export OPENAI_API_KEY=..."
        return EnvironmentFault(
            _("The server at {url} refused ({status}).").format(url=self.url, status=status),
            why=said or "-",
            fix=fix,
        )

    def _broken(self, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            _("The server at {url} did not answer.").format(url=self.url),
            why=why,
            fix=_("Start it, or correct the address: danlu chat --url http://127.0.0.1:8000"),
        )

    def _not_openai(self) -> DataError:
        return DataError(
            _("The server at {url} does not speak OpenAI's API.").format(url=self.url),
            why=_("Its list of models cannot be read."),
            fix=_("Correct the address; danlu serve speaks it."),
        )


def _chunks(response: http.client.HTTPResponse) -> Iterator[Mapping[str, Any]]:
    """Read server-sent events up to [DONE]; lines that hold no object are passed over."""
    while line := response.readline(_MOST_LINE_BYTES):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError:
            continue
        if isinstance(chunk, dict):
            yield chunk


def _message_of(reply: Any) -> str:
    error = reply.get("error") if isinstance(reply, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return str(said or reply)[:_MOST_SHOWN]
