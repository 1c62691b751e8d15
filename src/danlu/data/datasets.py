"""What `--dataset` means: data files, folders and names in dataset_info.json; rows as they come.

Rows are read when they are asked for, in the order of the files. Every row gives one item, usable
or not, so that all counts of rows agree.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from danlu.data.dataset_info import INFO_FILE, Entry, entry_of, read_info
from danlu.data.findings import BadRow, Finding, Remarks
from danlu.data.formats.format import Format
from danlu.data.formats.recognise import recognise
from danlu.data.reading.hubs import hub_files
from danlu.data.reading.rows import (
    FATAL_KINDS,
    READERS,
    RawRow,
    data_files,
    is_data_file,
    read_rows,
)
from danlu.data.settings import DataSettings
from danlu.errors import UsageError
from danlu.language import _
from danlu.text.conversation import Conversation


@dataclass(frozen=True, kw_only=True)
class Row:
    """A usable row: where it stands, the conversation it holds, and what that does not show."""

    place: str
    conversation: Conversation
    remarks: Remarks = field(default_factory=Remarks)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Rows that are learned together.

    origin: the sentence that says why the rows are read in this format. num_samples: draw this many
    rows by `seed`; where there are fewer, some are drawn more than once. max_samples: of these, the
    first ones only.
    """

    name: str
    files: tuple[Path, ...]
    format: Format
    origin: str
    num_samples: int | None = None
    max_samples: int | None = None
    seed: int = 42

    def rows(self) -> Iterator[Row | Finding]:
        """Yield one item a row, streaming; a row that cannot be used is a Finding.

        After a Finding of FATAL_KINDS the rest of its file is unknown. Raises EnvironmentFault.
        """
        for raw in self._chosen_rows():
            if isinstance(raw, Finding):
                yield raw
                continue
            try:
                conversation, remarks = self.format.read_row(raw.content)
            except BadRow as problem:
                yield problem.at(raw.place)
            else:
                yield Row(place=raw.place, conversation=conversation, remarks=remarks)

    def describe(self) -> str:
        """Say in one sentence what was found, in which format, and why it is read so."""
        if len(self.files) == 1:
            files = str(self.files[0])
        else:
            files = _("{count} files in {folder}").format(
                count=len(self.files), folder=self.files[0].parent
            )
        if self.name == files:
            return _("{files}: {formatting} rows, {origin}.").format(
                files=files, formatting=self.format.formatting, origin=self.origin
            )
        return _("{name}: {formatting} rows in {files}, {origin}.").format(
            name=self.name, formatting=self.format.formatting, files=files, origin=self.origin
        )

    def _chosen_rows(self) -> Iterator[RawRow | Finding]:
        if self.num_samples is None:
            most = self.max_samples
            # More than the system can count is all of them.
            yield from islice(self._all_rows(), None if most is None else min(most, sys.maxsize))
            return
        times = self._times()
        for index, raw in enumerate(self._all_rows()):
            is_fatal = isinstance(raw, Finding) and raw.kind in FATAL_KINDS
            for _repeat in range(max(times[index], int(is_fatal))):
                yield raw

    def _all_rows(self) -> Iterator[RawRow | Finding]:
        return chain.from_iterable(map(read_rows, self.files))

    def _times(self) -> Counter[int]:
        """Say how often each row is drawn; the order stays that of the file, so rows can stream."""
        import numpy as np

        total = sum(1 for _row in self._all_rows())
        generator = np.random.default_rng(self.seed)
        drawn = generator.permutation(total)[: self.num_samples].tolist()
        if total and self.num_samples:
            drawn += generator.choice(total, max(0, self.num_samples - total)).tolist()
        return Counter(drawn[: self.max_samples])


def rows_of(datasets: Iterable[DataSet]) -> Iterator[Row | Finding]:
    """Yield the rows of several data sets, one item a row, as `DataSet.rows` does."""
    return chain.from_iterable(dataset.rows() for dataset in datasets)


def named_datasets(names: str, settings: DataSettings) -> list[DataSet]:
    """Find data sets as `find_datasets` does, with a command's settings."""
    return find_datasets(
        names,
        Path(settings.dataset_dir),
        max_samples=settings.max_samples,
        seed=settings.seed,
    )


def find_datasets(
    names: str, dataset_dir: Path, *, max_samples: int | None, seed: int
) -> list[DataSet]:
    """Find the data sets of a comma-separated list: names in dataset_info.json, else paths.

    A `~` at the beginning of `dataset_dir` is the user's home, as in a path.
    Raises UsageError for what does not exist or is not supported, DataError for rows in no known
    format, EnvironmentFault where a file or hub cannot be reached.
    """
    wanted = [name for name in (name.strip() for name in names.split(",")) if name]
    if not wanted:
        raise UsageError(
            _("No data set is named."),
            why=_("--dataset is empty."),
            fix=_("Give the path of a data file: --dataset my.jsonl"),
        )
    if str(dataset_dir) == "ONLINE" or str(dataset_dir).startswith("REMOTE:"):
        raise UsageError(
            _("--dataset_dir {value} is not supported.").format(value=dataset_dir),
            why=_("danlu reads data sets from files, or from a hub where an entry says so."),
            fix=_("Write {entry} into {file}, and give its folder as --dataset_dir").format(
                entry='{"NAME": {"hf_hub_url": "OWNER/NAME"}}', file=INFO_FILE
            ),
        )
    dataset_dir = Path(os.path.expanduser(dataset_dir))
    entries = read_info(dataset_dir / INFO_FILE)
    return [
        replace(_find(name, dataset_dir, entries), max_samples=max_samples, seed=seed)
        for name in wanted
    ]


def _find(name: str, dataset_dir: Path, entries: Mapping[str, Any]) -> DataSet:
    info = dataset_dir / INFO_FILE
    if name in entries:
        entry = entry_of(name, entries[name], info)
        files = _files_of(name, entry, info)
    else:
        entry = Entry()
        files = data_files(_path_of(name, dataset_dir, entries))
    if entry.format is None:
        form, origin = recognise(name, chain.from_iterable(map(read_rows, files)))
    else:
        form, origin = entry.format, _("as {info} says").format(info=info)
    return DataSet(
        name=name, files=files, format=form, origin=origin, num_samples=entry.num_samples
    )


def _files_of(name: str, entry: Entry, info: Path) -> tuple[Path, ...]:
    # A hub before a file, as in LLaMA-Factory.
    downloaded = hub_files(name, entry)
    if downloaded is not None:
        return downloaded
    if entry.file_name is not None:
        return data_files(info.parent / entry.file_name)
    raise UsageError(
        _("The data set {name} cannot be read.").format(name=name),
        why=_("In {info}, it has no source.").format(info=info),
        fix=_("Add a file_name, an hf_hub_url or an ms_hub_url."),
    )


def _path_of(name: str, dataset_dir: Path, entries: Mapping[str, Any]) -> Path:
    path = Path(os.path.expanduser(name))
    for candidate in (path, dataset_dir / path):
        if os.path.exists(candidate):  # False too for what can be no path
            return candidate
    if path.suffix.lower() in READERS:
        raise UsageError(
            _("The data file {file} does not exist.").format(file=path),
            why=_("There is no such file, and none in {folder} either.").format(folder=dataset_dir),
            fix=_("Check --dataset and --dataset_dir."),
        )
    known = [*entries, *(file.name for file in dataset_dir.glob("*") if is_data_file(file))]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise UsageError(
        _("There is no data set {name}.").format(name=name),
        why=_("It is no file or folder, and {info} does not list it.").format(
            info=dataset_dir / INFO_FILE
        ),
        fix=_("Did you mean {nearest}?").format(nearest=nearest[0])
        if nearest
        else _("Give the path of a data file, or the folder of {file} as --dataset_dir").format(
            file=INFO_FILE
        ),
    )
