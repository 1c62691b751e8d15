"""`danlu scripts install`: write the tutorial's one-click scripts into a folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from danlu.data.example import ONE_CLICK, example_files
from danlu.errors import EXIT_OK, UsageError
from danlu.files.atomic import atomic_write, link_or_copy, make_folder
from danlu.language import _
from danlu.say import say
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings

FIRST = "1-8B推理-命令行.sh"
# What the scripts themselves leave beside them.
_KEY = "api_key.txt"
_PROGRAM = ".danlu-program"


class ScriptsSettings(Settings):
    """Write the one-click scripts into a folder; a file that was changed is asked about."""

    action: Literal["install"] = option(..., "install: write them", position=0)
    folder: str = option(..., "where they go, such as your home folder", position=1)
    yes: bool = option(False, "replace changed files without asking")


def run(argv: Sequence[str]) -> int:
    """Write what is missing, and what the user lets be replaced."""
    resolved = read_settings(ScriptsSettings, "scripts", argv)
    folder = Path(resolved.values.folder).expanduser().absolute()
    contents = {folder / name: source.read_bytes() for name, source in shipped().items()}
    kept = _kept(folder, contents, resolved.values.yes)
    for path, content in contents.items():
        if path not in kept and not _holds(path, content):
            make_folder(path.parent)
            atomic_write(path, content)
        if content.startswith(b"#!") and path not in kept:
            path.chmod(path.stat().st_mode | 0o111)
    program = Path(sys.executable).with_name("danlu")
    if program.exists():
        link_or_copy(program, folder / _PROGRAM)
    for path in kept:
        say(_("Kept as you have it: {path}").format(path=path))
    say(_("The scripts are in {folder}").format(folder=folder))
    say(_("Begin with: {command}").format(command=shlex.quote(str(folder / FIRST))))
    return EXIT_OK


def shipped() -> Mapping[str, Path]:
    """Return the files to write by their place in the folder: of the wheel, or of the clone."""
    if ONE_CLICK.is_dir():
        files = (path for path in ONE_CLICK.rglob("*") if path.is_file())
        return {str(path.relative_to(ONE_CLICK)): path for path in sorted(files)}
    clone = ONE_CLICK.parents[2]
    scripts = (
        path
        for path in sorted((clone / "scripts" / "oneclick").iterdir())
        if path.is_file() and path.name not in (_KEY, _PROGRAM)
    )
    # The rows that the script for fine-tuning learns until it names others.
    rows = {f"data/{name}": path for name, path in example_files().items()}
    return {**{path.name: path for path in scripts}, **rows}


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _kept(folder: Path, contents: Mapping[Path, bytes], replace: bool) -> set[Path]:
    """Return the files that were changed and stay. Raises UsageError where nobody can be asked."""
    changed = [path for path, content in contents.items() if path.exists()]
    changed = [path for path in changed if not _holds(path, contents[path])]
    if replace or not changed:
        return set()
    if not sys.stdin.isatty():
        raise UsageError(
            _("Nothing was written into {folder}.").format(folder=folder),
            why=_("These files were changed, and nobody can be asked: {names}").format(
                names=", ".join(str(path.relative_to(folder)) for path in changed)
            ),
            fix=f"danlu scripts install {shlex.quote(str(folder))} --yes",
        )
    return {path for path in changed if not _may_replace(path)}


def _may_replace(path: Path) -> bool:
    try:
        answer = input(_("{path} was changed. Replace it? [y/N] ").format(path=path))
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes", "是")
