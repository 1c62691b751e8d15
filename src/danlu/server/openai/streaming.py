"""An answer as server-sent events, in the form that OpenAI's clients read.

Source: OpenAI's API reference, "Streaming"; the HTML standard's section on server-sent events for
comments, which keep connections open while a long prompt is read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from danlu.server.edge.errors import ApiError
from danlu.server.openai.answers import Answers, failure
from danlu.server.openai.disconnect import ClientGone, until_gone
from danlu.server.openai.reply import Reply, advance

# A comment every so many seconds without anything else; a stream begins after so long at most.
KEEP_ALIVE_SECONDS = 5.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
# No proxy may collect the events before it passes them on (the second is nginx's).
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
# Ends of a line for some clients, though not by the standard; JSON may hold them as escapes.
_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}

_log = logging.getLogger(__name__)


def event(fields: Mapping[str, Any]) -> bytes:
    """Write one event."""
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"data: {text.translate(_LINE_ENDS)}\n\n".encode()


async def events(answers: Answers, reply: Reply) -> AsyncGenerator[bytes, None]:
    """Yield the events of an answer; what fails on the way becomes the last one."""
    try:
        yield _joined(reply.opening())
        while not answers.are_complete:
            chunks = await advance(answers, reply, KEEP_ALIVE_SECONDS)
            if chunks is None:
                yield KEEP_ALIVE
            elif chunks:
                yield _joined(chunks)
        yield _joined(reply.closing()) + DONE
    except ApiError as problem:
        yield event(problem.body())
    except Exception as problem:
        yield event(failure(problem, answers.request_id).body())


def _joined(chunks: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(map(event, chunks))


class EventStream(Response):
    """Sends events while they come; closes the answers at the end, or when the client has gone."""

    media_type = "text/event-stream"

    def __init__(self, answers: Answers, reply: Reply, headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self._answers = answers
        self._reply = reply
        self.init_headers({**_HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await until_gone(receive, self._send_all(send))
        except (ClientGone, OSError):
            _log.debug("a client has gone before its answer was complete")
        finally:
            self._answers.close()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for piece in events(self._answers, self._reply):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
