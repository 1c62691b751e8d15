"""Data sets on a hub: downloaded by the hub's own library, then read as files.

Knows Hugging Face and ModelScope, and which files of a repository are meant (by the names that the
library `datasets` goes by). Must not know what the rows mean. The libraries keep what they download
in their own caches.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.data.dataset_info import Entry
from danlu.data.reading.rows import READERS, is_data_file, of_one_type
from danlu.errors import EnvironmentFault, UsageError
from danlu.language import _
from danlu.reasons import as_sentence, reason_of

# Without this the libraries wait and try again for minutes where there is no network.
_REACH_SECONDS = 10
_PATTERNS = [f"*{suffix}" for suffix in READERS]
_SPLITS = ("train", "test", "val", "dev", "eval")  # what the names of splits begin with


@dataclass(frozen=True, kw_only=True)
class _Hub:
    """command: how to download a data set by hand."""

    name: str
    library: str
    address: str
    command: str


_HUGGING_FACE = _Hub(
    name="Hugging Face",
    library="huggingface_hub",
    address="https://huggingface.co",
    command="hf download {repository} --repo-type dataset --local-dir {folder}",
)
_MODELSCOPE = _Hub(
    name="ModelScope",
    library="modelscope",
    address="https://www.modelscope.cn",
    command="modelscope download --dataset {repository} --local_dir {folder}",
)


def hub_files(name: str, entry: Entry) -> tuple[Path, ...] | None:
    """Download the data files of an entry; None where the entry names no hub.

    ModelScope is used with USE_MODELSCOPE_HUB=1, or where it is the only hub named, as in
    LLaMA-Factory. Raises EnvironmentFault for a missing library or network, UsageError where it is
    unclear which files are meant.
    """
    prefers_modelscope = os.environ.get("USE_MODELSCOPE_HUB", "").lower() in ("1", "true")
    if entry.ms_hub_url and (prefers_modelscope or not entry.hf_hub_url):
        folder = _downloaded(_MODELSCOPE, entry.ms_hub_url)
    elif entry.hf_hub_url:
        endpoint = os.environ.get("HF_ENDPOINT") or _HUGGING_FACE.address
        folder = _downloaded(replace(_HUGGING_FACE, address=endpoint), entry.hf_hub_url)
    else:
        return None
    return _meant(name, folder, entry)


def _downloaded(hub: _Hub, repository: str) -> Path:
    try:
        library: Any = importlib.import_module(hub.library)
    except ImportError as problem:
        raise EnvironmentFault(
            _("The data set is on {hub}, whose library is not installed.").format(hub=hub.name),
            why=as_sentence(reason_of(problem)),
            fix=f"pip install {hub.library}",
        ) from problem
    offline = _why_unreachable(hub.address)
    if offline is not None and hub is _MODELSCOPE:
        raise _not_downloaded(hub, repository, offline)
    try:
        if hub is _MODELSCOPE:
            return Path(library.dataset_snapshot_download(repository, allow_patterns=_PATTERNS))
        # Without network an earlier download is used.
        folder = library.snapshot_download(
            repository,
            repo_type="dataset",
            allow_patterns=_PATTERNS,
            local_files_only=offline is not None,
        )
    except Exception as fault:  # the libraries' errors have no common base
        raise _not_downloaded(hub, repository, offline or _first_line(fault)) from fault
    return Path(folder)


def _why_unreachable(address: str) -> str | None:
    """Ask the hub for an answer of any kind, for a few seconds; return why there is none."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=_REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError, HTTPException) as fault:
        return _("{address} does not answer: {reason}.").format(
            address=address, reason=_first_line(getattr(fault, "reason", fault))
        )
    return None


def _not_downloaded(hub: _Hub, repository: str, why: str) -> EnvironmentFault:
    folder = repository.rpartition("/")[2]
    return EnvironmentFault(
        _("The data set {repository} could not be downloaded from {hub}.").format(
            repository=repository, hub=hub.name
        ),
        why=why,
        fix=_(
            "Where there is network, run {command} and give the folder {folder} as --dataset"
        ).format(
            command=hub.command.format(
                repository=shlex.quote(repository), folder=shlex.quote(folder)
            ),
            folder=shlex.quote(folder),
        ),
    )


def _meant(name: str, root: Path, entry: Entry) -> tuple[Path, ...]:
    """Choose the files of the entry's folder, subset and split."""
    base = root / (entry.folder or "")
    files = [file.relative_to(base) for file in sorted(base.rglob("*")) if is_data_file(file)]
    words = {file: _split_words(file) for file in files}
    subset = entry.subset
    chosen = [
        file
        for file in files
        if subset is None or subset in file.parts or file.stem.startswith(subset)
    ]
    # Where no file names a split, all of them are the train split.
    if entry.split != "train" or any(
        word.startswith(_SPLITS) for file in chosen for word in words[file]
    ):
        chosen = [file for file in chosen if entry.split in words[file]]
    if not chosen:
        raise UsageError(
            _("The data set {name} has no files of the split {split}.").format(
                name=name, split=entry.split
            ),
            why=_("{folder} holds {files}.").format(
                folder=base, files=", ".join(map(str, files)) or "-"
            ),
            fix=_("Correct folder, subset or split of the entry, or write a file as file_name."),
        )
    return of_one_type([base / file for file in chosen], base)


def _split_words(inside: Path) -> set[str]:
    """Return what may name a split in a path: its words, or all that precedes a shard's number."""
    shard = re.match(r"(.+)-\d{5}-of-\d{5}", inside.name)
    words = re.split(r"[^A-Za-z0-9]+", inside.stem)
    return {*inside.parent.parts, *([shard[1]] if shard else words)}


def _first_line(fault: BaseException) -> str:
    return reason_of(fault)
