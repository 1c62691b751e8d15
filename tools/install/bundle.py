"""The offline bundle that this folder may be: what it is for, whether it is whole, its models.

`danlu bundle` writes one (src/danlu/export/bundle.py), `tools.install.gather` its wheels and its
record. Knows where things lie in it. Must not know how torch is chosen.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import DataError, EnvironmentFault
from danlu.files.committed import MANIFEST, committed_folder, verify
from danlu.files.home import danlu_home
from danlu.files.os_errors import explained
from danlu.language import _
from tools.install.builds import BUILDS, ROOT, TorchChoice, existing_pair
from tools.install.environment import STAMP

RECORD = "bundle.json"
WHEELS = "wheels"
_MODELS = ROOT / "models"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What bundle.json says. command: what made the bundle, where there was a network."""

    device: str
    machine: str
    python: str
    requirements: tuple[str, ...]
    pins: Mapping[str, str]
    command: str


def bundle_here() -> Bundle | None:
    """Read the record of the bundle that this folder is; None where it is none."""
    file = ROOT / RECORD
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return Bundle(**{**record, "requirements": tuple(record["requirements"])})
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(
            _("{path} is damaged or incomplete.").format(path=file),
            why=_("It is the record of the bundle, and cannot be read."),
            fix=_("Copy the file again from where the bundle was made."),
        ) from fault


def check(bundle: Bundle) -> None:
    """Raise EnvironmentFault where it is for other machines, DataError where a file is damaged."""
    here = platform.machine()
    if here != bundle.machine:
        raise EnvironmentFault(
            _("The bundle is for other machines."),
            why=_("It holds packages for {theirs}; this is {here}.").format(
                theirs=bundle.machine, here=here
            ),
            fix=_("Make one for this machine, where there is a network: {command}").format(
                command=bundle.command.replace(f"--machine {bundle.machine}", f"--machine {here}")
            ),
        )
    if STAMP.exists():
        return
    print(_("checking every file of the bundle"), flush=True)
    try:
        verify(ROOT)
    except DataError as fault:
        raise DataError(
            fault.what,
            why=fault.why,
            fix=_(
                "Copy it again from where the bundle was made; there this makes it anew: {command}"
            ).format(command=bundle.command),
        ) from fault


def choice_of(bundle: Bundle, installed: Mapping[str, str]) -> TorchChoice:
    """Choose what the bundle holds; a torch and torch_npu that are here stay."""
    words = ("--no-index", "--find-links", str(ROOT / WHEELS))
    if "torch-npu" in installed:
        return existing_pair(installed, words)
    return TorchChoice(
        reason=_("packages: from this bundle, for {device}; no network is asked").format(
            device=bundle.device
        ),
        pip_words=words,
        requirements=bundle.requirements,
        pins=bundle.pins,
        free_gib=BUILDS["cpu"]["free_gib"],
    )


def place_models() -> None:
    """Put the bundle's models where danlu finds them by name; those that are there stay."""
    for folder in sorted(_MODELS.glob("*/")):
        target = danlu_home() / "models" / folder.name
        if (target / MANIFEST).exists():
            continue
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        with committed_folder(target) as draft:
            for name, entry in entries.items():
                with explained(target / name, entry["size"]):
                    _link_or_copy(folder / name, draft.path / name)
                draft.adopt(name, entry["sha256"])
        print(_("model {name}: in {folder}").format(name=folder.name, folder=target))


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, which takes no space; copy it where the disk is another one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
