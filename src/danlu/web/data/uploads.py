"""Files that a browser uploads: streamed to the disk, whole or not at all, under our own names."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request

from danlu.data.reading.encoding import encoding_of
from danlu.data.reading.rows import READERS
from danlu.errors import UsageError
from danlu.files.committed import committed_folder, discard
from danlu.files.os_errors import require_free
from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.request_body import BODY_SECONDS, SLOWEST_BYTES_PER_SECOND
from danlu.text.printable import one_line
from danlu.units import readable_bytes
from danlu.web.data.data_folders import UPLOAD_FILE, KnownSet, sets_folder

UPLOADS = "/studio/data/uploads"
_CONTENT_TYPE = "application/octet-stream"
_LONGEST_NAME = 120
# Files that are text; the others have an encoding of their own.
_TEXTS = (".csv", ".txt", ".json", ".jsonl")
# Bytes that are gathered before a thread writes them.
_PIECE_BYTES = 1 << 20
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What an upload became. encoding: what its text was converted from; "" where it is UTF-8."""

    id: str
    encoding: str = ""


async def receive_upload(request: Request, name: str, *, limit: int) -> Upload:
    """Write a request's body as a new data set. Text in GBK or UTF-16 is converted to UTF-8.

    name: what to call it, of which only the ending counts. limit: in bytes. Raises ApiError for a
    body that is no file, too large, empty or too slow, UsageError for a type that is not read, and
    what writing raises; nothing is left behind then.
    """
    shown = shown_name(name)
    declared = _check_headers(request.headers, limit)
    id_of_set = secrets.token_hex(8)
    folder, file = sets_folder() / id_of_set, f"rows{PurePosixPath(shown).suffix.lower()}"
    await asyncio.to_thread(require_free, folder, declared)
    record = {"name": shown, "file": file, "created": time.time()}
    async with _on_threads(committed_folder(folder)) as draft:
        size, text_as = 0, _AsUtf8(PurePosixPath(file).suffix)
        async with _on_threads(draft.stream(file)) as write:
            async for piece in _pieces(request, limit):
                size += len(piece)
                await asyncio.to_thread(write, text_as.convert(piece))
            await asyncio.to_thread(write, text_as.end())
        if not size:
            raise ApiError(400, _("The file is empty."))
        record["encoding"] = text_as.name
        text = json.dumps(record, ensure_ascii=False) + "\n"
        await asyncio.to_thread(draft.write, UPLOAD_FILE, text)
    return Upload(id=id_of_set, encoding=text_as.name)


class _AsUtf8:
    """Converts a text that is not UTF-8, told by its first piece; all else stays as it is.

    Table programs on Chinese systems save CSV in GBK. name: as people call the encoding.
    """

    def __init__(self, suffix: str) -> None:
        self.name = ""
        self._is_text = suffix in _TEXTS
        self._decoder: codecs.IncrementalDecoder | None = None

    def convert(self, piece: bytes) -> bytes:
        """Return the next piece in UTF-8. Raises ApiError where it is not what it looked like."""
        if self._is_text:
            self._is_text = False
            if (encoding := encoding_of(piece)) is not None:
                self.name = "GBK" if encoding == "GB18030" else encoding
                self._decoder = codecs.getincrementaldecoder(encoding)()
        return piece if self._decoder is None else self._decoded(piece, is_last=False)

    def end(self) -> bytes:
        """Return what is left."""
        return b"" if self._decoder is None else self._decoded(b"", is_last=True)

    def _decoded(self, piece: bytes, *, is_last: bool) -> bytes:
        assert self._decoder is not None
        try:
            return self._decoder.decode(piece, is_last).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise ApiError(
                400,
                _("The text is {encoding} in the beginning, and not further on.").format(
                    encoding=self.name
                ),
            ) from None


def shown_name(name: str) -> str:
    """Return the name by which an upload is shown: one line, without folders.

    Raises UsageError for a type of file that is not read.
    """
    shown = one_line(re.split(r"[/\\]", name.encode("utf-8", "replace").decode())[-1]).strip()
    suffix = PurePosixPath(shown).suffix
    if suffix.lower() not in READERS:
        raise UsageError(
            _("This type of file is not read."),
            why=_("Known types are {types}.").format(types=", ".join(READERS)),
            fix=_("Convert it to .jsonl: one JSON object a line."),
        )
    return shown[: _LONGEST_NAME - len(suffix)].removesuffix(suffix) + suffix


def remove_upload(known: KnownSet) -> None:
    """Remove an uploaded data set. Raises UsageError for one that was not uploaded."""
    if known.kind != "upload":
        raise UsageError(
            _("{name} cannot be deleted here.").format(name=known.name),
            why=_("It was not uploaded."),
            fix=_("Remove its file from the server."),
        )
    discard(known.folder)


def _check_headers(headers: Headers, limit: int) -> int:
    """Refuse what is no upload of a page of ours; return the bytes that it promises."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _CONTENT_TYPE:
        raise ApiError(
            415,
            _("Send the file as it is, with the header content-type: {kind}").format(
                kind=_CONTENT_TYPE
            ),
            code="unsupported_media_type",
        )
    declared = headers.get("content-length", "0")
    size = int(declared[:20]) if declared.isascii() and declared.isdigit() else 0
    if size > limit:
        raise _too_large(limit)
    return size


async def _pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the body in large pieces, as it comes. Raises ApiError where it is refused."""
    loop = asyncio.get_running_loop()
    began, size, waiting = loop.time(), 0, bytearray()
    while True:
        deadline = began + BODY_SECONDS + size / SLOWEST_BYTES_PER_SECOND
        try:
            message = await asyncio.wait_for(request.receive(), deadline - loop.time())
        except asyncio.TimeoutError:
            raise ApiError(
                408,
                _("The body took too long to arrive."),
                code="timeout",
                headers={"connection": "close"},
            ) from None
        if message["type"] == "http.disconnect":
            raise ApiError(400, _("The body ended too early."))
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        waiting += piece
        is_last = not message.get("more_body", False)
        if waiting and (is_last or len(waiting) >= _PIECE_BYTES):
            yield bytes(waiting)
            waiting.clear()
        if is_last:
            return


@asynccontextmanager
async def _on_threads(manager: AbstractContextManager[_Value]) -> AsyncIterator[_Value]:
    """Enter and leave a block that writes to the disk without holding up the event loop."""
    value = await asyncio.to_thread(manager.__enter__)
    try:
        yield value
    except BaseException as problem:
        await asyncio.to_thread(manager.__exit__, type(problem), problem, problem.__traceback__)
        raise
    await asyncio.to_thread(manager.__exit__, None, None, None)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        _("The file is larger than {size}.").format(size=readable_bytes(limit)),
        code="request_too_large",
        headers={"connection": "close"},
    )
