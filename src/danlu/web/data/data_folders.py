"""Where the studio's data sets lie, and how much may be uploaded. Must not know the studio.

A data set is named by an id that was listed; no path ever comes from a browser. What is uploaded
gets a folder and a file name of the server's own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from danlu.data.example import ROWS_FILE, example_files
from danlu.data.reading.rows import is_data_file
from danlu.data.settings import DataSettings
from danlu.errors import DanluError, UsageError
from danlu.files.home import danlu_home
from danlu.files.json_file import read_json_file
from danlu.language import _

EXAMPLE, TAUGHT = "example", "taught"
UPLOAD_FILE = "upload.json"
MOST_UPLOAD_BYTES = 1 << 30
_MOST_LISTED = 10_000
_OPTIONS = re.compile(rf"--({'|'.join(DataSettings.model_fields)})\b")
# mix: taught rows and older ones, put together for one training; it is not listed.
Kind = Literal["example", "upload", "folder", "taught", "mix"]


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A data set that the studio knows. file: its rows, which nothing here ever changes.

    folder: what the studio keeps of it; it may not exist yet. created: seconds since 1970.
    """

    id: str
    name: str
    kind: Kind
    file: Path
    created: float = 0.0

    @property
    def folder(self) -> Path:
        """Where its uploaded file, its columns and its derived rows lie."""
        return sets_folder() / self.id

    @property
    def stamp(self) -> tuple[int, int]:
        """What changes with the file's content: size and time. Raises UsageError."""
        try:
            state = self.file.stat()
        except OSError:
            raise _no_set() from None
        return state.st_size, state.st_mtime_ns

    def in_page_words(self, text: str) -> str:
        """Say what a command's user is told as a page's user knows it.

        The data set instead of the server's own files, the view of its columns instead of
        dataset_info.json, settings without the dashes of options.
        """
        if "iconv " in text:  # a command for a terminal, which would name files that nobody sees
            return _("Save the file as UTF-8 and upload it again.")
        text = _OPTIONS.sub(r"\1", text)
        text = text.replace("dataset_info.json", _("the view Columns"))
        text = text.replace(str(self.file), self.name)
        return re.sub(re.escape(f"{self.folder}/") + r"[\w.-]+", self.name, text)


@dataclass(kw_only=True)
class DataFolders:
    """Knows the data sets. below: the folder whose files were registered at the server's start.

    num_rows: how many rows a file has, where they have been counted, by its path and stamp.
    """

    below: Path | None = None
    max_upload_bytes: int = MOST_UPLOAD_BYTES
    num_rows: dict[tuple[Path, tuple[int, int]], int] = field(default_factory=dict)

    @classmethod
    def of(cls, data_dir: str | None, max_upload_bytes: int = MOST_UPLOAD_BYTES) -> DataFolders:
        """Take the server's settings. Raises UsageError for a folder that is missing."""
        below = None
        if data_dir is not None:
            below = Path(data_dir).expanduser().absolute()
            if not below.is_dir():
                raise UsageError(
                    _("The folder {folder} does not exist.").format(folder=below),
                    why=_("The studio is to show its data files."),
                    fix=_("Correct --data_dir, or create the folder."),
                )
        return cls(below=below, max_upload_bytes=max_upload_bytes)

    def all(self) -> Iterator[KnownSet]:
        """Yield what there is: taught rows, uploads (the latest first), the folder, the example."""
        if taught_file().is_file():
            yield KnownSet(id=TAUGHT, name=taught_file().name, kind="taught", file=taught_file())
        made = sorted(_made_here(), key=lambda known: known.created, reverse=True)
        yield from (known for known in made if known.kind != "mix")
        yield from self._registered()
        example = example_files()[ROWS_FILE]
        if example.is_file():
            yield KnownSet(id=EXAMPLE, name=example.name, kind="example", file=example)

    def find(self, id_of_set: str) -> KnownSet:
        """Return a data set by its id, one that is not listed too. Raises UsageError."""
        for known in (*self.all(), *_made_here()):
            if known.id == id_of_set:
                return known
        raise _no_set()

    def _registered(self) -> Iterator[KnownSet]:
        """Yield the data files in the registered folder; links may lead anywhere: left out."""
        if self.below is None:
            return
        try:
            with os.scandir(self.below) as entries:
                files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError:
            return
        for name in sorted(files)[:_MOST_LISTED]:
            file = self.below / name
            if is_data_file(file):
                digest = hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()
                yield KnownSet(id=f"folder-{digest}", name=name, kind="folder", file=file)


def sets_folder() -> Path:
    """Return the folder that holds a folder for each data set."""
    return danlu_home() / "studio" / "data"


def taught_file() -> Path:
    """Return the file to which corrected answers are added."""
    return danlu_home() / "studio" / "taught.jsonl"


def _made_here() -> Iterator[KnownSet]:
    """Yield uploads and mixes: folders with a record that says what they are."""
    try:
        with os.scandir(sets_folder()) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError:
        return
    for name in names:
        record = sets_folder() / name / UPLOAD_FILE
        if record.is_file():
            try:
                fields = read_json_file(record, fix=_("Upload the file again.")).fields
            except DanluError:
                continue
            known = _of_record(name, fields)
            if known is not None:
                yield known


def _of_record(name: str, fields: Any) -> KnownSet | None:
    shown, file, created = (fields.get(key) for key in ("name", "file", "created"))
    if not (isinstance(shown, str) and isinstance(file, str) and "/" not in file):
        return None
    return KnownSet(
        id=name,
        name=shown,
        kind="mix" if fields.get("kind") == "mix" else "upload",
        file=sets_folder() / name / file,
        created=float(created) if isinstance(created, int | float) else 0.0,
    )


def _no_set() -> UsageError:
    return UsageError(
        _("There is no such data set."),
        why=_("It may have been removed."),
        fix=_("Load the list of data sets again."),
    )
