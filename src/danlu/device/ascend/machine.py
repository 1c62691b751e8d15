"""A machine with an Ascend, by its files: nodes, driver, firmware, CANN, NNAL. No torch here.

Answers at once and without any of them. Sources: CANN's installation guide (the folders of 8.x and
9.x, for root and for other users; the user group HwHiAiUser), its guide to containers (nodes,
mounted folders), and the version files that driver, firmware, CANN and NNAL bring.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from danlu.container import chip_nodes

ROOT = Path("/usr/local/Ascend")
DEV = Path("/dev")
# Beside the nodes of the chips; who computes needs all of them.
MANAGERS = ("davinci_manager", "devmm_svm", "hisi_hdc")
# The group that the driver's installer gives the nodes to, unless it is told another.
GROUP = "HwHiAiUser"
_SET_ENV = "set_env.sh"
_CONTAINER_FILES = (Path("/.dockerenv"), Path("/run/.containerenv"))
_VERSION = re.compile(
    r"^\s*(?:version\s*=\s*\[?|Ascend-cann-\w+\s*:\s*)([^\s\]]+)", re.IGNORECASE | re.MULTILINE
)
_FIRMWARE_RANGE = re.compile(r"^compatible_version_fw=\[([\d.]+),([\d.]+)\]", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class AscendMachine:
    """What of Ascend is on a machine. root: where its software is; dev: where its nodes are."""

    root: Path = field(default_factory=lambda: ROOT)
    dev: Path = field(default_factory=lambda: DEV)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    is_container: bool = field(default_factory=lambda: _in_container())

    @property
    def is_ascend(self) -> bool:
        """Whether anything of Ascend is here: a chip, a driver or CANN."""
        home = self.cann_home
        return bool(self.nodes) or self.has_driver or (home is not None and home.is_dir())

    @property
    def nodes(self) -> tuple[Path, ...]:
        """The nodes of the chips, by number."""
        return chip_nodes(self.dev)

    @property
    def missing_managers(self) -> tuple[Path, ...]:
        """The nodes that are needed beside those of the chips, and are not there."""
        return tuple(node for node in self._managers if not node.exists())

    @property
    def closed_nodes(self) -> tuple[Path, ...]:
        """The nodes that this user may not open."""
        there = (node for node in (*self._managers, *self.nodes) if node.exists())
        return tuple(node for node in there if not os.access(node, os.R_OK | os.W_OK))

    @property
    def _managers(self) -> tuple[Path, ...]:
        return tuple(self.dev / name for name in MANAGERS)

    @property
    def has_driver(self) -> bool:
        """Whether the driver's files are here; a container has them mounted."""
        return (self.root / "driver").is_dir()

    @property
    def driver(self) -> str:
        """The driver's version; empty where nothing says it."""
        return version_in(self.root / "driver" / "version.info")

    @property
    def firmware(self) -> str:
        """The firmware's version; a container rarely has the file that says it."""
        return version_in(self.root / "firmware" / "version.info")

    @property
    def firmware_range(self) -> tuple[str, str] | None:
        """The oldest and the newest firmware that the driver names as its own."""
        found = _FIRMWARE_RANGE.search(_text(self.root / "driver" / "version.info"))
        return (found[1], found[2]) if found else None

    @property
    def sourced_home(self) -> Path | None:
        """The folder of CANN whose set_env.sh was read; it may be gone."""
        chosen = self.environ.get("ASCEND_HOME_PATH") or self.environ.get("ASCEND_TOOLKIT_HOME")
        return Path(chosen) if chosen else None

    @property
    def cann_home(self) -> Path | None:
        """CANN's folder: the one whose set_env.sh was read, else where it is installed."""
        return self.sourced_home or next((home for home, _script in self._installed()), None)

    @property
    def set_env(self) -> Path | None:
        """The script that makes CANN known to a shell; None where CANN is not installed."""
        scripts = [script for _home, script in self._installed()]
        if home := self.sourced_home:
            # Of 8.x it stands above `latest`.
            scripts = [home / _SET_ENV, home.parent / _SET_ENV, *scripts]
        return next((script for script in scripts if script.is_file()), None)

    def _installed(self) -> Iterator[tuple[Path, Path]]:
        """Give the folders of CANN with their scripts, the one that is in use first."""
        roots = [self.root]
        if home := self.environ.get("HOME"):
            roots.append(Path(home) / "Ascend")
        for root in roots:
            toolkit = root / "ascend-toolkit"
            known = [root / "cann", *sorted(root.glob("cann-*"), reverse=True)]
            places = [(home, home / _SET_ENV) for home in known]
            places.insert(1, (toolkit / "latest", toolkit / _SET_ENV))
            yield from (place for place in places if place[0].is_dir())

    @property
    def cann(self) -> str:
        """CANN's version; empty where nothing says it."""
        home = self.cann_home
        if home is None:
            return ""
        places = (home / f"{platform.machine()}-linux", home)
        files = [place / "ascend_toolkit_install.info" for place in places]
        return next(filter(None, map(version_in, [*files, home / "version.info"])), "")

    @property
    def nnal_set_env(self) -> Path:
        """The script of NNAL, the library of which vllm-ascend needs a part; it may be missing."""
        return self.root / "nnal" / "atb" / _SET_ENV

    @property
    def nnal(self) -> str:
        """NNAL's version; empty where nothing says it."""
        home = Path(self.environ.get("ATB_HOME_PATH") or self.root / "nnal" / "atb" / "latest")
        # Its set_env.sh names a folder below: cxx_abi_0 or cxx_abi_1.
        places = (home, home.parent, home.parent.parent)
        return next(filter(None, (version_in(place / "version.info") for place in places)), "")


def _in_container() -> bool:
    """Tell whether this is a container, by what Docker, Podman and Kubernetes leave in one."""
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(
        file.exists() for file in _CONTAINER_FILES
    )


def owner_of(node: Path) -> tuple[str, str]:
    """Name a file's user and group; their numbers where they have no names here."""
    try:
        status = node.stat()
    except OSError:
        return "?", GROUP
    names = []
    for method, number in ((node.owner, status.st_uid), (node.group, status.st_gid)):
        try:
            names.append(method())
        except KeyError:
            names.append(str(number))
    return names[0], names[1]


def version_in(file: Path) -> str:
    """Return the version that a file of the driver or of CANN says; empty where it says none."""
    found = _VERSION.search(_text(file))
    return found[1] if found else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
