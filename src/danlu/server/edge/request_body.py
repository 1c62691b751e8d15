"""Reads a request's body: its media type, size and time limits, and a scan before it is parsed.

Deep nesting, numbers that JSON does not have and other encodings are refused by linear scans before
a parser sees the body. Must not know routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import Receive

from danlu.language import _
from danlu.server.edge.http_errors import ApiError

MAX_DEPTH = 32
# Parsers hold up all threads while they work, and of bytes these are what takes them long.
MAX_NAMES = 32_768
MAX_CONTAINERS = 65_536
MAX_VALUES = 1_000_000
# A body has this long to arrive, and a second more for each of these many bytes that have come.
BODY_SECONDS = 10.0
SLOWEST_BYTES_PER_SECOND = 16 * 1024
# Longer bodies are scanned on a thread, so that other requests do not wait for it.
LONG_BODY = 64 * 1024
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_CLOSE = {"connection": "close"}


class BodyRoom:
    """How many bytes the bodies of all requests may hold together, from arrival to answer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    @contextmanager
    def part(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes bytes for one body; they are free again at the end.

        It raises ApiError where the others leave too few.
        """
        part = 0

        def take(size: int) -> None:
            nonlocal part
            if self.taken + size > self._most:
                raise ApiError(
                    503,
                    _("Too many long requests are under way. Try again in a moment."),
                    code="busy",
                    headers={"retry-after": "1"},
                )
            part += size
            self.taken += size

        try:
            yield take
        finally:
            self.taken -= part


async def read_json(
    headers: Headers, receive: Receive, *, limit: int, take: Callable[[int], None]
) -> bytes:
    """Read and scan a body of at most `limit` bytes. Raises ApiError where it is refused.

    take: is told how many bytes have come, and may refuse them.
    """
    body = await _read_body(headers, receive, limit=limit, take=take)
    if len(body) > LONG_BODY:
        await asyncio.to_thread(check_json, body)
    else:
        check_json(body)
    return body


def check_form(headers: Headers) -> None:
    """Refuse a body that is not plain JSON, by its headers: no HTML form, no compression."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        wish = _("Send the body as JSON, with the header content-type: application/json")
    elif headers.get("content-encoding", "identity").strip().lower() != "identity":
        wish = _("Send the body as it is; content-encoding is not supported.")
    else:
        return
    raise ApiError(415, wish, code="unsupported_media_type")


def check_no_body(headers: Headers) -> None:
    """Refuse a body where no route reads one: it would be parsed for nothing."""
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise ApiError(400, _("A request of this method has no body here."), headers=_CLOSE)


async def _read_body(
    headers: Headers, receive: Receive, *, limit: int, take: Callable[[int], None]
) -> bytes:
    """Read a body of at most `limit` bytes, whatever its headers promise."""
    declared = headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
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
        piece = message.get("body", b"")
        take(len(piece))
        body += piece
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        _("The body is larger than {limit} bytes.").format(limit=limit),
        code="request_too_large",
    )


def check_json(body: bytes) -> None:
    """Refuse what JSON parsers disagree about, in linear time.

    That is text which is not UTF-8, NaN and Infinity, which JSON does not have, and nesting deeper
    than 32. Also what has too many parts. Whether the rest is JSON the parser will say.
    """
    position = body.find(b"\0")  # in no JSON, but in UTF-16, which parsers would accept
    if position < 0:
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as problem:
            position = problem.start
    if position >= 0:
        raise _invalid(_("The body is not UTF-8, at byte {position}.").format(position=position))
    # Without escaped backslashes and quotes, every second piece between quotes is outside strings.
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    outside = b"".join(pieces)
    for word in (b"NaN", b"Infinity"):
        if word in outside:
            raise _invalid(
                _("The body is no JSON: {word} is no number of it.").format(word=word.decode())
            )
    brackets = outside.translate(_ALIKE, _NOT_BRACKETS)
    for _depth in range(MAX_DEPTH):  # each round takes the innermost pairs away
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise _invalid(
            _(
                "The body is no JSON: its brackets do not match, or are nested deeper than {depth}."
            ).format(depth=MAX_DEPTH)
        )
    _check_number(outside.count(b":"), MAX_NAMES, _("named fields"))
    _check_number(outside.count(b"[") + outside.count(b"{"), MAX_CONTAINERS, _("lists and objects"))
    _check_number(outside.count(b","), MAX_VALUES, _("values"))


def _check_number(number: int, most: int, things: str) -> None:
    if number > most:
        raise ApiError(
            400,
            _("The body holds {number} {things}, at most {most} are read.").format(
                number=number, things=things, most=most
            ),
            code="body_too_complex",
        )


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_json")
