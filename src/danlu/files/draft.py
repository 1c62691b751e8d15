"""Where the files of an unfinished folder are written: the interface, and a draft in memory.

The draft of a committed folder is in `committed`. Knows names and bytes, not what they mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from danlu.files.atomic import Content, pieces
from danlu.files.disk import Bytes

# Appends bytes to the file that is being written.
Write = Callable[[Bytes], None]


class Draft(ABC):
    """An unfinished folder. Names are plain file names, each used once."""

    @abstractmethod
    def stream(self, name: str) -> AbstractContextManager[Write]:
        """Open one file for writing piece by piece; it is finished at the end of the block."""

    def write(self, name: str, content: Content) -> None:
        """Write one whole file: bytes, text (stored as UTF-8) or pieces of bytes."""
        with self.stream(name) as write:
            for piece in pieces(content):
                write(piece)


class HeldDraft(Draft):
    """A draft in memory, with a copy of every byte: its source may change at once."""

    def __init__(self) -> None:
        self._files: dict[str, list[bytes]] = {}

    @contextmanager
    def stream(self, name: str) -> Iterator[Write]:
        """Open one file for writing piece by piece."""
        held = self._files[name] = []
        yield lambda data: held.append(bytes(data))

    def copy_into(self, draft: Draft) -> None:
        """Write all files, in the same order, into another draft."""
        for name, held in self._files.items():
            draft.write(name, held)
