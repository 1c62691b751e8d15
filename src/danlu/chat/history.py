"""What was typed, kept across sessions: one JSON text a line in DANLU_HOME."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import History

from danlu.errors import DanluError
from danlu.files.atomic import append_line, make_folder
from danlu.files.home import danlu_home


class KeptHistory(History):
    """Earlier entries, newest first. A disk that is full or read-only ends no chat."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self._path = path or danlu_home() / "chat_history.jsonl"

    def load_history_strings(self) -> Iterable[str]:
        """Read the file; lines that are no texts are passed over."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [text for line in reversed(lines) if (text := _text(line))]

    def store_string(self, string: str) -> None:
        """Add an entry to the file."""
        try:
            make_folder(self._path.parent)
            append_line(self._path, json.dumps(string), private=True)
        except DanluError:
            return


def _text(line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""
