"""How much may come in, and in which form, enforced while it comes in.

A body is read here, whole, within its size and time; what a JSON parser could choke on (depth,
numbers that are none, other encodings) is refused by linear scans before one sees it. Inner layers
get the body in one piece, and the client's disconnection as ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.language import _
from danlu.server.edge.errors import ApiError
from danlu.server.edge.logs import escaped

MAX_HEADER_BYTES = 16 * 1024
MAX_DEPTH = 32
# A body has so long, and a second more for every so many bytes that have come.
BODY_SECONDS = 10.0
SLOWEST_BYTES_PER_SECOND = 16 * 1024
SKIP_SECONDS = 1.0
# Longer bodies are scanned on a thread, so that others do not wait for it.
_LONG_BODY = 64 * 1024
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_CLOSE = {"connection": "close"}

_log = logging.getLogger(__name__)


class Limits:
    """ASGI middleware that lets through only requests of bounded size and number.

    requests_per_key: how many of one key may be in at once. log_prompts: write bodies to the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        requests_per_key: int | None = None,
        log_prompts: bool = False,
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._requests_per_key = requests_per_key
        self._log_prompts = log_prompts
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        check_header_size(scope)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        check_form(headers)
        with _Seat(self._running, scope["state"].get("key", ""), self._requests_per_key):
            body = await read_body(headers, receive, limit=self._max_body_bytes)
            if len(body) > _LONG_BODY:
                await asyncio.to_thread(check_json, body)
            else:
                check_json(body)
            if self._log_prompts:
                text = escaped(body.decode("utf-8"))
                _log.info("request %s body %s", scope["state"].get("request_id"), text)
            await self._app(scope, _replaying(body, receive), send)


class _Seat:
    """A key's place among its running requests, for as long as a request takes."""

    def __init__(self, running: Counter[str], key: str, limit: int | None) -> None:
        self._running, self._key, self._limit = running, key, limit

    def __enter__(self) -> None:
        if self._limit is not None and self._running[self._key] >= self._limit:
            raise ApiError(
                429,
                _("This key has {limit} requests running, which is its limit.").format(
                    limit=self._limit
                ),
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"retry-after": "1"},
            )
        self._running[self._key] += 1

    def __exit__(self, *_exception: object) -> None:
        self._running[self._key] -= 1


def check_header_size(scope: Scope) -> None:
    """Refuse a request whose headers and path are larger than 16 KiB together."""
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    size += len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size > MAX_HEADER_BYTES:
        raise ApiError(431, _("The request's headers are larger than 16 KiB."))


def check_form(headers: Headers) -> None:
    """Refuse a body that is not plain JSON: no form of a web page, nothing packed."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415,
            _("Send the body as JSON, with the header content-type: application/json"),
            code="unsupported_media_type",
        )
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(
            415,
            _("Send the body as it is; content-encoding is not supported."),
            code="unsupported_media_type",
        )


async def read_body(headers: Headers, receive: Receive, *, limit: int) -> bytes:
    """Read a body of at most `limit` bytes, whatever its headers promise."""
    declared = headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        await _skip_rest(receive)
        raise _too_large(limit)
    loop = asyncio.get_running_loop()
    began = loop.time()
    body = bytearray()
    while True:
        deadline = began + BODY_SECONDS + len(body) / SLOWEST_BYTES_PER_SECOND
        try:
            message = await asyncio.wait_for(receive(), deadline - loop.time())
        except asyncio.TimeoutError:
            raise ApiError(
                408, _("The body took too long to arrive."), code="timeout", headers=_CLOSE
            ) from None
        if message["type"] == "http.disconnect":
            raise ApiError(400, _("The body ended too early."), headers=_CLOSE)
        body += message.get("body", b"")
        if len(body) > limit:
            await _skip_rest(receive)
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


async def _skip_rest(receive: Receive) -> None:
    """Let a client finish what it sends, for a moment: many read the answer only then."""

    async def skip() -> None:
        while (await receive()).get("more_body", False):
            pass

    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(skip(), SKIP_SECONDS)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        _("The body is larger than {limit} bytes.").format(limit=limit),
        code="request_too_large",
    )


def check_json(body: bytes) -> None:
    """Refuse what JSON parsers disagree about, in linear time.

    That is text which is not UTF-8, NaN and Infinity, which JSON does not have, and nesting deeper
    than 32. Whether the rest is JSON the parser will say.
    """
    position = body.find(b"\0")  # in no JSON, but in UTF-16, which parsers would accept
    if position < 0:
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as problem:
            position = problem.start
    if position >= 0:
        raise ApiError(
            400,
            _("The body is not UTF-8, at byte {position}.").format(position=position),
            code="invalid_json",
        )
    # Without escaped backslashes and quotes, every second piece between quotes is outside strings.
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    outside = b"".join(pieces)
    for word in (b"NaN", b"Infinity"):
        if word in outside:
            raise ApiError(
                400,
                _("The body is no JSON: {word} is no number of it.").format(word=word.decode()),
                code="invalid_json",
            )
    brackets = outside.translate(_ALIKE, _NOT_BRACKETS)
    for _depth in range(MAX_DEPTH):  # each round takes the innermost pairs away
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise ApiError(
            400,
            _(
                "The body is no JSON: its brackets do not match, or are nested deeper than {depth}."
            ).format(depth=MAX_DEPTH),
            code="invalid_json",
        )


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Give out the body once, then what else comes from the client."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
