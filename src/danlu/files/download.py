"""A file over HTTP into a file that grows: what is there already is not downloaded again.

Knows ranges, servers that ignore them, and cut connections. Must not know what the file means, nor
whether its content is right: whoever asks for it checks that.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from danlu import __version__
from danlu.errors import EnvironmentFault
from danlu.files import disk
from danlu.files.os_errors import explained
from danlu.language import _
from danlu.reasons import library_reason, reason_of

# A server that says nothing for so long is asked again; so often in a row, with growing pauses.
SILENCE_S = 30.0
# Whether a hub can be reached at all is known sooner.
REACH_S = 10.0
TRIES = 6
PAUSE_S = 1.0
_PIECE, _SHOW_S = 1 << 20, 0.5
# Busy, or a gateway between that is: these pass.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_OUT_OF_RANGE = 416
_MOST_ANSWER = 16 << 20


class OtherFile(Exception):
    """The server's file is not as long as it is said to be."""


def fetch(address: str) -> bytes:
    """Return a small answer, such as a listing. Raises EnvironmentFault."""
    try:
        with _opened(address, begin=0, silence_s=REACH_S) as answer:
            data = answer.read(_MOST_ANSWER)
    except urllib.error.HTTPError as fault:
        raise EnvironmentFault(
            _("{address} cannot be read.").format(address=address),
            why=_("The server answers: {reason}.").format(reason=_status(fault)),
            fix=_("Try again later, or take another source."),
        ) from fault
    except (OSError, ValueError, HTTPException) as fault:
        raise EnvironmentFault(
            _("{address} cannot be read.").format(address=address),
            why=_("{address} does not answer: {reason}.").format(
                address="{0.scheme}://{0.netloc}".format(urlsplit(address)), reason=reason_of(fault)
            ),
            fix=_("Check the network."),
        ) from fault
    return data


def download(address: str, file: Path, *, size: int) -> Iterator[int]:
    """Add to a file what it lacks of `size` bytes; yield how many it has, again and again.

    A connection that is cut or silent is made again, until several in a row bring nothing. Raises
    EnvironmentFault, with all that came so far in the file, CapacityError for a full disk, and
    OtherFile.
    """
    _add(file, b"")
    barren = 0
    while (have := file.stat().st_size) != size:
        if have > size:
            disk.DISK.remove(file)
            raise OtherFile
        reason = ""
        try:
            yield from _continued(address, file, have=have, size=size)
        except urllib.error.HTTPError as fault:
            if fault.code == _OUT_OF_RANGE:
                raise OtherFile from fault
            reason = _status(fault)
            if fault.code not in _PASSING:
                raise _given_up(address, reason) from fault
        except (OSError, HTTPException) as fault:
            reason = reason_of(fault)
        barren = 0 if file.stat().st_size > have else barren + 1
        if barren == TRIES:
            raise _given_up(address, reason or _("the connection was cut"))
        time.sleep(PAUSE_S * (2**barren - 1))


def _continued(address: str, file: Path, *, have: int, size: int) -> Iterator[int]:
    """Take from one connection what it brings."""
    with _opened(address, begin=have) as answer:
        begin, whole = _place(answer)
        if whole not in (None, size):
            raise OtherFile
        if begin > have:
            raise OSError(_("another part of the file came"))
        # A server that ignores ranges begins at the beginning.
        while begin < have and (piece := answer.read(min(_PIECE, have - begin))):
            begin += len(piece)
            yield have
        while piece := _piece(answer):
            if have + len(piece) > size:
                raise OtherFile
            _add(file, piece)
            have += len(piece)
            yield have


def _piece(answer: HTTPResponse) -> bytes:
    """Read a piece, a smaller one where bytes come slowly: whoever watches sees them come."""
    parts: list[bytes] = []
    size, deadline = 0, time.monotonic() + _SHOW_S
    while size < _PIECE and time.monotonic() < deadline:
        part = answer.read1(_PIECE - size)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _opened(address: str, *, begin: int, silence_s: float = SILENCE_S) -> HTTPResponse:
    headers = {"User-Agent": f"danlu/{__version__}", "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    request = urllib.request.Request(address, headers=headers)
    answer = urllib.request.urlopen(request, timeout=silence_s)
    return cast(HTTPResponse, answer)


def _place(answer: HTTPResponse) -> tuple[int, int | None]:
    """Return where in the file an answer begins, and the size of the whole file where it says."""
    length = answer.headers.get("Content-Length", "")
    if answer.status != 206:
        return 0, int(length) if length.isdecimal() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if found is None:
        raise OSError(_("the answer does not say which part of the file it is"))
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _add(file: Path, piece: bytes) -> None:
    with explained(file, len(piece)):
        disk.DISK.append(file, piece)


def _given_up(address: str, reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        _("The download of {address} has stopped.").format(address=address),
        why=_("The server answers: {reason}.").format(reason=reason),
        fix=_("Run the command again: it goes on where it stopped."),
    )


def _status(fault: urllib.error.HTTPError) -> str:
    return f"{fault.code} {library_reason(str(fault.reason))}".strip()
