"""h11's parser, with a bound on the work that a request can make of few bytes.

A chunk of a body costs the same however short it is, so one client that sends its body byte by byte
would keep the event loop busy. Also refuses what two parsers may read as two different requests.
Source: RFC 9112, section 6.1, about Content-Length beside Transfer-Encoding.
"""

from __future__ import annotations

from typing import Any

import h11

from danlu.language import _

# A body may have this many chunks of any size; all others must hold this much on average.
SMALL_CHUNKS = 1000
CHUNK_BYTES = 256


class HttpParser(h11.Connection):
    """A server's parser of one connection.

    refusal: why the request was refused, where it is more than that it is no HTTP/1.1.
    """

    refusal: str | None = None
    _num_chunks = 0
    _num_bytes = 0

    def next_event(self) -> Any:
        """Return the next event. Raises h11.RemoteProtocolError for what is refused."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._num_chunks = self._num_bytes = 0
            names = {name for name, _value in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise self._refused(
                    _("The request has both a Content-Length and a Transfer-Encoding.")
                )
        elif isinstance(event, h11.Data):
            self._num_chunks += event.chunk_start
            self._num_bytes += len(event.data)
            if self._num_chunks > SMALL_CHUNKS + self._num_bytes // CHUNK_BYTES:
                raise self._refused(
                    _("The body comes in too many small chunks: send {size} bytes in each.").format(
                        size=CHUNK_BYTES
                    )
                )
        return event

    def _refused(self, why: str) -> h11.RemoteProtocolError:
        self.refusal = why
        return h11.RemoteProtocolError(why)
