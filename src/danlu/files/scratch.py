"""A file or a folder that is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu.files.os_errors import explained


@contextmanager
def scratch_file(text: str, *, suffix: str) -> Iterator[Path]:
    """Write a text where only this user can read it; the file is removed in the end."""
    folder = Path(tempfile.gettempdir())
    with explained(folder):
        handle, name = tempfile.mkstemp(prefix="danlu-", suffix=suffix)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that only this user can read; it is removed with all that is in it."""
    folder = Path(tempfile.gettempdir())
    with explained(folder):
        place = tempfile.TemporaryDirectory(prefix="danlu-", ignore_cleanup_errors=True)
    with place as name:
        yield Path(name)
