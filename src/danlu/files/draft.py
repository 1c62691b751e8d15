"""Where the files of an unfinished folder are written: the interface, and a draft in memory.

The draft of a committed folder is in `committed`. Knows names and bytes, not what they mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from danlu.files.atomic import Content, pieces
from danlu.files.disk import Bytes


class Stream(Protocol):
    """A file that is written piece by piece."""

    def write(self, data: Bytes) -> None:
        """Append bytes."""
        ...


class Draft(ABC):
    """An unfinished folder. Names are plain file names, each used once."""

    @abstractmethod
    def stream(self, name: str) -> AbstractContextManager[Stream]:
        """Open one file for writing piece by piece; it is finished at the end of the block."""

    def write(self, name: str, content: Content) -> None:
        """Write one whole file: bytes, text (stored as UTF-8) or pieces of bytes."""
        with self.stream(name) as file:
            for piece in pieces(content):
                file.write(piece)


class HeldDraft(Draft):
    """A draft in memory, with a copy of every byte: its source may change at once."""

    def __init__(self) -> None:
        self._files: dict[str, _HeldFile] = {}

    @contextmanager
    def stream(self, name: str) -> Iterator[Stream]:
        """Open one file for writing piece by piece."""
        file = self._files[name] = _HeldFile()
        yield file

    def copy_into(self, draft: Draft) -> None:
        """Write all files, in the same order, into another draft."""
        for name, file in self._files.items():
            draft.write(name, file.pieces)


class _HeldFile:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: Bytes) -> None:
        self.pieces.append(bytes(data))
