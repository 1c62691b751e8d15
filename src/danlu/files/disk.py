"""Every operation that changes the disk, behind one small class.

Knows operating-system calls and nothing else: no policy, no error messages. Everything durable in
danlu goes through `DISK`, so that a test can put a failing disk in its place and try a crash at
each single operation. Methods raise OSError.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path

_PRIVATE = 0o600
Bytes = bytes | bytearray | memoryview


class Disk:
    """The real disk."""

    def create(self, path: Path) -> FileIO:
        """Create a new file for writing; fail if it exists."""
        return open(path, "xb", buffering=0)

    def write(self, file: FileIO, data: Bytes) -> None:
        """Write all of `data`; the system may take a large piece in several writes."""
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[file.write(rest) :]

    def sync(self, file: FileIO) -> None:
        """Return once the file's content is on the medium."""
        os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        """Return once the names in a folder are on the medium."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as fault:
            # Some network and FUSE file systems cannot do this for folders; nothing more can be.
            if fault.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)

    def append(self, path: Path, data: Bytes, *, private: bool = False) -> None:
        """Add bytes at the end of a file, created when missing; all of them, or none.

        private: nobody but its owner may read it.
        """
        opener = partial(os.open, mode=_PRIVATE if private else 0o666)
        with open(path, "ab", buffering=0, opener=opener) as file:
            if private and os.fstat(file.fileno()).st_mode & 0o077:  # of an earlier version
                os.fchmod(file.fileno(), _PRIVATE)
            size = os.fstat(file.fileno()).st_size
            try:
                self.write(file, data)
            except BaseException:
                with suppress(OSError):
                    self.cut(file, size)
                raise

    def append_only(self, path: Path) -> FileIO:
        """Open a file that another process adds to; only its owner may read it."""
        return open(path, "ab", buffering=0, opener=partial(os.open, mode=_PRIVATE))

    def cut(self, file: FileIO, size: int) -> None:
        """Shorten a file to `size` bytes."""
        os.ftruncate(file.fileno(), size)

    def sync_file(self, path: Path) -> None:
        """Return once the content of a file that is not open is on the medium."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name; an existing file or empty folder is replaced."""
        os.replace(source, target)

    def make_folder(self, path: Path) -> None:
        """Create a folder and its missing parents; an existing one is fine."""
        path.mkdir(parents=True, exist_ok=True)

    def link(self, target: str, path: Path) -> None:
        """Create a symbolic link at `path` that says `target`."""
        os.symlink(target, path)

    def remove(self, path: Path) -> None:
        """Remove a file or link; a missing one is fine."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder with all it holds."""
        shutil.rmtree(path)


DISK = Disk()
