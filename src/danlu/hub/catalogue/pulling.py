"""Pulling a published model: resumed after a cut, each file verified, shown complete or not at all.

Files grow in a folder of their own, which a later pull goes on with; only when the digest of each
agrees with the hub's listing does the folder get the model's name. No torch here.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from danlu.errors import CapacityError, DanluError, EnvironmentFault
from danlu.files.atomic import make_folder, read_in_pieces
from danlu.files.committed import commit_gathered
from danlu.files.download import OtherFile, download
from danlu.files.leftovers import remove_any
from danlu.files.lock import FolderLock
from danlu.files.os_errors import explained, free_bytes
from danlu.hub.catalogue.published import PublishedModel
from danlu.hub.catalogue.sites import RemoteFile, Site
from danlu.hub.names import STARTER
from danlu.hub.store import complete_folder, models_folder, stored_models, unfinished_folder
from danlu.language import _, joined
from danlu.units import readable_bytes

# How often the listing is read again because a file is not as it says.
_LISTINGS = 3


@dataclass(frozen=True, kw_only=True)
class PullAsks:
    """A hub is asked for its list of files."""

    site: Site


@dataclass(frozen=True, kw_only=True)
class PullBegun:
    """From where, into which folder, and how much; present_bytes are there from before."""

    site: Site
    folder: Path
    num_files: int
    num_bytes: int
    present_bytes: int


@dataclass(frozen=True, kw_only=True)
class PullProgress:
    """done of total bytes: of the whole model while downloading, of one file while verifying."""

    stage: Literal["download", "verify"]
    file: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class PulledAgain:
    """A file that was not what the listing says; it is downloaded again."""

    file: str


PullEvent = PullAsks | PullBegun | PullProgress | PulledAgain


class _WrongContent(Exception):
    def __init__(self, file: RemoteFile) -> None:
        super().__init__(file.name)
        self.file = file


def pull(model: PublishedModel, sites: Sequence[Site]) -> Generator[PullEvent, None, Path]:
    """Download a model from the first hub that lists it; return its folder.

    Raises EnvironmentFault where no hub answers or one keeps sending other files, CapacityError
    where the disk is too small, UsageError where another process pulls the same model. What came
    stays, and the next pull goes on with it.
    """
    site, files = yield from _first_listing(model, sites)
    gathered, target = unfinished_folder(model.name), complete_folder(model.name)
    make_folder(gathered)
    with FolderLock(gathered):
        present = sum(_present_bytes(gathered, file) for file in files)
        total = sum(file.size for file in files)
        _check_space(model, total - present)
        yield PullBegun(
            site=site,
            folder=target,
            num_files=len(files),
            num_bytes=total,
            present_bytes=present,
        )
        known: dict[tuple[str, str], str] = {}
        for left in reversed(range(_LISTINGS)):
            try:
                digests = yield from _gather(files, gathered, known)
                break
            except _WrongContent as wrong:
                if not left:
                    raise _keeps_differing(model, site, wrong.file) from None
                yield PulledAgain(file=wrong.file.name)
                files = site.listing(model.repository)
        commit_gathered(gathered, target, digests)
    return target


def _first_listing(
    model: PublishedModel, sites: Sequence[Site]
) -> Generator[PullEvent, None, tuple[Site, tuple[RemoteFile, ...]]]:
    reasons = []
    for site in sites:
        yield PullAsks(site=site)
        try:
            return site, site.listing(model.repository)
        except EnvironmentFault as fault:
            reasons.append(_("{name}: {reason}").format(name=site.name, reason=fault.why))
    here = ", ".join([STARTER, *(one.name for one in stored_models() if one.is_complete)])
    raise EnvironmentFault(
        _("{name} could not be pulled.").format(name=model.name),
        why=joined(*reasons),
        fix=_("On this machine are: {names}. With network: danlu pull {name}").format(
            names=here, name=model.name
        ),
    )


def _gather(
    files: Sequence[RemoteFile], folder: Path, known: dict[tuple[str, str], str]
) -> Generator[PullEvent, None, dict[str, str]]:
    """Download what is missing and verify everything; return the sha256 of each file.

    known: sha256 of what this process has verified, by name and the hub's digest; added to.
    """
    total = sum(file.size for file in files)
    for file in files:
        if (file.name, file.digest) in known:
            continue
        others = sum(_present_bytes(folder, other) for other in files if other is not file)
        place = folder / file.name
        try:
            for have in download(file.address, place, size=file.size):
                yield PullProgress(
                    stage="download", file=file.name, done=others + have, total=total
                )
        except OtherFile:
            _remove(place)
            raise _WrongContent(file) from None
        known[file.name, file.digest] = yield from _verified(file, place)
    return {file.name: known[file.name, file.digest] for file in files}


def _verified(file: RemoteFile, place: Path) -> Generator[PullEvent, None, str]:
    """Compare a file with its digest; return its sha256. A wrong one is removed."""
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    done = 0
    for piece in read_in_pieces(place):
        sha256.update(piece)
        if file.algorithm == "git":
            git.update(piece)
        done += len(piece)
        yield PullProgress(stage="verify", file=file.name, done=done, total=file.size)
    found = sha256.hexdigest()
    if file.digest != (git.hexdigest() if file.algorithm == "git" else found):
        _remove(place)
        raise _WrongContent(file)
    return found


def _present_bytes(folder: Path, file: RemoteFile) -> int:
    place = folder / file.name
    return min(place.stat().st_size, file.size) if place.is_file() else 0


def _remove(place: Path) -> None:
    with explained(place):
        remove_any(place)


def _check_space(model: PublishedModel, missing_bytes: int) -> None:
    free = free_bytes(models_folder())
    if missing_bytes <= free:
        return
    raise CapacityError(
        _("{name} does not fit on the disk of {folder}.").format(
            name=model.name, folder=models_folder()
        ),
        why=_("{needed} are needed, {free} are free.").format(
            needed=readable_bytes(missing_bytes), free=readable_bytes(free)
        ),
        fix=_("Free some space (danlu rm NAME), or name another disk: {command}").format(
            command=f"DANLU_HOME=/DISK/danlu danlu pull {shlex.quote(model.name)}"
        ),
    )


def _keeps_differing(model: PublishedModel, site: Site, file: RemoteFile) -> DanluError:
    other = "modelscope" if site.source == "huggingface" else "huggingface"
    return EnvironmentFault(
        _("{name} could not be pulled.").format(name=model.name),
        why=_("{site} keeps sending a {file} that is not what its listing says.").format(
            site=site.name, file=file.name
        ),
        fix=f"danlu pull {model.name} --source {other}",
    )
