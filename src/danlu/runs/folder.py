"""One run's folder, held by the one process that writes it.

Nothing of the user's is overwritten: a folder with something in it is refused, continued, or moved
away whole. Readers need no lock: they use manifest.py, metrics.py and checkpoints.py directly.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from danlu.errors import UsageError
from danlu.files.atomic import make_folder
from danlu.files.committed import TRASH, retire
from danlu.files.leftovers import clean_leftovers, is_leftover
from danlu.files.lock import LOCK_FILE, FolderLock, holder_of
from danlu.files.os_errors import explained
from danlu.language import _
from danlu.runs.manifest import RunManifest, is_run, read_manifest, write_manifest


class RunFolder:
    """A locked run. Use `create` or `reopen` to take it, and `with` or `close` to unlock it.

    moved_to: where the folder is now that was here before; None where there was none.
    """

    def __init__(self, path: Path, lock: ExitStack, *, moved_to: Path | None = None) -> None:
        self.path = path
        self.moved_to = moved_to
        self._lock = lock

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> RunFolder:
        """Take a new or empty folder for a run.

        overwrite: a folder that holds something is moved to `.trash` beside it. Raises UsageError
        without it, and when another process uses the folder.
        """
        make_folder(path)
        if not overwrite and not _is_empty(path) and not (path / LOCK_FILE).exists():
            raise _not_empty(path)  # before a lock file is left in a stranger's folder
        moved_to = None
        with ExitStack() as lock:
            lock.enter_context(FolderLock(path))
            if not _is_empty(path):
                if not overwrite:
                    raise _not_empty(path)
                moved_to = retire(_movable(path))
                lock.close()
                make_folder(path)
                lock.enter_context(FolderLock(path))
            clean_leftovers(path)
            return cls(path, lock.pop_all(), moved_to=moved_to)

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Take an existing run to go on with it. Raises UsageError when it is none or in use."""
        read_manifest(path)
        with ExitStack() as lock:
            lock.enter_context(FolderLock(path))
            clean_leftovers(path)
            return cls(path, lock.pop_all())

    @staticmethod
    def check_unused(path: Path) -> None:
        """Raise UsageError where a new run would find something in its folder; takes nothing.

        A folder that is in use is left to `create`, which names who uses it.
        """
        if path.is_dir() and not _is_empty(path) and holder_of(path) is None:
            raise _not_empty(path)

    def read(self) -> RunManifest:
        """Read run.json. Raises UsageError or DataError."""
        return read_manifest(self.path)

    def write(self, manifest: RunManifest) -> None:
        """Replace run.json."""
        write_manifest(self.path, manifest)

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _is_empty(path: Path) -> bool:
    with explained(path):
        names = [entry.name for entry in path.iterdir()]
    return all(name == LOCK_FILE or is_leftover(name) for name in names)


def _movable(path: Path) -> Path:
    real = path.resolve()
    if Path.cwd().is_relative_to(real) or Path.home().resolve().is_relative_to(real):
        raise UsageError(
            _("The folder {path} is not moved away.").format(path=path),
            why=_("It holds your home or the folder you are working in."),
            fix=_("Choose another --output_dir"),
        )
    return real


def _not_empty(path: Path) -> UsageError:
    fix = _(
        "Add --resume_from_checkpoint true to go on with that run, "
        "or --overwrite_output_dir to move it to {trash} and start anew."
    )
    if not is_run(path):
        fix = _(
            "Choose another --output_dir, or add --overwrite_output_dir to move what is there to "
            "{trash}"
        )
    return UsageError(
        _("The output folder {path} is not empty.").format(path=path),
        why=_("A new run would mix its files with those already there."),
        fix=fix.format(trash=path.parent / TRASH),
    )
