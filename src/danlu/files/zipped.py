"""Files as one ZIP archive that is written while it is sent."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from danlu.files.regular import open_regular

_CHUNK_BYTES = 1 << 20


def zipped(files: Mapping[str, Path]) -> Iterator[bytes]:
    """Yield an archive that holds each file under its name there, a piece at a time.

    Nothing is compressed: weights do not get smaller. Raises what opening raises.
    """
    sent = _Sent()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files.items():
            entry = zipfile.ZipInfo.from_file(path, name)
            with open_regular(path) as file, archive.open(entry, "w", force_zip64=True) as member:
                while chunk := file.read(_CHUNK_BYTES):
                    member.write(chunk)
                    yield sent.taken()
    yield sent.taken()


class _Sent(io.RawIOBase):
    """Where the archive is written: only as much of it is held as was not taken yet."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        self._pieces.append(bytes(piece))
        return len(piece)

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
