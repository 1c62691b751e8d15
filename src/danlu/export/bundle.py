"""An offline bundle: all that installing danlu without a network needs, in one folder.

danlu's own files, the wheels for one kind of machine, models, and the checksums of it all: a
committed folder. `scripts/install.sh` in it installs from it. Which wheels these are is decided by
`tools/install` of the clone, where installing is; that program is started from here. Knows what a
clone and a pulled model consist of. Must not know pip. No torch here.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import danlu
from danlu.environment import users_environment
from danlu.errors import CapacityError, DanluError, EnvironmentFault, UsageError
from danlu.files.atomic import read_in_pieces
from danlu.files.committed import FolderDraft, committed_folder, verify
from danlu.files.os_errors import require_free
from danlu.language import _
from danlu.moving_line import Progress

_CLONE = Path(danlu.__file__).parents[2]
# What an installation is made of, beside the one-click scripts; what else lies in a clone stays.
_OWN = (
    "LICENSE", "README.md", "constraints.txt", "examples", "hatch_build.py", "native",
    "pyproject.toml", "scripts/install.sh", "scripts/llamafactory-cli", "scripts/on-path.sh",
    "src/danlu", "tools/install",
)  # fmt: skip
_KERNELS = "src/danlu/ops/native/libdanlu.so"
_READ_ME = "READ-ME-FIRST.md"
_TEMPLATE = Path(__file__).with_name("read_me_first.md")


@dataclass(frozen=True, kw_only=True)
class BundleTarget:
    """The machine that a bundle is for: processor as `uname -m` says it, Python as 3.11."""

    device: str
    machine: str
    python: str
    cann: str


def write_bundle(
    folder: Path,
    target: BundleTarget,
    *,
    models: Sequence[Path],
    scripts: Mapping[str, Path],
    command: str,
    progress: Progress,
) -> None:
    """Write the bundle as a new folder, which appears complete or not at all.

    models: folders of pulled models. scripts: the one-click scripts by name. command: what makes
    this bundle again. Raises UsageError where the folder is there already, EnvironmentFault where
    this danlu is no clone or wheels cannot be had, DataError for a damaged model, CapacityError.
    """
    if folder.exists():
        raise UsageError(
            _("The folder {folder} exists already.").format(folder=folder),
            why=_("A bundle is a new folder, with nothing else in it."),
            fix=_("Name another folder."),
        )
    if not (_CLONE / "tools" / "install").is_dir():
        raise EnvironmentFault(
            _("A bundle is made from a clone of danlu."),
            why=_("{folder} holds no tools/install; this danlu was installed as a package.").format(
                folder=_CLONE
            ),
            fix="git clone https://github.com/danlu-project/danlu && cd danlu && make setup",
        )
    files = {**_own_files(scripts), **_model_files(models)}
    if target.machine != platform.machine():
        # The kernels for this processor; that machine builds its own where it has a compiler.
        files.pop(_KERNELS, None)
    require_free(folder, sum(path.stat().st_size for path in files.values()))
    for model in models:
        progress(_("checking {name}").format(name=model.name), 0, 0)
        verify(model)
    with committed_folder(folder) as draft:
        progress(_("gathering the packages"), 0, 0)
        _gather(draft.path, target, command)
        for path in sorted(draft.path.rglob("*")):
            if path.is_file():
                draft.adopt(str(path.relative_to(draft.path)), _digest(path))
        _copy(files, draft, progress)
        text = _TEMPLATE.read_text(encoding="utf-8")
        names = ", ".join(model.name for model in models) or "starter"
        draft.write(_READ_ME, text.format(models=names, **vars(target)))


def _gather(folder: Path, target: BundleTarget, command: str) -> None:
    """Let the installer's program put the wheels and their record into the folder."""
    words = [
        *(sys.executable, "-m", "tools.install.gather", str(folder)),
        *("--device", target.device, "--machine", target.machine, "--python", target.python),
        *("--cann", target.cann, "--command", command),
    ]
    paths = [str(_CLONE), str(_CLONE / "src"), os.environ.get("PYTHONPATH", "")]
    environ = {**users_environment(), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        words, cwd=_CLONE, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise _as_said(done)


def _as_said(done: subprocess.CompletedProcess[str]) -> DanluError:
    """Make the error that the installer's program has put into three lines one of this process."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if len(lines) < 3 or done.returncode not in (2, 3, 4, 5):
        raise RuntimeError(done.stderr)
    kind = CapacityError if done.returncode == CapacityError.exit_code else EnvironmentFault
    return kind(lines[-3], why=lines[-2], fix=lines[-1])


def _own_files(scripts: Mapping[str, Path]) -> dict[str, Path]:
    own = {
        str(path.relative_to(_CLONE)): path for name in _OWN for path in _files_in(_CLONE / name)
    }
    return {**own, **{f"scripts/oneclick/{name}": path for name, path in scripts.items()}}


def _model_files(models: Sequence[Path]) -> dict[str, Path]:
    return {
        f"models/{model.name}/{path.relative_to(model)}": path
        for model in models
        for path in _files_in(model)
    }


def _files_in(place: Path) -> Iterator[Path]:
    for path in [place] if place.is_file() else sorted(place.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _copy(files: Mapping[str, Path], draft: FolderDraft, progress: Progress) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    done, total = 0, sum(sizes.values())
    for name, path in files.items():
        with draft.stream(name) as write:
            for piece in read_in_pieces(path):
                write(piece)
                done += len(piece)
                progress(_("copying the files"), done, total)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in read_in_pieces(path):
        digest.update(piece)
    return digest.hexdigest()
