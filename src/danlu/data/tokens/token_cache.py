"""Tokens kept from one run to the next: a committed folder of flat arrays per data set.

An entry's name is a digest of everything its tokens depend on: the files' content, how they are
read, the rendering, the tokenizer, the language of its findings and FORMAT. So an entry is right or
not there; a damaged one is made anew. The cache may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from danlu.data.datasets import DataSet
from danlu.data.findings import Finding
from danlu.data.tokens.examples import Rendering
from danlu.data.tokens.token_table import TokenizedData
from danlu.errors import DanluError, DataError
from danlu.files.atomic import read_in_pieces
from danlu.files.committed import committed_folder, discard, verify
from danlu.files.leftovers import clean_leftovers, is_leftover
from danlu.language import _, chosen_language
from danlu.text.tokenizer import Tokenizer

# Raise it when the renderer, a policy or a check gives other results for the same files.
FORMAT = 4
# The oldest entries are removed while all together are larger.
MOST_BYTES = 2 << 30

_ARRAYS: tuple[tuple[str, type[np.generic]], ...] = (
    ("tokens", np.int32),
    ("supervised", np.bool_),
    ("example_ends", np.int64),
    ("row_ends", np.int64),
    ("lengths", np.int32),
    ("cut_tokens", np.int32),
    ("row_digests", np.uint64),
    ("question_digests", np.uint64),
)
_TEXTS = "rows.json"


class CacheEntry:
    """The cached tokens of some data sets. notes: what went wrong with them, as findings.

    A failing cache never stops a command: the tokens can be made again.
    """

    def __init__(
        self,
        cache: Path,
        datasets: Sequence[DataSet],
        tokenizer: Tokenizer,
        rendering: Rendering,
    ) -> None:
        self.notes: list[Finding] = []
        self._files = [file for dataset in datasets for file in dataset.files]
        self._before = _states(self._files)
        self._folder = cache / _key(datasets, self._files, tokenizer, rendering)

    def load(self) -> TokenizedData | None:
        """Return the tokens; None where they are missing or damaged."""
        if not self._folder.is_dir():
            return None
        try:
            verify(self._folder)
            texts = json.loads((self._folder / _TEXTS).read_bytes())
            arrays = {name: np.fromfile(self._folder / name, dtype) for name, dtype in _ARRAYS}
        except (DataError, OSError) as problem:
            self._note("cache_damaged", problem)
            return None
        return TokenizedData(
            **arrays,
            places=tuple(texts["places"]),
            findings=tuple(Finding(**finding) for finding in texts["findings"]),
        )

    def store(self, data: TokenizedData) -> None:
        """Store the tokens, unless the files have changed while they were read."""
        if _states(self._files) != self._before:
            return
        texts = {"places": data.places, "findings": [asdict(item) for item in data.findings]}
        try:
            with committed_folder(self._folder) as draft:
                for name, _dtype in _ARRAYS:
                    draft.write(name, getattr(data, name).tobytes())
                draft.write(_TEXTS, json.dumps(texts))
            _prune(self._folder)
        except DanluError as problem:
            self._note("cache_not_written", problem)

    def _note(self, kind: str, problem: Exception) -> None:
        self.notes.append(
            Finding(
                place=str(self._folder),
                kind=kind,
                what=_("The kept tokens are not used: {problem}.").format(
                    problem=str(problem).splitlines()[0]
                ),
                fix=_("They are made anew; nothing needs to be done."),
                severity="note",
            )
        )


def _states(files: Sequence[Path]) -> list[tuple[int, int]]:
    states = [file.stat() for file in files]
    return [(state.st_size, state.st_mtime_ns) for state in states]


def _key(
    datasets: Sequence[DataSet], files: Sequence[Path], tokenizer: Tokenizer, rendering: Rendering
) -> str:
    """Name an entry: 40 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr((FORMAT, chosen_language(), rendering, datasets)).encode())
    for file in (tokenizer.path, *files):
        digest.update(b"\0file\0")
        for piece in read_in_pieces(file):
            digest.update(piece)
    return digest.hexdigest()


def _prune(newest: Path) -> None:
    """Remove the oldest entries until all fit into MOST_BYTES; `newest` stays."""
    clean_leftovers(newest.parent)
    entries = [path for path in newest.parent.iterdir() if not is_leftover(path.name)]
    room = MOST_BYTES - _num_bytes(newest)
    for entry in sorted(set(entries) - {newest}, key=_age):
        room -= _num_bytes(entry)
        if room < 0:
            # Another process may have been faster.
            with suppress(DanluError):
                discard(entry)


def _age(entry: Path) -> float:
    try:
        return -entry.stat().st_mtime
    except OSError:
        return 0.0


def _num_bytes(entry: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in entry.iterdir())
    return 0
